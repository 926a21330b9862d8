"""Without its client library an adapter says which pip line installs it (E1), and nothing else needs that library."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys

class NoClients:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top.startswith("_") or top.partition("_")[0] in {"unimq", "msgspec"}:
            return None
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoClients())
import unimq
try:
    unimq.connect(timeout=5)
except unimq.MissingDependency as error:
    print(f"MissingDependency: {error}")
"""
"""A program in which nothing but Python, unimq and msgspec can be imported."""


@pytest.mark.parametrize(
    ("url", "extra"),
    [
        ("amqp://localhost", "rabbitmq"),
        ("amqps://localhost", "rabbitmq"),
        ("kafka://localhost", "kafka"),
        ("kafka+ssl://localhost", "kafka"),
        ("sqs://", "sqs"),
        ("sqs+http://localhost:1", "sqs"),
    ],
)
def test_a_missing_client_library_is_an_error_with_the_pip_line(url: str, extra: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "UNIMQ_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("MissingDependency:")
    assert f"pip install 'unimq[{extra}]'" in done.stdout
