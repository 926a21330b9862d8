"""Claims, measurements and records stay apart, each with its set-up and source."""

from unimq_bench.articles import WORKLOAD, read_articles, table
from unimq_bench.results import Environment, Figure, Result, Row


def a_result() -> Result:
    kafka = Row(
        name="unimq on kafka",
        library="unimq",
        kind="unimq",
        backend="kafka",
        durability="leader memory",
        broker_settings={"version": "4.3.1", "durable": "a note"},
    )
    sqs = Row(name="unimq on sqs", library="unimq", kind="unimq", backend="sqs", emulated="ministack")

    def figure(row: str, metric: str, value: float, workload: str = WORKLOAD) -> Figure:
        return Figure(row=row, workload=workload, metric=metric, unit="msg/s", value=value, point={"size": 100})

    return Result(
        environment=Environment(cores=2),
        rows=(kafka, sqs),
        figures=(
            figure("unimq on kafka", "sustainable rate", 40_000),
            figure("unimq on kafka", "end-to-end rate", 50_000),
            figure("unimq on kafka", "sustainable rate", 60_000, "max_sustainable"),
            figure("unimq on sqs", "sustainable rate", 900),
        ),
    )


def test_every_claim_and_record_says_how_and_where_from() -> None:
    articles = read_articles()
    assert {claim.backend for claim in articles.claims} == {"kafka", "rabbitmq", "sqs"}
    for claim in articles.claims:
        assert claim.claimed
        assert claim.claimed_setup
        assert claim.verdict
    for record in articles.records:
        assert record.figure
        assert record.setup
        assert record.source


def test_only_the_sustainable_rate_of_its_own_workload_stands_beside_a_claim() -> None:
    lines = {(line.claim.backend, line.claim.claimed): line for line in table(a_result())}
    (here,) = lines["kafka", "100 000 msg/s"].here
    assert here.figure.value == 40_000
    assert here.durability == "leader memory"
    assert here.setup == "one broker and its clients on 2 cores, 100 bytes, version 4.3.1"
    assert not here.emulated
    assert {record.backend for record in lines["kafka", "100 000 msg/s"].records} == {"kafka"}
    assert lines["rabbitmq", "50 000 msg/s"].here == ()


def test_emulated_figures_say_so_and_a_price_has_none() -> None:
    lines = {(line.claim.backend, line.claim.claimed): line for line in table(a_result())}
    (here,) = lines["sqs", "3 000 msg/s"].here
    assert here.emulated == "ministack"
    assert lines["sqs", "$0.000004 per request"].here == ()
