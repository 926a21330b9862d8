"""The rights that docs/kafka.md names: a user with exactly these works, and one that lacks one is told which."""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import confluent_kafka.admin
import pytest
from unimq_contract.brokers import BrokerUnavailable, RunningTap
from unimq_contract.brokers import kafka as tap
from unimq_contract.brokers.kafka_security import Security, make_security

import unimq

from .judged import PATIENCE, awaited

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("kafka-security")]

PASSWORD = "Pa55neverseen"
Right = tuple[str, str, str]
"""Kind of resource, operation, and what follows the name of the queue in the name of the resource."""

SEND: list[Right] = [("TOPIC", "WRITE", "")]
RECEIVE: list[Right] = [("TOPIC", "READ", ""), ("GROUP", "READ", "")]
DECLARE: list[Right] = [("TOPIC", "CREATE", ""), ("TOPIC", "DESCRIBE", "")]
DELAY: list[Right] = [
    *RECEIVE,
    ("TOPIC", "WRITE", ""),
    ("TOPIC", "CREATE", ".unimq-delay"),
    ("TOPIC", "WRITE", ".unimq-delay"),
    ("TOPIC", "READ", ".unimq-delay"),
    ("GROUP", "READ", ".unimq-delay"),
]
STATS: list[Right] = [("TOPIC", "DESCRIBE", ""), ("GROUP", "DESCRIBE", "")]
SEEK: list[Right] = [("TOPIC", "READ", ""), ("GROUP", "READ", "")]
PURGE: list[Right] = [
    ("TOPIC", "DESCRIBE", ""),
    ("TOPIC", "DELETE", ""),
    ("GROUP", "DESCRIBE", ""),
    ("TOPIC", "DESCRIBE", ".unimq-delay"),
]
DELETE: list[Right] = [
    ("TOPIC", "DESCRIBE", ""),
    ("TOPIC", "DELETE", ""),
    ("GROUP", "DELETE", ""),
    ("TOPIC", "DESCRIBE", ".unimq-delay"),
    ("GROUP", "DELETE", ".unimq-delay"),
]


@pytest.fixture(scope="module")
def security(tmp_path_factory: pytest.TempPathFactory) -> Security:
    """One account, whose rights the tests give and take."""
    try:
        return make_security(tmp_path_factory.mktemp("acl"), {"app": PASSWORD})
    except BrokerUnavailable as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def running(
    security: Security, start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap]
) -> Iterator[RunningTap]:
    """A broker with an authorizer; whoever comes through its plain listener may do everything."""
    with start_or_skip(lambda: tap.start(security=security)) as broker:
        yield broker


@pytest.fixture
def owner(running: RunningTap) -> Iterator[unimq.Broker]:
    """A connection that may do everything."""
    with unimq.connect(running.url, timeout=PATIENCE) as broker:
        yield broker


@pytest.fixture
def app(running: RunningTap, security: Security) -> Iterator[unimq.Broker]:
    """A connection of the account, which declares nothing by itself."""
    assert running.pids
    url = f"kafka+ssl://app:{PASSWORD}@127.0.0.1:{security.sasl_port}?ca_file={security.ca_file}&declare=false"
    with unimq.connect(url, timeout=PATIENCE) as broker:
        yield broker


@pytest.fixture
def name() -> str:
    """A name that nobody else uses."""
    return f"rights-{uuid4().hex[:8]}"


def bindings(name: str, rights: list[Right]) -> list[Any]:
    """Return what the client's administration takes."""
    typed: Any = confluent_kafka.admin
    return [
        typed.AclBinding(
            typed.ResourceType[kind],
            name + suffix,
            typed.ResourcePatternType.LITERAL,
            "User:app",
            "*",
            typed.AclOperation[operation],
            typed.AclPermissionType.ALLOW,
        )
        for kind, operation, suffix in rights
    ]


def grant(owner: unimq.Broker, name: str, rights: list[Right]) -> None:
    """Give the account these rights, and wait until the broker knows of them."""
    native: Any = owner.native
    wanted = bindings(name, rights)
    for future in native.admin.create_acls(wanted).values():
        future.result(timeout=PATIENCE)
    typed: Any = confluent_kafka.admin

    def known() -> bool:
        found = native.admin.describe_acls(
            typed.AclBindingFilter(
                typed.ResourceType.ANY, None, typed.ResourcePatternType.ANY, "User:app", None,
                typed.AclOperation.ANY, typed.AclPermissionType.ANY,
            )
        ).result(timeout=PATIENCE)  # fmt: skip
        return all(each in found for each in wanted)

    awaited(known, "the rights are known")


def send(app: unimq.Broker, name: str) -> None:
    """Send one, confirmed."""
    with app.producer(unimq.Queue(name, dead_letter=False)) as producer:
        producer.send(b"x")


def receive(app: unimq.Broker, name: str) -> None:
    """Receive one and ack it."""
    with app.consumer(unimq.Queue(name, dead_letter=False)) as consumer:
        (delivery,) = consumer.receive(1, timeout=PATIENCE)
        delivery.ack()
        consumer.settle(PATIENCE)


def reject(app: unimq.Broker, name: str) -> None:
    """Receive one and give it up, with dead letters."""
    with app.consumer(name) as consumer:
        (delivery,) = consumer.receive(1, timeout=PATIENCE)
        delivery.reject("no good")
        consumer.settle(PATIENCE)


def delay(app: unimq.Broker, name: str) -> None:
    """Send one with a delay, and be the consumer that forwards it."""
    queue = unimq.Queue(name, dead_letter=False)
    with app.producer(queue) as producer, app.consumer(queue) as consumer:
        producer.send(b"later", delay=0.2)
        left = {b"x", b"later"}
        while left:
            received = consumer.receive(2, timeout=PATIENCE)
            assert received, f"did not come: {left}"
            left -= {delivery.body for delivery in received}
            consumer.ack(received)
        consumer.settle(PATIENCE)


def declare(app: unimq.Broker, name: str) -> None:
    """Make the queue alone."""
    app.declare(unimq.Queue(name, dead_letter=False))


def stats(app: unimq.Broker, name: str) -> None:
    """Ask for the depth of the queue alone."""
    assert app.stats(unimq.Queue(name, dead_letter=False)).ready == 1


def seek(app: unimq.Broker, name: str) -> None:
    """Read it again."""
    app.seek(unimq.Queue(name, dead_letter=False), "earliest")


def purge(app: unimq.Broker, name: str) -> None:
    """Empty it."""
    app.purge(unimq.Queue(name, dead_letter=False))


def delete(app: unimq.Broker, name: str) -> None:
    """Delete it."""
    app.delete(unimq.Queue(name, dead_letter=False))


ACTS: list[tuple[Callable[[unimq.Broker, str], None], list[Right]]] = [
    (send, SEND),
    (receive, RECEIVE),
    (reject, [*RECEIVE, ("TOPIC", "WRITE", "-dead")]),
    (delay, DELAY),
    (declare, DECLARE),
    (stats, STATS),
    (seek, SEEK),
    (purge, PURGE),
    (delete, DELETE),
]


MISSING = [
    (act, rights, missing) for act, rights in ACTS if act is not delay for missing in rights if missing[1] != "DESCRIBE"
]
"""Without the right to describe a topic, nobody tells whether it is there: that is tested with the certificates."""


@pytest.mark.parametrize(("act", "rights"), ACTS, ids=[act.__name__ for act, _ in ACTS])
def test_these_rights_suffice(
    owner: unimq.Broker,
    app: unimq.Broker,
    name: str,
    act: Callable[[unimq.Broker, str], None],
    rights: list[Right],
) -> None:
    if act is not declare:
        send(owner, name)
    if act is reject:
        owner.declare(f"{name}-dead")
    grant(owner, name, rights)
    act(app, name)
    native: Any = owner.native
    topics = native.admin.list_topics(timeout=PATIENCE).topics
    assert (name in topics) == (act is not delete)


@pytest.mark.parametrize(
    ("act", "rights", "missing"),
    MISSING,
    ids=[f"{act.__name__}-without-{missing[1]}-on-{missing[0]}{missing[2]}" for act, _, missing in MISSING],
)
def test_the_one_that_is_missing_is_told(
    owner: unimq.Broker,
    app: unimq.Broker,
    name: str,
    act: Callable[[unimq.Broker, str], None],
    rights: list[Right],
    missing: Right,
) -> None:
    if act is not declare:
        send(owner, name)
    if act is reject:
        owner.declare(f"{name}-dead")
    left = {("TOPIC", "DESCRIBE", ""), *rights} - {missing}
    grant(owner, name, sorted(left))
    with pytest.raises(unimq.AuthError) as caught:
        act(app, name)
    # Whoever may write to no topic at all is refused for that.
    told = ("CLUSTER", "TOPIC") if act is send else (missing[0],)
    assert any(f"{kind}_AUTHORIZATION_FAILED" in str(caught.value) for kind in told)
    assert name in str(caught.value)
    assert not caught.value.retryable
