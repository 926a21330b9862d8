"""Installing: whole or not at all, once, and with a plain word about what is missing."""

import shutil
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from unimq_contract.brokers import BrokerUnavailable, install
from unimq_contract.brokers.__main__ import main
from unimq_contract.brokers.home import brokers_home, install_folder, read_mark


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNIMQ_BROKERS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_home_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNIMQ_BROKERS_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert brokers_home() == tmp_path / "unimq/brokers"


def test_a_folder_is_filled_once_even_by_two_at_the_same_time(home: Path) -> None:
    fills: list[Path] = []
    marks: list[dict[str, str]] = []

    def fill(folder: Path) -> Mapping[str, str]:
        fills.append(folder)
        (folder / "file").write_text("text")
        return {"version": str(len(fills))}

    threads = [threading.Thread(target=lambda: marks.append(install_folder(home / "thing-1", fill))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert marks == [{"version": "1"}] * 4
    assert len(fills) == 1
    assert read_mark(home / "thing-1") == {"version": "1"}
    assert (home / "thing-1/file").read_text() == "text"


def test_an_interrupted_installation_leaves_no_half(home: Path) -> None:
    def fill(folder: Path) -> Mapping[str, str]:
        (folder / "half").write_text("text")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        install_folder(home / "thing-1", fill)
    assert read_mark(home / "thing-1") is None
    assert [path for path in home.iterdir() if path.is_dir()] == []
    assert install_folder(home / "thing-1", lambda folder: {"version": "2"}) == {"version": "2"}


@pytest.mark.parametrize(
    ("backend", "present", "missing"),
    [
        ("rabbitmq", (), "apt-get"),
        ("rabbitmq", ("apt-get",), "dpkg-deb"),
        ("kafka", (), "java"),
        ("kafka", ("java",), "mvn"),
    ],
)
def test_a_missing_program_is_named_with_how_to_get_it(
    backend: str, present: tuple[str, ...], missing: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for program in present:
        real = shutil.which(program)
        if real is None:
            pytest.skip(f"{program} is not installed")
        (bin_folder / program).symlink_to(real)
    monkeypatch.setenv("PATH", str(bin_folder))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(BrokerUnavailable) as caught:
        install([backend], report=lambda line: None)  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    assert missing in str(caught.value)
    assert caught.value.how_to_get_it
    assert not home.exists() or not [path for path in home.iterdir() if path.is_dir()]


def test_an_old_java_is_named(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "bin/java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(BrokerUnavailable, match=r"is Java 11\.0\.2.*Install Java 17"):
        install(["kafka"], report=lambda line: None)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["install", "redis"], 2, "unknown backend 'redis'"),
        (["start", "sqs", "--generation", "4"], 2, "generation is an option of rabbitmq"),
        (["start", "kafka", "--rung", "url"], 1, "UNIMQ_TEST_KAFKA_URL is not set"),
    ],
)
@pytest.mark.usefixtures("bare_ladder", "home")
def test_the_command_line_says_what_is_wrong_in_one_line(
    arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    told = capsys.readouterr()
    assert says in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""
