"""What `import unimq` offers, under which names, and at which cost."""

import inspect
import pickle
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest

import unimq
from unimq import _errors

EXPORTED = {name: getattr(unimq, name) for name in unimq.__all__}
ERRORS: dict[str, type[unimq.UnimqError]] = {
    name: member
    for name, member in EXPORTED.items()
    if isinstance(member, type) and issubclass(member, unimq.UnimqError)
}
LAZY_ON_PURPOSE = {"asyncio", "logging.config", "importlib.metadata", "unittest", "ssl"}
CLIENTS = {
    "pika",
    "confluent_kafka",
    "boto3",
    "botocore",
    "cyclopts",
    "rich",
    "pytest",
    "opentelemetry",
    "prometheus_client",
}
ADAPTERS = {"unimq_memory", "unimq_rabbitmq", "unimq_kafka", "unimq_sqs", "unimq_contract"}


def test_all_is_sorted_and_says_each_name_once() -> None:
    assert unimq.__all__ == sorted(set(unimq.__all__))


def test_all_is_what_there_is() -> None:
    public = {
        name
        for name, member in vars(unimq).items()
        if not name.startswith("_") and not inspect.ismodule(member) and name != "TYPE_CHECKING"
    }
    assert public == set(unimq.__all__)


def test_every_error_of_the_tree_is_exported() -> None:
    defined = {
        name
        for name, member in vars(_errors).items()
        if not name.startswith("_") and isinstance(member, type) and issubclass(member, unimq.UnimqError)
    }
    assert defined == set(ERRORS)


@pytest.mark.parametrize("name", unimq.__all__)
def test_names_say_where_users_find_them(name: str) -> None:
    member = EXPORTED[name]
    assert (member.__module__, member.__qualname__) == ("unimq", name)
    assert pickle.loads(pickle.dumps(member)) is member  # noqa: S301 - our own bytes


@pytest.mark.parametrize("name", unimq.__all__)
def test_every_export_is_documented_and_its_public_members_too(name: str) -> None:
    member = EXPORTED[name]
    assert inspect.getdoc(member)
    if isinstance(member, type):
        own = [
            key
            for key, value in vars(member).items()
            if not key.startswith("_") and (inspect.isfunction(value) or isinstance(value, property))
        ]
        assert [key for key in own if not inspect.getdoc(getattr(member, key))] == []


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="'unimq' has no attribute 'Quue'"):
        getattr(unimq, "Quue")  # noqa: B009 - a type checker would refuse the plain form


def test_import_loads_no_client_no_adapter_and_no_asyncio() -> None:
    program = "import sys, unimq; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-I", "-c", program], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "unimq" in loaded
    assert loaded & (LAZY_ON_PURPOSE | CLIENTS | ADAPTERS) == set()


def test_the_asyncio_half_comes_when_it_is_asked_for() -> None:
    program = "import sys, unimq; unimq.connect_async; print('asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "True\n"


# The drawing of the error tree, in the docstring of the module that defines it.


@dataclass(frozen=True, slots=True)
class Drawn:
    name: str
    parent: str
    text: str


def drawn_tree() -> list[Drawn]:
    lines = (_errors.__doc__ or "").splitlines()
    start = lines.index("    UnimqError")
    found = [Drawn("UnimqError", "Exception", "")]
    path = ["UnimqError"]
    for line in lines[start + 1 :]:
        branch = re.fullmatch(r"    ((?:\|   )*)(?:\|--|`--) (\w+) +(\S.*)", line)
        if branch is None:
            break
        depth = len(branch[1]) // 4 + 1
        assert depth <= len(path), f"{branch[2]} hangs in the air"
        path[depth:] = [branch[2]]
        found.append(Drawn(branch[2], path[depth - 1], branch[3]))
    return found


DRAWN = drawn_tree()


def test_the_drawing_shows_every_error_once() -> None:
    assert sorted(drawn.name for drawn in DRAWN) == sorted(ERRORS)


@pytest.mark.parametrize("drawn", DRAWN, ids=lambda drawn: drawn.name)
def test_each_error_hangs_where_it_is_drawn(drawn: Drawn) -> None:
    error = ERRORS[drawn.name]
    ancestors = [base.__name__ for base in error.__mro__[1:] if base.__name__ in {*ERRORS, "Exception"}]
    assert ancestors[0] == drawn.parent
    assert error.retryable == ("(retryable" in drawn.text)
    assert issubclass(error, ImportError) == ("ImportError" in drawn.text)
