"""Environments of peers are made once, again after an interruption, and refused with a reason that helps."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from unimq_bench.rows import environments
from unimq_bench.rows.catalogue import Entry
from unimq_bench.rows.environments import NoEnvironment, folder_of, home, interpreter_of


def entry(*requirements: str) -> Entry:
    return Entry(
        library="a-peer", kind="peer", module="a.module", backends=frozenset({"memory"}), requirements=requirements
    )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNIMQ_BENCH_HOME", str(tmp_path / "bench"))
    return tmp_path / "bench"


@pytest.fixture
def package(tmp_path: Path) -> str:
    """A requirement that no registry is needed for."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "a_peer.py").write_text("ANSWER = 42\n")
    wheel = source / "a_peer-1.0-py3-none-any.whl"
    build = (
        "import sys, zipfile\n"
        "with zipfile.ZipFile(sys.argv[1], 'w') as wheel:\n"
        "    wheel.write(sys.argv[2], 'a_peer.py')\n"
        "    info = 'a_peer-1.0.dist-info'\n"
        "    wheel.writestr(f'{info}/METADATA', 'Metadata-Version: 2.1\\nName: a-peer\\nVersion: 1.0\\n')\n"
        "    wheel.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n"
        "    wheel.writestr(f'{info}/RECORD', '')\n"
    )
    subprocess.run([sys.executable, "-c", build, str(wheel), str(source / "a_peer.py")], check=True)
    return f"a-peer @ {wheel.as_uri()}"


def test_a_row_without_requirements_runs_in_this_interpreter(folder: Path) -> None:
    assert interpreter_of(entry()) == sys.executable
    assert not folder.exists()


@pytest.mark.slow
def test_an_environment_is_made_once_and_holds_the_peer_alone(
    package: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(interpreter_of(entry(package)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (python,) = set(found)
    program = "import a_peer, importlib.util as u; print(a_peer.ANSWER, u.find_spec('unimq'), u.find_spec('msgspec'))"
    done = subprocess.run([python, "-I", "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["42", "None", "None"]

    def refuse(*_: object) -> None:
        raise AssertionError("it is made again")

    monkeypatch.setattr(environments, "_make", refuse)
    assert interpreter_of(entry(package)) == python
    assert len([each for each in folder.iterdir() if each.is_dir()]) == 1


@pytest.mark.slow
def test_one_that_was_interrupted_is_made_anew(package: str) -> None:
    half = folder_of("a-peer", (package,))
    (half / "bin").mkdir(parents=True)
    (half / "bin" / "python").write_text("broken")
    python = interpreter_of(entry(package))
    subprocess.run([python, "-I", "-c", "import a_peer"], check=True)


@pytest.mark.slow
def test_what_pip_says_is_told_and_nothing_is_taken_for_complete(tmp_path: Path) -> None:
    wrong = entry(f"a-peer @ {(tmp_path / 'missing.whl').as_uri()}")
    with pytest.raises(NoEnvironment, match=r"no environment for the row a-peer: pip install a-peer @ file:.*missing"):
        interpreter_of(wrong)
    with pytest.raises(NoEnvironment, match="a-peer"):
        interpreter_of(wrong)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNIMQ_BENCH_HOME", str(tmp_path / "file" / "below"))
    with pytest.raises(NoEnvironment, match=r"cannot be written.*UNIMQ_BENCH_HOME names another folder"):
        interpreter_of(entry("anything"))


def test_a_changed_requirement_is_another_environment() -> None:
    assert folder_of("a-peer", ("x==1",)) != folder_of("a-peer", ("x==2",))
    assert folder_of("a-peer", ("x==1", "y==1")) == folder_of("a-peer", ("y==1", "x==1"))


def test_the_cache_is_in_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNIMQ_BENCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert home() == tmp_path / "unimq" / "bench"
