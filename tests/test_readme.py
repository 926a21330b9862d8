"""What the README shows works as shown."""

import re
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_first_example_prints_what_was_sent(tmp_path: Path) -> None:
    example = re.search(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert example is not None
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example[1]],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"id": 1} customer-7 1\n', "")


def test_the_worker_handles_and_drains_at_sigterm(tmp_path: Path) -> None:
    example = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)[1]
    running = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", example],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with running:
        assert running.stdout is not None
        assert running.stdout.readline() == "paid 1\n"
        running.send_signal(signal.SIGTERM)
        said, errors = running.communicate(timeout=30)
    assert (running.returncode, said, errors) == (0, "", "")


def test_every_make_target_in_the_documents_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE))
    documents = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", documents, re.MULTILINE))
    assert {"demo", "test", "lint"} <= named <= targets


def test_every_link_into_the_repository_leads_somewhere() -> None:
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        local = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
        assert local
        assert [target for target in local if not (ROOT / target).exists()] == []
