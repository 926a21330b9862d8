"""The page of a result: whole, harmless, readable without JavaScript, and honest about what is invalid or emulated."""

import contextlib
import re
from collections.abc import Generator
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from unimq_bench import page, results
from unimq_bench.results import Accounting, Event, Figure, Result, ResultError, Row, Run

from . import browser
from .made_result import OURS, PEER, made_result

HOSTILE = "</script><script>alert(1)</script><img src=http://127.0.0.1/x onerror=alert(2)>\"'&\u202e\x00"
VOID = {"meta", "link", "br", "img"}


class _Outline(HTMLParser):
    """What is in a page: its elements, whether each is closed, and everything that could ask somebody for something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.asking: list[str] = []
        self.handlers: list[str] = []
        self.scripts: list[str | None] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.handlers += [name for name in found if name.startswith("on")]
        self.asking += [
            value
            for name, value in attrs
            if value
            and name in {"src", "href", "xlink:href", "action", "data", "srcset", "poster"}
            and not value.startswith("#")
            and value != "data:,"
        ]
        if tag == "script":
            self.scripts.append(found.get("type"))
        if identity := found.get("id"):
            self.ids.append(identity)
        if tag == "a" and (link := found.get("href")):
            self.links.append(link)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "script"}:
            self.text.append(data)


def outline(html: str) -> _Outline:
    parser = _Outline()
    parser.feed(html)
    parser.close()
    assert not parser.open
    return parser


@pytest.fixture(scope="module")
def made() -> Result:
    return made_result()


@pytest.fixture(scope="module")
def html(made: Result) -> str:
    return page.page(made)


def test_page_asks_nobody_for_anything_and_runs_nothing(html: str) -> None:
    found = outline(html)
    assert found.asking == []
    assert found.handlers == []
    assert found.scripts == ["application/json"]
    style = html.partition("<style>")[2].partition("</style>")[0]
    assert "@import" not in style
    assert "url(" not in style
    assert "default-src 'none'" in html


def test_links_lead_to_places_in_the_page(html: str) -> None:
    found = outline(html)
    assert found.links
    assert {link.removeprefix("#") for link in found.links} <= set(found.ids)
    assert len(found.ids) == len(set(found.ids))


def test_data_comes_out_of_the_page_as_it_went_in(made: Result, html: str) -> None:
    assert page.data_of(html) == made


def test_page_without_data_is_refused() -> None:
    with pytest.raises(ResultError, match="holds no result"):
        page.data_of("<!doctype html><p>Somebody else's page.</p>")


def test_verdicts_come_before_everything_else(html: str) -> None:
    text = " ".join(outline(html).text)
    # The overhead of a card, then the sections.
    assert text.index("publish time per message, against pika-select") < text.index("Two clients side by side")
    assert [
        text.index(name) for name in ("Two clients", "Whiskers", "Response time counts", "Every message carries")
    ] == sorted(
        text.index(name) for name in ("Two clients", "Whiskers", "Response time counts", "Every message carries")
    )


def test_loss_is_told_at_the_top_and_with_the_name_of_the_loser(html: str) -> None:
    text = " ".join(outline(html).text)
    assert "12 messages were lost" in text
    assert "12 lost" in text
    assert "by kombu" in text


def test_invalid_runs_have_their_reason_instead_of_a_number(made: Result) -> None:
    reason = "foreign CPU 0.8 cores, above 0.2"
    runs = tuple(
        msgspec.structs.replace(run, invalid=(reason,)) if (run.row, run.workload) == (OURS, "publish_max") else run
        for run in made.runs
    )
    html = page.page(msgspec.structs.replace(made, runs=runs))
    throughput = html.partition('<h2 id="throughput">')[2].partition("<h3>size_sweep")[0]
    assert f"invalid: {reason}" in throughput
    # Of the row that is invalid, not even the bar's title holds a rate.
    assert "unimq: 26.4 k/s" not in throughput
    assert "pika-select: 28.1 k/s" in throughput
    ours = next(line for line in throughput.splitlines() if line.startswith("<tr") and OURS in line)
    assert "k/s" not in ours


def test_figures_of_which_some_runs_are_invalid_are_not_shown_either(made: Result) -> None:
    runs = tuple(
        msgspec.structs.replace(run, invalid=(f"late by {run.process} ms",))
        if (run.row, run.workload) == (OURS, "publish_max") and run.process < 2
        else run
        for run in made.runs
    )
    html = page.page(msgspec.structs.replace(made, runs=runs))
    throughput = html.partition('<h2 id="throughput">')[2].partition("<h3>size_sweep")[0]
    # Reasons that differ in their figures alone are one.
    assert "2 of 8 runs invalid: late by 0 ms<" in throughput
    assert "unimq: 26.4 k/s" not in throughput


def test_invalid_latencies_are_in_no_curve(made: Result) -> None:
    runs = tuple(
        msgspec.structs.replace(run, invalid=("too few batches",)) if run.workload == "e2e_low" else run
        for run in made.runs
    )
    html = page.page(msgspec.structs.replace(made, runs=runs))
    section = html.partition("<h3>e2e_low</h3>")[2].partition("<h3>")[0]
    assert "invalid: too few batches" in section
    assert '<path class="curve' not in section
    assert 'class="curve' not in section


def test_percentiles_without_enough_messages_are_left_out(html: str) -> None:
    section = html.partition("Latencies of rate_sweep as a table")[2].partition("</table>")[0]
    # 2000 messages carry a p90 and no p99.
    assert "needs 10\N{NARROW NO-BREAK SPACE}000 messages" in section
    assert re.search(r"95 %: [^<]*ms", section)


def test_emulated_rows_are_hatched_and_named_as_not_ranked(html: str) -> None:
    bars = html.partition("sqs (emulated by ministack, not ranked): publish rate.")[2].partition("</figure>")[0]
    assert bars.count("url(#hatch)") == 2
    ranked = html.partition("<strong>rabbitmq: publish rate.</strong>")[2].partition("</figure>")[0]
    assert "url(#hatch)" not in ranked
    assert '<pattern id="hatch"' in html


def test_every_chart_has_a_description_and_a_table_in_its_section(html: str) -> None:
    charts = re.findall(r'<svg class="chart[^>]*>', html)
    assert len(charts) > 15
    assert all(re.search(r'role="img" aria-label="[^"]+"', chart) for chart in charts)
    for section in ("overhead", "throughput", "latency", "timelines"):
        assert "<table>" in html.partition(f'<h2 id="{section}">')[2].partition("</section>")[0]


def test_costs_are_told_in_dollars_with_the_date_of_the_price(html: str) -> None:
    section = html.partition('<h2 id="cost">')[2].partition("</section>")[0]
    assert "$0.12 per million" in section
    assert "$0.0031 per million" in section
    assert "at a price of 2026-06; an emulator was asked" in section
    assert "<h3>cost</h3>" not in html


def test_claims_stand_beside_what_was_measured_and_what_was_published(made: Result, html: str) -> None:
    assert "often copied" not in html
    point: dict[str, int | float | str] = {"size": 100}
    figures = tuple(
        Figure(row=row, workload="article_table", metric="sustainable rate", unit="msg/s", value=value, point=point)
        for row, value in ((OURS, 21_400.0), ("unimq on sqs", 777.0))
    )
    section = page.page(msgspec.structs.replace(made, figures=figures)).partition('<h2 id="claims">')[2]
    section = section.partition("</section>")[0]
    lines = [line for line in section.splitlines() if line.startswith("<tr>")]
    (rabbitmq,) = (line for line in lines if '<th scope="row">rabbitmq<' in line)
    assert "50 000 msg/s" in rabbitmq
    assert "21.4 k/s" in rabbitmq
    assert "fsync" in rabbitmq
    assert "777/s" not in rabbitmq
    assert "emulated by ministack: not ranked" in next(line for line in lines if "777/s" in line)


def test_hostile_names_stay_text() -> None:
    row = Row(
        name=HOSTILE,
        library=HOSTILE,
        kind="unimq",
        backend=HOSTILE,
        url=HOSTILE,
        durability=HOSTILE,
        emulated=HOSTILE,
        client_settings={HOSTILE: HOSTILE},
        versions={HOSTILE: HOSTILE},
    )
    run = Run(
        row=HOSTILE,
        workload=HOSTILE,
        point={HOSTILE: HOSTILE},
        invalid=(HOSTILE,),
        notes=(HOSTILE,),
        events=(Event(t=0.5, what=HOSTILE),),
        timeline=made_result().runs[-2].timeline,
        accounting=Accounting(sent=1, acked=1, lost=1),
    )
    figure = Figure(
        row=HOSTILE,
        workload=HOSTILE,
        metric=HOSTILE,
        unit=HOSTILE,
        value=1.0,
        point={"size": HOSTILE},
        ranked=False,
        why_unranked=HOSTILE,
    )
    result = Result(workloads=(HOSTILE,), rows=(row,), runs=(run,), figures=(figure,), notes=(HOSTILE,), unimq=HOSTILE)
    html = page.page(result)
    found = outline(html)
    assert found.scripts == ["application/json"]
    assert found.handlers == []
    assert found.asking == []
    assert "\u202e" not in html
    assert "\x00" not in html
    assert page.data_of(html) == result


def test_result_with_nothing_in_it_is_a_page_too() -> None:
    html = page.page(Result(partial=True))
    assert "Not the whole benchmark" in html
    outline(html)


def test_rows_that_are_only_mentioned_and_odd_figures_are_shown() -> None:
    figure = Figure(row="gone", workload="w", metric="publish rate", unit="msg/s", value=float("nan"))
    result = Result(runs=(Run(row="gone", workload="w"),), figures=(figure,))
    outline(page.page(result))


def test_broken_histogram_is_named_as_the_fault(made: Result) -> None:
    run = Run(row=OURS, workload="e2e_low", histograms={"response": "bm90IGEgaGlzdG9ncmFt"})
    with pytest.raises(ResultError, match="histogram"):
        page.page(msgspec.structs.replace(made, runs=(run,)))


@pytest.fixture(scope="module")
def tab() -> Generator[browser.Page]:
    found = browser.found()
    if found is None:
        pytest.skip(
            "NOT TESTED IN A BROWSER: none of " + ", ".join(browser.NAMES) + " is installed"
            " (Debian: apt-get install chromium-headless-shell); UNIMQ_BROWSER names another"
        )
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(browser.opened(found))


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_browser_shows_the_page_without_a_request_or_a_complaint(
    tab: browser.Page, html: str, tmp_path: Path, *, dark: bool
) -> None:
    file = tmp_path / "report.html"
    file.write_text(html, encoding="utf-8")
    tab.requests.clear()
    tab.complaints.clear()
    tab.open(file, dark=dark)
    assert tab.requests == [file.as_uri()]
    assert tab.complaints == []
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 22, 26)" if dark else "rgb(251, 250, 248)")
    assert len(tab.picture()) > 50_000
    assert tab.evaluate("JSON.parse(document.getElementById('result').textContent).schema") == results.SCHEMA


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 420])
def test_browser_finds_every_chart_drawn_within_its_frame_and_no_scrolling_sideways(
    tab: browser.Page, html: str, tmp_path: Path, width: int
) -> None:
    file = tmp_path / "report.html"
    file.write_text(html, encoding="utf-8")
    tab.open(file, width=width)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    drawn = tab.evaluate(
        """[...document.querySelectorAll('svg.chart')].map(chart => {
            const frame = chart.viewBox.baseVal, inner = chart.getBBox();
            return [inner.x >= -1, inner.y >= -1, inner.x + inner.width <= frame.width + 1,
                    inner.y + inner.height <= frame.height + 1, inner.width > 100];
        })"""
    )
    assert len(drawn) > 15
    assert all(all(each) for each in drawn)


@pytest.mark.slow
def test_browser_shows_hostile_names_and_runs_nothing_of_them(tab: browser.Page, tmp_path: Path) -> None:
    row = Row(name=HOSTILE, library=HOSTILE, kind="peer", backend=HOSTILE)
    run = Run(row=HOSTILE, workload=HOSTILE, invalid=(HOSTILE,), accounting=Accounting(sent=1))
    file = tmp_path / "report.html"
    file.write_text(page.page(Result(rows=(row,), runs=(run,), workloads=(HOSTILE,))), encoding="utf-8")
    tab.requests.clear()
    tab.complaints.clear()
    tab.open(file)
    assert tab.requests == [file.as_uri()]
    assert tab.complaints == []
    assert tab.evaluate("document.scripts.length") == 1
    assert tab.evaluate("document.body.innerText.includes('onerror=alert(2)')") is True


@pytest.mark.slow
def test_tables_are_readable_without_javascript(tab: browser.Page, html: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(html, encoding="utf-8")
    tab.open(file, scripts=False)
    # The browser's own inspection still runs; nothing of the page would have.
    assert tab.evaluate("document.querySelectorAll('table').length") > 8
    assert PEER in tab.evaluate("document.body.innerText")
