"""The Docker rung: found out of reach without delay, and, where an engine has the images, used for real.

``tests/brokers/docker/run.sh`` brings engine and images and runs these tests.
"""

import http.server
import json
import os
import select
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from unimq_contract.brokers import BrokerUnavailable, containers, engine, start

pytestmark = pytest.mark.usefixtures("bare_ladder")


class FakeEngine(socketserver.ThreadingUnixStreamServer):
    """Answers what the tests put into ``answers`` by "METHOD path", 404 to the rest, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.answers: dict[str, int] = {}
        self.asked: list[str] = []
        self.removed = threading.Event()
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                asked = f"{self.command} {self.path.partition('/v1.41')[2]}"
                owner.asked.append(asked)
                self.send_response(owner.answers.get(asked, 404))
                self.send_header("Content-Length", "0")
                self.end_headers()
                if self.command == "DELETE":
                    owner.removed.set()

            do_GET = answer  # noqa: N815 - the name is the server's
            do_DELETE = answer  # noqa: N815

            def address_string(self) -> str:
                return "local"

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        super().__init__(str(path), Handler)


@pytest.fixture
def fake_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    path = tmp_path / "docker.sock"
    with FakeEngine(path) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        yield served
        served.shutdown()
        thread.join()


def test_without_an_engine_nothing_is_imported_to_find_out(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from unimq_contract.brokers import BrokerUnavailable, start\n"
        "try: start('kafka', rung='docker')\n"
        "except BrokerUnavailable as error: print(error)\n"
        "print(sorted({'docker', 'testcontainers', 'pytest', 'pika', 'boto3'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/no.sock"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "no engine answers" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_engine_elsewhere_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:2375")
    with pytest.raises(BrokerUnavailable, match="no local engine"):
        start("kafka", rung="docker")


def test_an_image_that_is_not_there_is_not_pulled_unasked(fake_engine: FakeEngine) -> None:
    fake_engine.answers["GET /_ping"] = 200
    with pytest.raises(BrokerUnavailable) as caught:
        start("kafka", rung="docker")
    assert f"the image {containers.image('kafka')} is not there" in str(caught.value)
    assert "UNIMQ_TAP_PULL=1" in caught.value.how_to_get_it
    assert fake_engine.asked == ["GET /_ping", f"GET /images/{containers.image('kafka')}/json"]


def test_the_reaper_removes_the_container_when_its_owner_is_gone(fake_engine: FakeEngine) -> None:
    fake_engine.answers["DELETE /containers/box?force=1&v=1"] = 204
    command = [sys.executable, "-S", engine.__file__, str(fake_engine.server_address), "box"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as reaper:
        try:
            assert not fake_engine.removed.is_set()
            assert reaper.stdin is not None
            reaper.stdin.close()  # what the kernel does when the owner dies
            assert fake_engine.removed.wait(20)
        finally:
            reaper.kill()


def test_the_reaper_does_nothing_for_an_owner_that_did_it_itself(fake_engine: FakeEngine) -> None:
    command = [sys.executable, "-S", engine.__file__, str(fake_engine.server_address), "box"]
    done = subprocess.run(command, input=engine.RELEASED, timeout=20, check=False)
    assert done.returncode == 0
    assert fake_engine.asked == []


def require_image(backend: Literal["rabbitmq", "kafka", "sqs"]) -> None:
    """Skip without engine or image: real containers are for machines that have them."""
    found = engine.find_socket()
    if found is None or engine.status(found, f"/images/{containers.image(backend)}/json") != 200:
        pytest.skip(f"no Docker engine with {containers.image(backend)}; tests/brokers/docker/run.sh brings both")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["rabbitmq", "kafka", "sqs"])
def test_a_real_container(backend: Literal["rabbitmq", "kafka", "sqs"], listens: Callable[[str], bool]) -> None:
    require_image(backend)
    with start(backend) as running:
        tap = running.tap
        assert tap.rung == "docker"
        assert tap.label == ("emulator" if backend == "sqs" else "real in a container")
        assert listens(tap.nodes[0])
        running.suspend()
        running.resume()
        running.kill()
        running.restart()
        assert listens(tap.nodes[0])
        running.suspend()
    assert not listens(tap.nodes[0])


@pytest.mark.slow
def test_kill_9_of_the_owner_removes_the_container(listens: Callable[[str], bool]) -> None:
    require_image("sqs")
    command = [sys.executable, "-m", "unimq_contract.brokers", "start", "sqs", "--rung", "docker", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        tap = json.loads(owner.stdout.readline())
        children = Path(f"/proc/{owner.pid}/task/{owner.pid}/children").read_text("ascii").split()
        (reaper,) = [os.pidfd_open(int(pid)) for pid in children]
        assert listens(tap["nodes"][0])
        owner.kill()
    # The reaper ends when it has removed what there was.
    assert select.select([reaper], [], [], 30)[0]
    os.close(reaper)
    assert not listens(tap["nodes"][0])
