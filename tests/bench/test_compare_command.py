"""`unimq bench compare` and `unimq bench page`: what they print, write and return, and what they refuse."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from unimq_bench import page, results
from unimq_bench.results import Result

from unimq._cli import main

from .made_result import OURS, RAW, made_result

Unimq = Callable[..., int]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    made = {"before": made_result(seed=1), "same": made_result(seed=2), "slower": made_result(seed=2, speed=0.7)}
    for name, result in made.items():
        results.write(result, folder / f"{name}.json")
    return folder


def _with_durability(result: Result, durability: str) -> Result:
    rows = tuple(msgspec.structs.replace(row, durability=durability) for row in result.rows)
    return msgspec.structs.replace(result, rows=rows)


def test_change_is_printed_and_written(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    html = tmp_path / "changes.html"
    code = main(["bench", "compare", str(files / "before.json"), str(files / "slower.json"), "--html", str(html)])
    printed = capsys.readouterr().out
    assert code == 0
    assert f"{OURS} ÷ {RAW}, overhead" in printed
    assert "worse" in printed
    assert "<h1>Before and after</h1>" in html.read_text(encoding="utf-8")


@pytest.mark.parametrize(("after", "code"), [("same", 0), ("slower", 1)])
def test_worse_ratios_fail_where_that_is_asked_for(
    files: Path, capsys: pytest.CaptureFixture[str], after: str, code: int
) -> None:
    names = [str(files / "before.json"), str(files / f"{after}.json")]
    assert main(["bench", "compare", *names, "--fail-if-worse"]) == code
    assert "verdict" in capsys.readouterr().out


def test_unequal_durability_is_refused(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = _with_durability(results.read(files / "same.json"), "at-most-once")
    results.write(other, tmp_path / "other.json")
    assert main(["bench", "compare", str(files / "before.json"), str(tmp_path / "other.json")]) == 2
    told = capsys.readouterr().err
    assert "durability" in told
    assert "Traceback" not in told


def test_missing_and_foreign_files_are_told_in_one_line(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = tmp_path / "foreign.json"
    foreign.write_text("[]", encoding="utf-8")
    for name in (tmp_path / "gone.json", foreign):
        assert main(["bench", "compare", str(files / "before.json"), str(name)]) == 1
        told = capsys.readouterr().err
        assert str(name) in told
        assert len(told.strip().splitlines()) == 1


def test_page_that_cannot_be_written_is_told_first(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(files / "before.json"), str(files / "same.json")]
    assert main(["bench", "compare", *names, "--html", str(tmp_path)]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_page_is_made_of_a_result_file(files: Path, tmp_path: Path) -> None:
    html = tmp_path / "report.html"
    assert main(["bench", "page", str(files / "before.json"), str(html)]) == 0
    assert page.data_of(html.read_text(encoding="utf-8")) == results.read(files / "before.json")
