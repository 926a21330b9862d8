"""docs/configuration.md lists every key of the file and every option of the adapters, and its example works."""

import ast
import inspect
import itertools
import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from unimq import _configuration
from unimq._adapters import load_adapter
from unimq._configuration import TABLES, meta_of, read_configuration

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"
PAGE = DOCUMENT.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SCHEMES = {"memory": "memory", "amqp": "rabbitmq", "kafka": "kafka", "sqs": "sqs"}


def sentences(table: type[msgspec.Struct]) -> dict[str, str]:
    """What stands below each field in the source."""
    source = ast.parse(inspect.getsource(_configuration))
    (body,) = (node.body for node in source.body if isinstance(node, ast.ClassDef) and node.name == table.__name__)
    found: dict[str, str] = {}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            assert isinstance(text, ast.Expr)
            found[field.target.id] = " ".join(str(ast.literal_eval(text.value)).replace("``", "`").split())
    return found


def keys() -> str:
    lines: list[str] = []
    for table in TABLES:
        title = (table.__doc__ or "").replace("``", "`").partition(";")[0].rstrip(".")
        lines += ["", f"{title}:", "", "| key | value | meaning |", "| --- | --- | --- |"]
        known = sentences(table)
        assert list(known) == list(table.__struct_fields__)
        lines += [f"| `{key}` | {meta_of(table, key).title} | {text} |" for key, text in known.items()]
    return "\n".join([*lines[1:], ""])


def options() -> str:
    lines = ["| scheme | options |", "| --- | --- |"]
    for scheme in SCHEMES:
        adapter = load_adapter(scheme)
        names = ", ".join(f"`{name}`" for name in adapter.options.__struct_fields__)
        lines.append(f"| {', '.join(f'`{one}://`' for one in adapter.schemes)} | {names} |")
    return "\n".join([*lines, ""])


@pytest.mark.parametrize(("part", "content"), [("keys", keys()), ("options", options())])
def test_the_tables_are_those_of_the_source(part: str, content: str) -> None:
    found = re.search(rf"<!-- {part}:begin -->\n(.*?)<!-- {part}:end -->", PAGE, re.DOTALL)
    assert found is not None
    assert found[1] == content


def test_the_example_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = next(text for kind, text in BLOCKS if kind == "toml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RABBITMQ_PASSWORD", "p@ss")
    for variable in ("UNIMQ_URL", "UNIMQ_BROKER", "UNIMQ_CONFIG"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "unimq.toml").write_text(text)
    url, _ = read_configuration(tmp_path / "unimq.toml").named("production")
    assert (url.user, url.password, url.path, url.options) == ("app", "p@ss", "orders", {"heartbeat": "10"})
    exec(compile(next(text for kind, text in BLOCKS if kind == "python"), str(DOCUMENT), "exec"), {})  # noqa: S102
    assert tomllib.loads(text)["default"] == "local"


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\((\w[\w.-]*\.md)\)", PAGE)
    assert links
    assert all((DOCUMENT.parent / link).is_file() for link in links)
