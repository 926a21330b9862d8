"""What the distribution contains, what it asks for, and what importing it loads."""

import json
import subprocess
import sys
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"unimq", "unimq_memory", "unimq_kafka", "unimq_rabbitmq", "unimq_sqs", "unimq_contract", "unimq_bench"}
EXTRAS = {"kafka", "rabbitmq", "sqs", "zstd", "cli", "otel", "prometheus", "bench", "test", "docs", "all"}
CLIENTS = {"confluent_kafka", "pika", "boto3", "botocore", "opentelemetry", "prometheus_client", "cyclopts", "rich"}

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel made from the sdist, as installers without a wheel make it."""
    dist = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", dist, cwd=ROOT)
    (sdist,) = dist.glob("unimq-*.tar.gz")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", dist, sdist, cwd=dist)
    (built,) = dist.glob("unimq-*.whl")
    return built


@pytest.fixture(scope="module")
def files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def bare_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with the wheel and no extra."""
    environment = tmp_path_factory.mktemp("bare")
    run(sys.executable, "-m", "venv", environment, cwd=environment)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel, cwd=environment)
    return python


def test_wheel_holds_the_seven_packages_and_nothing_else(files: set[str]) -> None:
    tops = {name.split("/")[0] for name in files}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_wheel_holds_every_file_of_the_package_and_its_type_marker(files: set[str], package: str) -> None:
    roots = (ROOT, ROOT / "contract_tests", ROOT / "benchmarks", *ROOT.glob("adapters/*"))
    (source,) = (root for root in roots if (root / package).is_dir())
    assert f"{package}/py.typed" in files
    sources = [path for kind in ("*.py", "*.toml", "*.css") for path in (source / package).rglob(kind)]
    assert {path.relative_to(source).as_posix() for path in sources} <= files


def test_metadata_offers_the_extras(metadata: Message) -> None:
    assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS


def test_metadata_names_the_licence(metadata: Message, files: set[str]) -> None:
    assert metadata["License-Expression"] == "Apache-2.0"
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in files)


def test_without_extras_msgspec_comes_alone(bare_python: Path) -> None:
    listing = run(bare_python, "-m", "pip", "list", "--format", "json", cwd=bare_python.parent)
    installed = {entry["name"] for entry in json.loads(listing)}
    assert installed - {"pip", "setuptools"} == {"unimq", "msgspec"}


def test_import_loads_no_adapter_and_no_client(bare_python: Path) -> None:
    program = "import sys, unimq; print(*{name.partition('.')[0] for name in sys.modules})"
    # Once where no client is installed, so the import cannot need one, and once where all are, so it does not try one.
    for python in (bare_python, Path(sys.executable)):
        loaded = set(run(python, "-I", "-c", program, cwd=bare_python.parent).split())
        assert "unimq" in loaded
        assert not loaded & ((PACKAGES - {"unimq"}) | CLIENTS)
