"""Plans follow from measured CPU and published limits, and the model holds where one machine was measured."""

import msgspec
import pytest
from unimq_bench.planning import BadPlan, Measured, at_size, ceiling, checks, measured_costs, plan, reference, told
from unimq_bench.prices import read_prices
from unimq_bench.results import Accounting, Counters, Environment, Result, Row, Run, Slice

PRICES = read_prices()
MEASURED = reference()


def a_result(size: int = 100, *, invalid: tuple[str, ...] = (), backend: str = "kafka") -> Result:
    """Publishing takes 2 µs of the client and 1 µs of the broker, consuming 1 µs and 0.5 µs."""
    slices = (
        Slice(metric="publish", messages=1_000_000, seconds=2.5, client_cpu=2.0, broker_cpu=1.0),
        Slice(metric="consume", messages=1_000_000, seconds=1.5, client_cpu=1.0, broker_cpu=0.5),
    )
    name = f"unimq on {backend}"
    run = Run(
        row=name,
        workload="publish_max",
        point={"size": size, "window": 1000},
        slices=slices,
        invalid=invalid,
        accounting=Accounting(sent=1_000_000, received=1_000_000),
        counters=Counters(billed_requests=300_000),
    )
    return Result(
        environment=Environment(cores=2, cpu="a processor"),
        rows=(Row(name=name, library="unimq", kind="unimq", backend=backend),),
        runs=(run,),
    )


def test_a_million_messages_per_second_on_kafka() -> None:
    found = plan(a_result(), PRICES, backend="kafka", rate=1e6, size=100)
    # 2 and 1 cores of clients, half busy.
    assert (found.producers, found.consumers) == (4, 2)
    # Three times 1 µs and 0.5 µs for a million are 3.5 cores, half busy 7, on machines of two.
    assert (found.nodes, found.nodes_because) == (4, "CPU")
    # 100 MB/s at 10 MB/s each.
    assert found.partitions == 10
    assert found.dollars_per_month == pytest.approx((4 + 3) * PRICES.node.monthly)
    assert sum(found.dollars_for.values()) == found.dollars_per_month
    assert any("a processor" in line for line in found.assumptions)
    assert any("replicas" in line for line in found.assumptions)


def test_a_trickle_still_takes_a_cluster_that_survives_a_loss() -> None:
    found = plan(a_result(), PRICES, backend="kafka", rate=1, size=100)
    assert (found.nodes, found.partitions, found.producers, found.consumers) == (3, 1, 1, 1)
    assert "survive" in found.nodes_because


def test_large_messages_are_bound_by_the_network_and_not_by_cpu() -> None:
    found = plan(a_result(100_000), PRICES, backend="kafka", rate=10_000, size=100_000)
    # A gigabyte per second, three times, at 100 MB/s each.
    assert (found.nodes, found.nodes_because, found.partitions) == (30, "network", 100)


def test_a_queue_of_rabbitmq_is_one_core_of_the_broker() -> None:
    found = plan(a_result(backend="rabbitmq"), PRICES, backend="rabbitmq", rate=60_000, size=100)
    assert found.partitions == 1
    assert plan(a_result(backend="rabbitmq"), PRICES, backend="rabbitmq", rate=1e6, size=100).partitions == 15


def test_sqs_is_paid_by_counted_requests() -> None:
    found = plan(a_result(backend="sqs"), PRICES, backend="sqs", rate=1000, size=100)
    assert found.nodes == 0
    assert found.dollars_for["requests"] == pytest.approx(1000 * 730 * 3600 * 0.3 / 1e6 * PRICES.sqs.standard)
    # Ten of 64 KiB are ten requests each for sending and receiving, and one for deleting.
    large = plan(a_result(backend="sqs"), PRICES, backend="sqs", rate=1000, size=65_536)
    assert large.dollars_for["requests"] == pytest.approx(found.dollars_for["requests"] * 7)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf"), 1e12])
def test_absurd_rates_are_refused(rate: float) -> None:
    with pytest.raises(BadPlan, match="a rate is more than 0 and at most"):
        plan(a_result(), PRICES, backend="kafka", rate=rate, size=100)


@pytest.mark.parametrize("size", [0, -5, 2**30])
def test_absurd_sizes_are_refused(size: int) -> None:
    with pytest.raises(BadPlan, match="a message for kafka has 1 to 1048576 bytes"):
        plan(a_result(), PRICES, backend="kafka", rate=1000, size=size)


def test_what_the_result_lacks_is_named() -> None:
    with pytest.raises(BadPlan, match="a plan is for kafka, rabbitmq, sqs, not for 'memory'"):
        plan(a_result(), PRICES, backend="memory", rate=1, size=100)
    with pytest.raises(BadPlan, match="no row of unimq on sqs; it has: unimq on kafka"):
        plan(a_result(), PRICES, backend="sqs", rate=1, size=100)
    with pytest.raises(BadPlan, match="no valid run of unimq on kafka"):
        plan(a_result(invalid=("disturbed",)), PRICES, backend="kafka", rate=1, size=100)


def test_costs_are_interpolated_between_sizes_and_grow_beyond_them() -> None:
    small, large = (Measured(size=s, publish=s, consume=s, broker_publish=s, broker_consume=s) for s in (100, 1000))
    assert at_size([small, large], 100) == (small, "")
    assert at_size([small, large], 1000) == (large, "")
    middle, note = at_size([small, large], 550)
    assert middle.publish == pytest.approx(550)
    assert "interpolated" in note
    below, note = at_size([small, large], 10)
    assert below.publish == 100
    assert "takes the CPU of one of 100" in note
    beyond, note = at_size([small, large], 3000)
    assert beyond.consume == pytest.approx(3000)
    assert "grows" in note


def test_one_core_of_the_client_or_the_machine_is_the_ceiling() -> None:
    costs = Measured(size=100, publish=2, consume=1, broker_publish=1, broker_consume=0.5)
    assert ceiling(costs, "publish", 8) == pytest.approx(500_000)
    assert ceiling(costs, "publish", 1) == pytest.approx(1e6 / 3)
    assert ceiling(costs, "end to end", 2) == pytest.approx(2e6 / 4.5)


@pytest.mark.parametrize("backend", ["rabbitmq", "kafka", "sqs"])
def test_no_measured_rate_is_above_what_the_model_calls_possible(backend: str) -> None:
    proofs = checks(MEASURED, backend)
    assert {proof.what for proof in proofs} == {"publish, 100 bytes", "consume, 100 bytes"}
    for proof in proofs:
        assert 0.1 < proof.ratio < 1.1, proof


def test_the_check_can_fail() -> None:
    # A result that tells a tenth of the CPU that was used.
    runs = tuple(
        msgspec.structs.replace(
            run,
            slices=tuple(
                msgspec.structs.replace(part, client_cpu=part.client_cpu * 10, broker_cpu=(part.broker_cpu or 0) * 10)
                for part in run.slices
            ),
        )
        for run in MEASURED.runs
    )
    proofs = checks(msgspec.structs.replace(MEASURED, runs=runs), "kafka")
    assert any(proof.ratio > 1.1 for proof in proofs)


def test_a_person_reads_numbers_reasons_assumptions_and_proofs() -> None:
    found = plan(MEASURED, PRICES, backend="kafka", rate=1e6, size=100)
    text = "\n".join(told(found, checks(MEASURED, "kafka")))
    for part in ("machines of the broker", found.nodes_because, "dollars a month", "assumed:", "publish, 100 bytes"):
        assert part in text
    for line in found.assumptions:
        assert line in text


def test_measured_costs_are_medians_of_valid_slices() -> None:
    (costs,) = measured_costs(a_result(), a_result().rows[0])
    assert costs.size == 100
    found = (costs.publish, costs.consume, costs.broker_publish, costs.broker_consume)
    assert found == pytest.approx((2.0, 1.0, 1.0, 0.5))
