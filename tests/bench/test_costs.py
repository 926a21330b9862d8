"""Costs come from what was counted, and prices without source, date or sense are refused."""

from pathlib import Path

import pytest
from unimq_bench.costs import CHUNK, billed_chunks, break_even, cpu_cost, figures, request_cost
from unimq_bench.prices import BadPrices, read_prices
from unimq_bench.results import Accounting, Counters, Result, Row, Run

PRICES = read_prices()


@pytest.mark.parametrize(
    ("size", "chunks"),
    [(0, 1), (1, 1), (CHUNK, 1), (CHUNK + 1, 2), (9 * 7 * 1024, 1), (10 * 7 * 1024, 2), (1024 * 1024, 16)],
)
def test_each_64_kib_of_a_request_is_billed(size: int, chunks: int) -> None:
    assert billed_chunks(size) == chunks


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="no -1 bytes"):
        billed_chunks(-1)


def test_the_sheets_costs_come_out() -> None:
    assert request_cost(3, PRICES) == pytest.approx(1.20)
    assert request_cost(0.3, PRICES) == pytest.approx(0.12)
    assert request_cost(3, PRICES, fifo=True) == pytest.approx(1.50)
    assert request_cost(2.1, PRICES) == pytest.approx(0.84)


@pytest.mark.parametrize("nothing", [0.0, -1.0, float("nan")])
def test_what_was_not_counted_costs_an_error(nothing: float) -> None:
    with pytest.raises(ValueError, match="nothing was counted"):
        request_cost(nothing, PRICES)
    with pytest.raises(ValueError, match="cannot cost"):
        break_even(nothing, PRICES)


def test_at_the_break_even_rate_both_bills_are_equal() -> None:
    rate = break_even(0.12, PRICES)
    requests = rate * 730 * 3600 * 0.12 / 1e6
    assert requests == pytest.approx(3 * 730 * PRICES.node.hourly)


def test_cpu_is_priced_by_the_share_of_machines_that_are_half_busy() -> None:
    # 36 µs a message are 36 CPU seconds a million: a hundredth of an hour of one of two cores, half busy.
    assert cpu_cost(36e-6, PRICES) == pytest.approx(0.01 * PRICES.node.hourly)


def a_result(emulated: str = "", invalid: tuple[str, ...] = ()) -> Result:
    sqs = Row(name="unimq on sqs", library="unimq", kind="unimq", backend="sqs", emulated=emulated)
    rabbitmq = Row(name="unimq on rabbitmq", library="unimq", kind="unimq", backend="rabbitmq")
    memory = Row(name="unimq on memory", library="unimq", kind="unimq", backend="memory", in_process=True)

    def run(row: Row, **more: object) -> Run:
        counts = Accounting(sent=1000, acked=1000, received=1010, duplicated=10)
        return Run(row=row.name, workload="e2e_low", point={"size": 100}, accounting=counts, **more)  # type: ignore[arg-type]

    return Result(
        rows=(sqs, rabbitmq, memory),
        runs=(
            run(sqs, counters=Counters(requests=280, billed_requests=300), invalid=invalid),
            run(sqs, counters=Counters(requests=500, billed_requests=500), invalid=invalid),
            run(rabbitmq, broker_cpu_seconds=0.04),
            run(memory, broker_cpu_seconds=0.04),
        ),
    )


def test_figures_are_made_of_counted_requests_and_counted_cpu() -> None:
    found = {(figure.row, figure.metric): figure for figure in figures(a_result(), PRICES)}
    assert found["unimq on sqs", "billed requests"].value == pytest.approx(0.4)
    cost = found["unimq on sqs", "cost of requests"]
    assert cost.value == pytest.approx(0.16)
    assert cost.unit == "$ per million"
    assert cost.ranked
    assert PRICES.sqs.date in cost.spread
    assert found["unimq on sqs", "break-even rate"].value == pytest.approx(break_even(0.16, PRICES))
    assert found["unimq on rabbitmq", "cost of the broker's CPU"].value == pytest.approx(cpu_cost(40e-6, PRICES))
    assert not any(row == "unimq on memory" for row, _ in found)
    assert all(figure.point == {"of": "e2e_low", "size": 100} for figure in found.values())


def test_an_emulators_requests_are_shown_and_not_ranked() -> None:
    found = [figure for figure in figures(a_result(emulated="ministack"), PRICES) if figure.row == "unimq on sqs"]
    assert found
    assert not any(figure.ranked for figure in found)
    assert all("ministack" in figure.why_unranked for figure in found)


def test_invalid_runs_cost_nothing() -> None:
    assert {figure.row for figure in figures(a_result(invalid=("late",)), PRICES)} == {"unimq on rabbitmq"}


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("standard = 0.40", "standard = 0", "sqs.standard must be more than 0, not 0"),
        ("hourly = 0.0816", "hourly = -1.0", "node.hourly must be more than 0, not -1"),
        ("hourly = 0.0816", "hourly = nan", "node.hourly must be more than 0, not nan"),
        ("vcpus = 2", "vcpu = 2", "vcpu"),
        ('date = "2026-06-13"', 'date = ""', "sqs needs a date and a source"),
        ("schema = 1", "schema = 2", "schema 2; this version of unimq reads schema 1"),
        ("schema = 1", "schema = ", "prices.toml: "),
    ],
)
def test_wrong_prices_are_refused_with_their_name(tmp_path: Path, before: str, after: str, message: str) -> None:
    import unimq_bench

    text = Path(unimq_bench.__file__).with_name("prices.toml").read_text("utf-8")
    assert before in text
    file = tmp_path / "prices.toml"
    file.write_text(text.replace(before, after, 1), "utf-8")
    with pytest.raises(BadPrices, match=message):
        read_prices(file)


def test_a_missing_price_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadPrices, match=r"none.toml cannot be read: No such file"):
        read_prices(tmp_path / "none.toml")
