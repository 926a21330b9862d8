"""The IAM policies of docs/sqs.md: a role gets along with its own and uses all of it; the rest is refused at once."""

import fnmatch
import json
import os
import re
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from unimq_contract.brokers import RunningTap, sqs
from unimq_contract.faults.sqs import Request, SQSFaultProxy

import unimq

pytestmark = pytest.mark.slow

WITHIN = 60.0
PAGE = (Path(__file__).parent.parent.parent / "docs" / "sqs.md").read_text(encoding="utf-8")
POLICIES: dict[str, Any] = {
    role: json.loads(text) for role, text in re.findall(r"<!-- policy: (\w+) -->\n\n```json\n(.*?)```", PAGE, re.DOTALL)
}
PROBE = ("sqs:GetQueueUrl", "unimq-is-anybody-there")
"""Asked at `connect`: to be refused is an answer."""
ORDERS = unimq.Queue("orders", max_deliveries=2)
EVENTS = unimq.Topic("events")
AUDIT = EVENTS.subscription("audit")
DEAD = unimq.Queue("orders-dead", dead_letter=False)
ALL = (AUDIT, EVENTS, ORDERS, DEAD, unimq.Queue("events--audit-dead", dead_letter=False))


def resource_of(action: str, asked: Request) -> str:
    """Return the last part of the ARN that IAM looks at."""
    if action == "sns:ListTopics":
        return "*"
    if action.startswith("sns:"):
        name = str(asked.get("TopicArn") or asked.get("Name") or asked.get("SubscriptionArn"))
        return name.removeprefix("arn:aws:sns:us-east-1:000000000000:").partition(":")[0]
    return str(asked.get("QueueName") or asked["QueueUrl"]).rpartition("/")[2]


def permissions_of(action: str, asked: Request) -> list[str]:
    """Return what IAM calls an action: batches are not told apart, and tags at creation are another one."""
    found = [action.removesuffix("Batch")]
    if action == "sqs:CreateQueue" and asked.get("tags"):
        found.append("sqs:TagQueue")
    return found


@dataclass
class Policed:
    """Allows what a policy does."""

    policy: Any
    used: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    """Permission and resource of the policy."""
    refused: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def allows(self, action: str, asked: Request) -> bool:
        resource = resource_of(action, asked)
        allowed = [self._allows(permission, resource) for permission in permissions_of(action, asked)]
        return all(allowed)

    def _allows(self, permission: str, resource: str) -> bool:
        for allowed, pattern in self.pairs():
            if allowed == permission and fnmatch.fnmatchcase(resource, pattern.rpartition(":")[2]):
                self.used.add((allowed, pattern))
                return True
        self.refused.append((permission, resource))
        return False

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Yield each permission with each of its resources."""
        for statement in self.policy["Statement"]:
            assert statement["Effect"] == "Allow"
            resources = statement["Resource"]
            for resource in [resources] if isinstance(resources, str) else resources:
                for action in statement["Action"]:
                    yield action, resource


@pytest.fixture(scope="module")
def emulator(start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap]) -> Iterator[str]:
    with start_or_skip(lambda: sqs.start(flavour="ministack")) as running:
        yield f"{running.tap.url}&wait=1"


@dataclass
class Role:
    """A connection that a policy polices."""

    police: Policed
    proxy: SQSFaultProxy
    url: str

    def connect(self, *, declare: bool = False) -> unimq.Broker:
        return unimq.connect(self.url + ("" if declare else "&declare=false"), timeout=WITHIN)


def through(emulator: str, port: int) -> str:
    parts = urlsplit(emulator)
    return emulator.replace(f":{parts.port}", f":{port}")


@pytest.fixture
def role(request: pytest.FixtureRequest, emulator: str) -> Iterator[Role]:
    """The role of the parameter, and its destinations, which an administrator has made."""
    with unimq.connect(emulator) as admin:
        admin.declare(ORDERS, EVENTS, AUDIT)
        police = Policed(POLICIES[request.param])
        with SQSFaultProxy(("127.0.0.1", urlsplit(emulator).port or 0), gate=police.allows) as proxy:
            yield Role(police, proxy, through(emulator, proxy.port))
        admin.delete(*ALL)


def receive(consumer: unimq.Consumer, count: int) -> list[unimq.Delivery]:
    found: list[unimq.Delivery] = []
    deadline = time.monotonic() + WITHIN
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} came"
        found += consumer.receive(count - len(found), timeout=1)
    return found


def produce(role: Role, admin: unimq.Broker) -> None:
    with role.connect() as broker:
        for target in ("orders", EVENTS):
            with broker.producer(target) as producer:
                producer.send_many([b"a", b"b"])


def consume(role: Role, admin: unimq.Broker) -> None:
    for target in (ORDERS, EVENTS):
        with admin.producer(target) as producer:
            producer.send_many([b"a", b"b", b"c"])
    with role.connect() as broker:
        for source in (ORDERS, AUDIT):
            with broker.consumer(source) as consumer:
                first, second, third = receive(consumer, 3)
                first.ack()
                second.nack()
                third.reject("no good")
                (again,) = receive(consumer, 1)
                again.extend(30)
                again.ack()
                consumer.settle()


def ask(role: Role, admin: unimq.Broker) -> None:
    with admin.consumer("orders") as consumer, role.connect() as broker:
        request = broker.request
        answered: list[unimq.Delivery[Any]] = []

        def answer() -> None:
            (asked,) = receive(consumer, 1)
            assert asked.reply_to is not None
            with admin.producer(unimq.Queue(asked.reply_to, dead_letter=False)) as producer:
                producer.send(unimq.Message(b"reply", correlation_id=asked.correlation_id))
            asked.ack()
            consumer.settle()

        thread = threading.Thread(target=answer)
        thread.start()
        answered.append(request("orders", b"request", timeout=WITHIN))
        thread.join(WITHIN)
        assert answered[0].body == b"reply"


def administer(role: Role, admin: unimq.Broker) -> None:
    admin.delete(*ALL)
    with role.connect(declare=True) as broker:
        for _ in range(2):
            broker.declare(ORDERS, EVENTS, AUDIT)
        with admin.producer(DEAD) as producer:
            producer.send(b"dead")
        for source in (ORDERS, AUDIT):
            broker.stats(source)
        assert broker.redrive(ORDERS).moved == 1
        broker.purge(ORDERS)
        broker.delete(*ALL)


@pytest.mark.parametrize(
    ("role", "work"),
    [("producer", produce), ("consumer", consume), ("requester", ask), ("administrator", administer)],
    indirect=["role"],
)
def test_a_role_gets_along_with_its_policy_and_uses_all_of_it(
    role: Role, work: Callable[[Role, unimq.Broker], None], emulator: str
) -> None:
    with unimq.connect(emulator) as admin:
        work(role, admin)
    # Whoever finds no queue of a name looks for one with the other ordering; that one it need not be allowed to see.
    refused = {what for what in role.police.refused if what[0] != "sqs:GetQueueUrl" or not what[1].endswith(".fifo")}
    assert refused <= {PROBE, ("sns:ListTopics", "*")}
    unused = set(role.police.pairs()) - role.police.used
    assert not unused, "more than the role needs"


@pytest.mark.parametrize("role", ["consumer"], indirect=True)
def test_what_a_policy_does_not_allow_is_refused_at_once(role: Role) -> None:
    with role.connect() as broker:
        role.proxy.requests.clear()
        with broker.producer("orders") as producer, pytest.raises(unimq.AuthError, match="'orders'"):
            producer.send(b"not mine to send")
        assert role.proxy.requests["SendMessageBatch"] == 1, "a refusal is no reason to try again (E2)"
        with broker.consumer(DEAD) as consumer, pytest.raises(unimq.AuthError, match="orders-dead"):
            consumer.receive(timeout=WITHIN)
        assert role.proxy.requests["ReceiveMessage"] == 1
        with pytest.raises(unimq.AuthError):
            broker.purge("orders")


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No credentials, no region, no configuration, and no metadata service that could be asked for any."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path / "config"


def as_it_is(name: str, text: str) -> str | None:
    return text or None


HERE = "endpoint=https://127.0.0.1:1&sns_endpoint=https://127.0.0.1:1"


@pytest.mark.parametrize(
    ("url", "config", "error", "words"),
    [
        (f"sqs://?region=eu-west-1&{HERE}", "", unimq.AuthError, "credentials"),
        (f"sqs://?{HERE}", "", unimq.ConfigError, "region"),
        (f"sqs://?region=eu-west-1&profile=nobody&{HERE}", "", unimq.ConfigError, "nobody"),
        (
            f"sqs://?region=eu-west-1&{HERE}",
            "[default]\ncredential_process = /bin/false\n",
            unimq.AuthError,
            "credentials",
        ),
    ],
    ids=["no credentials", "no region", "no such profile", "a source that gives none"],
)
def test_what_is_missing_is_said_before_any_request(
    url: str, config: str, error: type[unimq.UnimqError], words: str, nobody: Path
) -> None:
    nobody.write_text(config)
    with pytest.raises(error, match=words):
        unimq.connect(url, timeout=WITHIN)


@pytest.mark.parametrize("http", ["botocore", "fast"])
def test_credentials_that_expire_are_fetched_again(
    nobody: Path, tmp_path: Path, emulator: str, monkeypatch: pytest.MonkeyPatch, http: str
) -> None:
    """Each set is one that AWS would refuse soon, so that another is fetched before the next request."""
    script = tmp_path / "credentials.py"
    script.write_text(
        f"""#!{sys.executable}
import datetime, json, pathlib
file = pathlib.Path({str(tmp_path / "count")!r})
number = int(file.read_text()) + 1 if file.exists() else 1
file.write_text(str(number))
expires = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=60)
print(json.dumps({{"Version": 1, "AccessKeyId": f"KEY{{number}}", "SecretAccessKey": "s",
    "SessionToken": f"token-{{number}}", "Expiration": expires.isoformat()}}))
"""
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    nobody.write_text(f"[default]\nregion = us-east-1\ncredential_process = {script}\n")
    with SQSFaultProxy(("127.0.0.1", urlsplit(emulator).port or 0)) as proxy:
        address = f"http://127.0.0.1:{proxy.port}"
        # Only the test goes without TLS, which the URL would not allow.
        monkeypatch.setattr("unimq_sqs._options._https", as_it_is)
        url = f"sqs://?endpoint={address}&sns_endpoint={address}&declare=false&http={http}"
        with unimq.connect(emulator) as admin, unimq.connect(url, timeout=WITHIN) as broker:
            admin.declare(unimq.Queue("expiring", dead_letter=False))
            with broker.producer("expiring") as producer:
                for _ in range(3):
                    producer.send(b"x")
            admin.delete("expiring")
        keys = [key for key in proxy.signers if key.startswith("KEY")]
    assert len(keys) >= 3, "one set of credentials was used until it expired"
    assert keys == sorted(keys, key=lambda key: int(key.removeprefix("KEY")))
