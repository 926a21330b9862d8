"""`unimq cost`: a rate and a price file, and nothing else is asked for."""

from pathlib import Path

import pytest
from unimq_bench.prices import HOURS_PER_MONTH, read_prices

from .conftest import Command

pytest.importorskip("botocore")


def test_a_month_is_requests_times_the_price(command: Command) -> None:
    (found,) = command("cost", "--rate", "1000", "--size", "100", "--json").documents
    prices = read_prices()
    assert [row["action"] for row in found["requests"]] == [
        "SQS.SendMessageBatch",
        "SQS.ReceiveMessage",
        "SQS.DeleteMessageBatch",
        "all",
    ]
    *each, everything = found["requests"]
    assert everything["per_message"] == pytest.approx(sum(row["per_message"] for row in each))
    assert everything["per_message"] == pytest.approx(0.3)
    requests = 0.3 * 1000 * HOURS_PER_MONTH * 3600
    assert everything["per_month"] == pytest.approx(requests, abs=1)
    assert everything["cost"] == pytest.approx(requests / 1e6 * prices.sqs.standard)
    assert (found["date"], found["price_per_million"]) == (prices.sqs.date, prices.sqs.standard)
    (ordered,) = command("cost", "--rate", "1000", "--size", "100", "--ordering", "key", "--json").documents
    assert ordered["price_per_million"] == prices.sqs.fifo


def test_options_of_the_url_count(command: Command) -> None:
    def idle(*more: str) -> object:
        (found,) = command("cost", "--rate", "0", "--size", "1", "--json", *more).documents
        assert found["requests"][-1]["per_message"] is None
        return found["requests"][-1]["per_month"]

    month = HOURS_PER_MONTH * 3600
    assert idle() == month / 20
    assert idle("--consumers", "3") == 3 * month / 20
    assert idle("--url", "sqs://?region=eu-west-1&idle_wait=10") == month / 10


def test_prices_of_ones_own(command: Command, tmp_path: Path) -> None:
    ours = Path(__file__).parents[2] / "benchmarks" / "unimq_bench" / "prices.toml"
    file = tmp_path / "prices.toml"
    file.write_text(ours.read_text(encoding="utf-8").replace("standard = 0.40", "standard = 4.00"), encoding="utf-8")
    arguments = ("cost", "--rate", "10", "--size", "100", "--json")
    (usual,), (dear,) = command(*arguments).documents, command(*arguments, "--prices", str(file)).documents
    assert dear["requests"][-1]["cost"] == pytest.approx(10 * usual["requests"][-1]["cost"])


def test_the_table_says_where_the_price_is_from(command: Command) -> None:
    text = "\n".join(command("cost", "--rate", "100", "--size", "1000").lines)
    assert "100 messages a second of 1000 bytes on sqs" in text
    assert "SQS.ReceiveMessage" in text
    assert read_prices().sqs.date in text
