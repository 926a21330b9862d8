"""Every verdict of the judge: a history that must be flagged, and its nearest legal neighbour that must not."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from unimq_contract.history import NO_FLOORS, ContractBroken, Floors, Kind, ProvedNothing, Rules, Verdict, judge
from unimq_contract.history import events as ev
from unimq_contract.history.verdict import QUOTED_FINDINGS

SECOND = 1_000_000_000
STEP = SECOND // 100
"""Time between two events of a tale; the rules below have no tolerance that could hide it."""

RULES = Rules(floors=NO_FLOORS, tolerance=0.0, shadow=0.0)
BY_KEY = replace(RULES, ordering="key")


@dataclass
class Tale:
    """A history told event by event, each a step later than the one before."""

    events: list[ev.Event] = field(default_factory=list[ev.Event])
    now: int = 1000 * SECOND
    sequence: int = 0
    number: int = 0
    numbers: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    contents: dict[str, ev.Content] = field(default_factory=dict[str, ev.Content])

    def tell(self, make: Any, *fields: Any, **named: Any) -> "Tale":
        self.now += STEP
        self.events.append(make(self.now, *fields, **named))
        return self

    def later(self, seconds: float) -> "Tale":
        self.now += int(seconds * SECOND)
        return self

    def sending(
        self, name: str, *, key: str | None = None, target: str = "q", producer: str = "p", **more: int
    ) -> "Tale":
        self.sequence += 1
        self.contents[name] = ev.content_of(name, name.encode(), key, {"h": "v"}, "text/plain")
        return self.tell(ev.Sending, name, target, producer, self.sequence, self.contents[name], **more)

    def send(self, *names: str, **more: Any) -> "Tale":
        for name in names:
            self.sending(name, **more).tell(ev.Sent, name)
        return self

    def get(self, name: str, consumer: str = "c", attempt: int = 1, *, group: str = "q", **more: Any) -> "Tale":
        self.number += 1
        self.numbers[name, consumer] = self.number
        content = more.pop("content", None) or self.contents.get(name) or ev.Content(name, "body")
        return self.tell(ev.Delivered, name, group, consumer, self.number, attempt, content, **more)

    def where(self, name: str, consumer: str, group: str) -> tuple[str, str, str, int]:
        return name, group, consumer, self.numbers[name, consumer]

    def settle(
        self, name: str, consumer: str = "c", how: ev.How = "ack", delay: float = 0.0, *, group: str = "q"
    ) -> "Tale":
        return self.tell(ev.Settling, *self.where(name, consumer, group), how, int(delay * SECOND))

    def nack(self, name: str, consumer: str = "c", delay: float = 0.0) -> "Tale":
        return self.settle(name, consumer, "nack", delay)

    def refused(self, name: str, consumer: str = "c", why: str = "stale") -> "Tale":
        return self.tell(ev.Refused, *self.where(name, consumer, "q"), why)

    def confirm(self, name: str, consumer: str = "c") -> "Tale":
        return self.tell(ev.Confirmed, consumer, [self.numbers[name, consumer]])

    def unconfirmed(self, name: str, consumer: str = "c") -> "Tale":
        return self.tell(ev.Unconfirmed, consumer, [self.numbers[name, consumer]])

    def ack(self, *names: str, consumer: str = "c", group: str = "q") -> "Tale":
        for name in names:
            self.settle(name, consumer, group=group).confirm(name, consumer)
        return self

    def close(self, consumer: str = "c", *, clean: bool = True) -> "Tale":
        return self.tell(ev.Closing, "q", consumer).tell(ev.Closed, "q", consumer, clean)

    def crash(self, consumer: str = "c") -> "Tale":
        return self.tell(ev.Crashed, "q", consumer)

    def lapse(self, consumer: str = "c") -> "Tale":
        return self.tell(ev.Lapsed, "q", consumer)

    def down(self, what: str = "cut") -> "Tale":
        return self.tell(ev.Down, what)

    def up(self, what: str = "cut") -> "Tale":
        return self.tell(ev.Up, what)

    def judge(self, rules: Rules = RULES) -> Verdict:
        return judge(self.events, rules)


def tale() -> Tale:
    return Tale()


def sent(*names: str, **more: Any) -> Tale:
    return Tale().send(*names, **more)


def expiring(name: str, seconds: float) -> Tale:
    story = Tale()
    return story.send(name, expires=story.now + int(seconds * SECOND))


def delayed(name: str, seconds: float) -> Tale:
    story = Tale()
    return story.send(name, not_before=story.now + STEP + int(seconds * SECOND))


def leased(seconds: float) -> Tale:
    story = sent("m")
    return story.get("m", lease_until=story.now + STEP + int(seconds * SECOND))


def dead_letter(*, settled: bool = True) -> Tale:
    story = tale().tell(ev.Subscribed, "q", "q-dead", dead_letters=True).send("m").get("m")
    if settled:
        story.settle("m", how="reject").confirm("m")
    return story


CHANGED = ev.content_of("m", b"other", None, {"h": "v"}, "text/plain")
NO_HEADER = ev.content_of("m", b"m", None, {}, "text/plain")
NO_TYPE = ev.content_of("m", b"m", None, {"h": "v"})
EMPTY_KEY = ev.content_of("m", b"m", "", {"h": "v"}, "text/plain")
OTHER_ID = ev.content_of("n", b"m", None, {"h": "v"}, "text/plain")
BINARY_HEADER = ev.content_of("m", b"m", None, {"h": b"v"}, "text/plain")


def two_groups() -> Tale:
    return tale().tell(ev.Topic, "t").tell(ev.Subscribed, "t", "t--a").tell(ev.Subscribed, "t", "t--b")


BROKEN: dict[str, tuple[Kind, Tale, Rules]] = {
    "confirmed and never delivered": (Kind.LOST, sent("m"), RULES),
    "delivered and never settled": (Kind.LOST, sent("m").get("m"), RULES),
    "nacked and not delivered again": (Kind.LOST, sent("m").get("m").nack("m").confirm("m"), RULES),
    "ack refused and not delivered again": (Kind.LOST, sent("m").get("m").settle("m").refused("m"), RULES),
    "returned by close and gone": (Kind.LOST, sent("m").get("m").close(), RULES),
    "one of two subscriptions missed it": (
        Kind.LOST,
        two_groups().send("m", target="t").get("m", "a", group="t--a").ack("m", consumer="a", group="t--a"),
        RULES,
    ),
    "unconfirmed ack, came again, then gone": (
        Kind.LOST,
        sent("m").get("m").settle("m").unconfirmed("m").get("m", "d", 2).nack("m", "d"),
        RULES,
    ),
    "recovered, nacked and gone": (
        Kind.LOST,
        tale().sending("m").tell(ev.MaybeSent, "m").get("m").nack("m"),
        RULES,
    ),
    "not expired and never delivered": (Kind.LOST, expiring("m", 60), RULES),
    "dead letter that never came": (
        Kind.LOST,
        dead_letter().tell(ev.Opened, "q-dead", "d"),
        RULES,
    ),
    "nobody sent it": (Kind.UNEXPECTED, sent("m").get("m").ack("m").get("x").ack("x"), RULES),
    "sent to another queue": (
        Kind.UNEXPECTED,
        sent("m", target="other").get("m", "o", group="other").ack("m", consumer="o", group="other").get("m").ack("m"),
        RULES,
    ),
    "dead letter that nobody gave up": (
        Kind.UNEXPECTED,
        dead_letter(settled=False).ack("m").get("m", "d", group="q-dead").ack("m", consumer="d", group="q-dead"),
        RULES,
    ),
    "dead letter before the limit": (
        Kind.UNEXPECTED,
        dead_letter(settled=False).nack("m").get("m", "d", group="q-dead").ack("m", consumer="d", group="q-dead"),
        replace(RULES, max_deliveries=2),
    ),
    "refused at the send, yet delivered": (
        Kind.ABORTED,
        tale().sending("m").tell(ev.NotSent, "m").get("m").ack("m"),
        RULES,
    ),
    "refusal told after the delivery": (
        Kind.ABORTED,
        tale().sending("m").get("m").ack("m").tell(ev.NotSent, "m"),
        RULES,
    ),
    "two hold it": (Kind.LEASED_TWICE, sent("m").get("m").get("m", "d", 2).ack("m", consumer="d"), RULES),
    "two hold it, the lease lives": (Kind.LEASED_TWICE, leased(10).get("m", "d", 2).ack("m", consumer="d"), RULES),
    "two hold it, the lease was extended": (
        Kind.LEASED_TWICE,
        (story := leased(1))
        .tell(ev.Extended, *story.where("m", "c", "q"), story.now + 60 * SECOND)
        .later(2)
        .get("m", "d", 2)
        .ack("m", consumer="d"),
        RULES,
    ),
    "two hold it, the fault was before": (
        Kind.LEASED_TWICE,
        sent("m").down().up().get("m").get("m", "d", 2).ack("m", consumer="d"),
        RULES,
    ),
    "two hold it, another consumer closed": (
        Kind.LEASED_TWICE,
        sent("m").tell(ev.Opened, "q", "e").get("m").close("e").get("m", "d", 2).ack("m", consumer="d"),
        RULES,
    ),
    "two hold it, then the ack is refused": (
        Kind.LEASED_TWICE,
        sent("m").get("m").settle("m").get("m", "d", 2).refused("m").ack("m", consumer="d"),
        RULES,
    ),
    "after a confirmed ack": (
        Kind.ACKED_YET_REDELIVERED,
        sent("m").get("m").ack("m").get("m", "c", 2).ack("m"),
        RULES,
    ),
    "after a confirmed ack and a fault": (
        Kind.ACKED_YET_REDELIVERED,
        sent("m").get("m").ack("m").down().up().get("m", "c", 2).ack("m"),
        RULES,
    ),
    "after a confirmed ack and a crash": (
        Kind.ACKED_YET_REDELIVERED,
        sent("m").get("m").ack("m").crash().get("m", "d", 2).ack("m", consumer="d"),
        RULES,
    ),
    "undone by a fault that may not": (
        Kind.ACKED_YET_REDELIVERED,
        sent("m").get("m").ack("m").down().up().get("m", "d", 2).ack("m", consumer="d"),
        replace(RULES, acks_undone_by=frozenset({"broker killed"})),
    ),
    "ack confirmed by a clean close": (
        Kind.ACKED_YET_REDELIVERED,
        sent("m").get("m").settle("m").close().get("m", "d", 2).ack("m", consumer="d"),
        RULES,
    ),
    "confirmed although it came again between": (
        Kind.ACKED_YET_REDELIVERED,
        sent("m").get("m").settle("m").get("m", "d", 2).confirm("m").ack("m", consumer="d"),
        RULES,
    ),
    "after a confirmed reject": (
        Kind.DUPLICATED,
        sent("m").get("m").settle("m", how="reject").confirm("m").get("m", "c", 2).ack("m"),
        RULES,
    ),
    "after the last failure": (
        Kind.DUPLICATED,
        sent("m").get("m").nack("m").confirm("m").get("m", "c", 2).ack("m"),
        replace(RULES, max_deliveries=1),
    ),
    "after it was dropped": (
        Kind.DUPLICATED,
        sent("m").tell(ev.Discarded, "m", "q", "dropped").get("m").ack("m"),
        RULES,
    ),
    "more than the faults can cause": (
        Kind.DUPLICATED,
        sent("m").get("m").crash().get("m", "d", 2).ack("m", consumer="d"),
        replace(RULES, most_excused=0),
    ),
    "ack of a delivery whose lease was over": (
        Kind.STALE_ACK,
        leased(0.01).later(1).get("m", "d", 2).settle("m").confirm("m").ack("m", consumer="d"),
        RULES,
    ),
    "stray accepted after the ack of its holder": (
        Kind.STALE_ACK,
        sent("m").get("m").lapse().get("m", "d", 2).ack("m", consumer="d").get("m").ack("m"),
        RULES,
    ),
    "stray confirmed, yet it comes again": (
        Kind.ACKED_YET_REDELIVERED,
        sent("m").lapse().get("m").ack("m").get("m", "d", 2).ack("m", consumer="d"),
        RULES,
    ),
    "only a stray came, and its ack was refused": (
        Kind.LOST,
        sent("m").lapse().get("m").settle("m").refused("m"),
        RULES,
    ),
    "message of a holder that did not lapse, given to another": (
        Kind.LEASED_TWICE,
        sent("m").lapse("x").get("m").get("m", "d", 2).ack("m", consumer="d"),
        RULES,
    ),
    "second ack accepted": (Kind.SETTLED_TWICE, sent("m").get("m").settle("m").settle("m").confirm("m"), RULES),
    "later one first": (
        Kind.REORDERED,
        sent("a", "b", key="k").get("b").ack("b").get("a").ack("a"),
        BY_KEY,
    ),
    "later one first, confirmed later": (
        Kind.REORDERED,
        tale().sending("a", key="k").send("b", key="k").get("b").ack("b").get("a").ack("a").tell(ev.Sent, "a"),
        BY_KEY,
    ),
    "next one while the first is held": (
        Kind.KEY_OVERLAP,
        sent("a", "b", key="k").get("a").get("b").ack("a", "b"),
        BY_KEY,
    ),
    "next one while the first waits after a nack": (
        Kind.KEY_OVERLAP,
        sent("a", "b", key="k").get("a").nack("a").get("b").ack("b").get("a", "c", 2).ack("a"),
        BY_KEY,
    ),
    "next one before the crashed first": (
        Kind.KEY_OVERLAP,
        sent("a", "b", key="k")
        .get("a")
        .crash()
        .get("b", "d")
        .ack("b", consumer="d")
        .get("a", "d", 2)
        .ack("a", consumer="d"),
        BY_KEY,
    ),
    "two producers, one key, both held": (
        Kind.KEY_OVERLAP,
        sent("a", key="k").send("b", key="k", producer="r").get("b").get("a", "d").ack("b").ack("a", consumer="d"),
        BY_KEY,
    ),
    "other bytes": (Kind.CHANGED, sent("m").get("m", content=CHANGED).ack("m"), RULES),
    "header gone": (Kind.CHANGED, sent("m").get("m", content=NO_HEADER).ack("m"), RULES),
    "content type gone": (Kind.CHANGED, sent("m").get("m", content=NO_TYPE).ack("m"), RULES),
    "no key became an empty one": (Kind.CHANGED, sent("m").get("m", content=EMPTY_KEY).ack("m"), RULES),
    "other id": (Kind.CHANGED, sent("m").get("m", content=OTHER_ID).ack("m"), RULES),
    "text header became binary": (Kind.CHANGED, sent("m").get("m", content=BINARY_HEADER).ack("m"), RULES),
    "first attempt is 2": (Kind.ATTEMPTS, sent("m").get("m", attempt=2).ack("m"), RULES),
    "attempt is 0": (Kind.ATTEMPTS, sent("m").get("m", attempt=0).ack("m"), replace(RULES, attempts="restarting")),
    "attempt stays 1": (Kind.ATTEMPTS, sent("m").get("m").nack("m").get("m").ack("m"), RULES),
    "attempt stays 1 where a fault may restart it": (
        Kind.ATTEMPTS,
        sent("m").get("m").nack("m").get("m").ack("m"),
        replace(RULES, attempts="restarting"),
    ),
    "attempt skips": (Kind.ATTEMPTS, sent("m").get("m").nack("m").get("m", attempt=3).ack("m"), RULES),
    "attempt restarts after a crash": (
        Kind.ATTEMPTS,
        sent("m").get("m").crash().get("m", "d").ack("m", consumer="d"),
        RULES,
    ),
    "nack does not count where only a shutdown does not": (
        Kind.ATTEMPTS,
        sent("m").get("m").nack("m").close().get("m", "d").ack("m", consumer="d"),
        replace(RULES, shutdown_counts=False),
    ),
    "before its delay": (Kind.EARLY, delayed("m", 1).get("m").ack("m"), RULES),
    "before the delay of its nack": (
        Kind.EARLY,
        sent("m").get("m").nack("m", delay=1).get("m", "c", 2).ack("m"),
        RULES,
    ),
    "after its end": (Kind.EXPIRED, expiring("m", 1).later(2).get("m").ack("m"), RULES),
    "nothing left of one unsettled": (
        Kind.CONSERVATION,
        sent("m", "n").get("m").ack("m").tell(ev.Depth, "q", 0).get("n").ack("n"),
        RULES,
    ),
    "something left after all was settled": (
        Kind.CONSERVATION,
        sent("m").get("m").ack("m").tell(ev.Depth, "q", 1),
        RULES,
    ),
    "slow after the fault": (
        Kind.LATE,
        sent("m").down().up().later(5).get("m").ack("m"),
        replace(RULES, resumes_within=4),
    ),
    "nothing after the fault": (
        Kind.LATE,
        sent("m").get("m").ack("m").down().up(),
        replace(RULES, resumes_within=4),
    ),
    "settled late": (Kind.LATE, sent("m").later(5).get("m").ack("m"), replace(RULES, settles_within=4)),
    "ack of nothing": (Kind.MALFORMED, sent("m").get("m").ack("m").tell(ev.Settling, "m", "q", "c", 99), RULES),
    "one id twice": (Kind.MALFORMED, sent("m").get("m").ack("m").sending("m"), RULES),
    "confirmed and never settled": (Kind.MALFORMED, sent("m").get("m").confirm("m").ack("m"), RULES),
    "end of a fault that never began": (Kind.MALFORMED, sent("m").get("m").ack("m").up(), RULES),
}

LEGAL: dict[str, tuple[str, Tale, Rules]] = {
    "acked": ("", sent("m").get("m").ack("m"), RULES),
    "nothing at all": ("", tale(), RULES),
    "not drained, so not lost": ("", sent("m"), replace(RULES, drained=False)),
    "refused and never delivered": ("", tale().sending("m").tell(ev.NotSent, "m"), RULES),
    "unknown and never delivered": ("", tale().sending("m").tell(ev.MaybeSent, "m"), RULES),
    "no outcome at all and never delivered": ("", tale().sending("m"), RULES),
    "expired and never delivered": ("", expiring("m", 1).later(2).tell(ev.Depth, "q", 0), RULES),
    "dropped and never delivered": ("", sent("m").tell(ev.Discarded, "m", "q", "dropped"), RULES),
    "rejected": ("", sent("m").get("m").settle("m", how="reject").confirm("m"), RULES),
    "topic without subscription": ("", tale().tell(ev.Topic, "t").send("m", target="t"), RULES),
    "sent before the subscription": (
        "",
        tale().tell(ev.Topic, "t").send("m", target="t").tell(ev.Subscribed, "t", "t--a"),
        RULES,
    ),
    "both subscriptions got it": (
        "",
        two_groups()
        .send("m", target="t")
        .get("m", "a", group="t--a")
        .ack("m", consumer="a", group="t--a")
        .get("m", "b", group="t--b")
        .ack("m", consumer="b", group="t--b"),
        RULES,
    ),
    "dead letter that came": (
        "",
        dead_letter().get("m", "d", group="q-dead").ack("m", consumer="d", group="q-dead"),
        RULES,
    ),
    "dead letter at the limit": (
        "",
        dead_letter(settled=False)
        .nack("m")
        .confirm("m")
        .get("m", "d", group="q-dead")
        .ack("m", consumer="d", group="q-dead"),
        replace(RULES, max_deliveries=1),
    ),
    "dead letter after a crash at the limit": (
        "",
        dead_letter(settled=False).crash().get("m", "d", group="q-dead").ack("m", consumer="d", group="q-dead"),
        replace(RULES, max_deliveries=1),
    ),
    "redriven": (
        "redrive",
        sent("m").get("m").settle("m", how="reject").confirm("m").tell(ev.Redriven, "q").get("m").ack("m"),
        RULES,
    ),
    "nacked": ("nack", sent("m").get("m").nack("m").get("m", "d", 2).ack("m", consumer="d"), RULES),
    "nacked with delay": (
        "nack",
        sent("m").get("m").nack("m", delay=1).later(1).get("m", "c", 2).ack("m"),
        RULES,
    ),
    "nacked with delay, then closed": (
        "nack",
        sent("m").get("m").nack("m", delay=1).close().get("m", "d", 2).ack("m", consumer="d"),
        RULES,
    ),
    "lease over": ("end of lease", leased(0.01).later(1).get("m", "d", 2).ack("m", consumer="d"), RULES),
    "lease over and the late ack refused": (
        "end of lease",
        leased(0.01).later(1).get("m", "d", 2).settle("m").refused("m").ack("m", consumer="d"),
        RULES,
    ),
    "lease over while the ack is under way, which is refused": (
        "end of lease",
        leased(0.02).settle("m").later(1).get("m", "d", 2).refused("m").ack("m", consumer="d"),
        RULES,
    ),
    "lease taken for a known reason": (
        "end of lease",
        (story := sent("m").get("m"))
        .tell(ev.LeaseEnded, *story.where("m", "c", "q"))
        .get("m", "d", 2)
        .ack("m", consumer="d"),
        RULES,
    ),
    "revoked": (
        "revocation",
        sent("m").get("m").tell(ev.Revoked, "q", "c").get("m", "d", 2).ack("m", consumer="d"),
        RULES,
    ),
    "lapsed": ("revocation", sent("m").get("m").lapse().get("m", "d", 2).ack("m", consumer="d"), RULES),
    "stray behind the ack of its new holder": (
        "out of the group, revocation",
        sent("m").get("m").lapse().get("m", "d", 2).ack("m", consumer="d").get("m").settle("m").refused("m"),
        RULES,
    ),
    "stray while its new holder has it": (
        "out of the group",
        sent("m").lapse().get("m", "d", 2).get("m").settle("m").ack("m", consumer="d").refused("m"),
        RULES,
    ),
    "stray before its new holder gets it": (
        "",
        sent("a", "b", key="k")
        .lapse()
        .get("a")
        .get("b")
        .settle("b")
        .refused("b")
        .get("a", "d")
        .ack("a", consumer="d")
        .get("b", "d")
        .ack("b", consumer="d"),
        BY_KEY,
    ),
    "lapsed and a member again, which takes over from one that was revoked": (
        "out of the group",
        sent("a", "b", key="k")
        .lapse()
        .get("a", "d")
        .get("a")
        .ack("a")
        .settle("a", "d")
        .refused("a", "d")
        .get("b", "d")
        .ack("b", consumer="d"),
        BY_KEY,
    ),
    "stray whose ack nobody confirmed": ("", sent("m").lapse().get("m").settle("m").unconfirmed("m"), RULES),
    "stray whose ack nobody confirmed, then delivered": (
        "unconfirmed settlement",
        sent("m").lapse().get("m").settle("m").unconfirmed("m").get("m", "d", 2).ack("m", consumer="d"),
        RULES,
    ),
    "stray nacked by a member again": (
        "nack",
        sent("m").lapse().get("m").nack("m").confirm("m").get("m", "d", 2).ack("m", consumer="d"),
        RULES,
    ),
    "new epoch": ("revocation", sent("m").get("m", epoch=1).get("m", "c", 2, epoch=2).ack("m"), RULES),
    "closed": ("close", sent("m").get("m").close().get("m", "d", 2).ack("m", consumer="d"), RULES),
    "crashed": ("crash", sent("m").get("m").crash().get("m", "d", 2).ack("m", consumer="d"), RULES),
    "crashed before the ack was confirmed": (
        "unconfirmed settlement",
        sent("m").get("m").settle("m").crash().get("m", "d", 2).ack("m", consumer="d"),
        RULES,
    ),
    "crashed before the ack was confirmed, never seen again": ("", sent("m").get("m").settle("m").crash(), RULES),
    "settled between the decision to kill and the death": (
        "unconfirmed settlement",
        sent("m").get("m").crash().settle("m").get("m", "d", 2).ack("m", consumer="d"),
        RULES,
    ),
    "fault while held": (
        "fault",
        sent("m").get("m").down().up().get("m", "d", 2).ack("m", consumer="d"),
        RULES,
    ),
    "held since shortly after the fault": (
        "fault",
        sent("m").down().up().get("m").get("m", "d", 2).ack("m", consumer="d"),
        replace(RULES, shadow=1.0),
    ),
    "fault while the ack is under way": (
        "unconfirmed settlement",
        sent("m").get("m").settle("m").down().unconfirmed("m").up().get("m", "d", 2).ack("m", consumer="d"),
        RULES,
    ),
    "fault, redelivery, then the settle fails": (
        "unconfirmed settlement",
        sent("m").get("m").settle("m").down().up().get("m", "d", 2).unconfirmed("m").ack("m", consumer="d"),
        RULES,
    ),
    "close during a fault proves no ack": (
        "unconfirmed settlement",
        sent("m").get("m").settle("m").down().close().up().get("m", "d", 2).ack("m", consumer="d"),
        RULES,
    ),
    "close that failed proves no ack": (
        "unconfirmed settlement",
        sent("m").get("m").settle("m").close(clean=False).get("m", "d", 2).ack("m", consumer="d"),
        RULES,
    ),
    "fault undoes an ack where that is declared": (
        "ack undone by a fault",
        sent("m").get("m").ack("m").down().up().get("m", "d", 2).ack("m", consumer="d"),
        replace(RULES, acks_undone_by=frozenset({"cut"})),
    ),
    "rebalance where that is declared": (
        "rebalance",
        sent("m").get("m").tell(ev.Opened, "q", "d").get("m", "d", 2).ack("m", consumer="d"),
        replace(RULES, rebalance=1.0),
    ),
    "rebalance restarts the attempts where it may": (
        "rebalance",
        sent("m").get("m").tell(ev.Opened, "q", "d").get("m", "d", 1).ack("m", consumer="d"),
        replace(RULES, rebalance=1.0, attempts="restarting"),
    ),
    "stored twice after an unknown send": (
        "stored twice",
        tale().sending("m").tell(ev.MaybeSent, "m").get("m").get("m", "d").ack("m").ack("m", consumer="d"),
        RULES,
    ),
    "stored twice because a fault met the send": (
        "stored twice",
        tale().sending("m").down().up().tell(ev.Sent, "m").get("m").ack("m").get("m").ack("m"),
        RULES,
    ),
    "stored twice, which shows before the send ends": (
        "nack, stored twice",
        tale()
        .sending("m")
        .down()
        .up()
        .get("m")
        .nack("m")
        .get("m", "c", 2)
        .get("m", "d", 1)
        .tell(ev.Sent, "m")
        .ack("m")
        .ack("m", consumer="d"),
        RULES,
    ),
    "recorded after its consumer was closed": (
        "",
        sent("m").tell(ev.Opened, "q", "c").close().get("m", "d", 2).get("m", "c", 1).ack("m", consumer="d"),
        RULES,
    ),
    "an attempt was used up by one that was about to close": (
        "nack",
        sent("m")
        .tell(ev.Opened, "q", "c")
        .tell(ev.Opened, "q", "d")
        .tell(ev.Closing, "q", "d")
        .get("m")
        .nack("m")
        .tell(ev.Closed, "q", "d")
        .get("m", attempt=3)
        .ack("m"),
        RULES,
    ),
    "second ack refused": ("", sent("m").get("m").settle("m").refused("m", why="again").confirm("m"), RULES),
    "in order": ("", sent("a", "b", key="k").get("a").ack("a").get("b").ack("b"), BY_KEY),
    "later one first without a promise": ("", sent("a", "b", key="k").get("b").get("a").ack("b", "a"), RULES),
    "later one of another key first": (
        "",
        sent("a", key="k").send("b", key="l").get("b").get("a").ack("b", "a"),
        BY_KEY,
    ),
    "without key there is no order": ("", sent("a", "b").get("b").get("a").ack("b", "a"), BY_KEY),
    "two producers have no common order": (
        "",
        sent("a", key="k").send("b", key="k", producer="r").get("b").ack("b").get("a").ack("a"),
        BY_KEY,
    ),
    "unknown one may come late": (
        "",
        tale().sending("a", key="k").send("b", key="k").tell(ev.MaybeSent, "a").get("b").ack("b").get("a").ack("a"),
        BY_KEY,
    ),
    "nacked head comes again before the next": (
        "nack",
        sent("a", "b", key="k").get("a").nack("a").get("a", "c", 2).ack("a").get("b").ack("b"),
        BY_KEY,
    ),
    "crash goes back to the first that is not acked": (
        "unconfirmed settlement, crash",
        sent("a", "b", key="k")
        .get("a")
        .settle("a")
        .get("b")
        .crash()
        .get("a", "d", 2)
        .ack("a", consumer="d")
        .get("b", "d", 2)
        .ack("b", consumer="d"),
        BY_KEY,
    ),
    "expired head does not block": (
        "nack",
        (story := expiring("a", 1))
        .send("b")
        .get("a")
        .nack("a")
        .later(2)
        .get("b")
        .ack("b")
        .send("c")
        .get("c")
        .nack("c")
        .get("c", "c", 2)
        .ack("c"),
        BY_KEY,
    ),
    "attempt skips what nobody saw": (
        "nack",
        sent("m").get("m").nack("m").get("m", attempt=3).ack("m"),
        replace(RULES, attempts="skipping"),
    ),
    "attempt skips after a crash": (
        "nack",
        sent("m").get("m").nack("m").crash("e").get("m", attempt=3).ack("m"),
        RULES,
    ),
    "attempt restarts after a crash where that is declared": (
        "crash",
        sent("m").get("m").crash().get("m", "d").ack("m", consumer="d"),
        replace(RULES, attempts="restarting"),
    ),
    "a close does not count where that is declared": (
        "close",
        sent("m").get("m").close().get("m", "d").ack("m", consumer="d"),
        replace(RULES, shutdown_counts=False),
    ),
    "after its delay": ("", delayed("m", 1).later(1).get("m").ack("m"), RULES),
    "before its end": ("", expiring("m", 1).get("m").ack("m"), RULES),
    "what is left adds up": (
        "",
        sent("m", "n").get("m").ack("m").tell(ev.Depth, "q", 1).get("n").ack("n"),
        RULES,
    ),
    "held and delayed count too": (
        "",
        sent("m", "n", "o").get("m").tell(ev.Depth, "q", 1, 1, 1).ack("m").get("n").ack("n").get("o").ack("o"),
        RULES,
    ),
    "unknown sends widen what may be left": (
        "",
        tale().sending("m").tell(ev.MaybeSent, "m").tell(ev.Depth, "q", 1).get("m").ack("m"),
        RULES,
    ),
    "quick after the fault": (
        "",
        sent("m").down().up().get("m").ack("m"),
        replace(RULES, resumes_within=4, settles_within=4),
    ),
    "as many as the faults can cause": (
        "crash",
        sent("m").get("m").crash().get("m", "d", 2).ack("m", consumer="d"),
        replace(RULES, most_excused=1),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_history_is_flagged_for_what_it_is(name: str) -> None:
    kind, story, rules = BROKEN[name]
    verdict = story.judge(rules)
    assert dict(verdict.found) == {kind: 1}, verdict.report()
    assert not verdict.clean
    assert not verdict.proved
    with pytest.raises(ContractBroken, match=kind.title):
        verdict.raise_if_broken()


@pytest.mark.parametrize("name", LEGAL)
def test_a_legal_history_is_clean_and_its_duplicates_have_a_cause(name: str) -> None:
    cause, story, rules = LEGAL[name]
    verdict = story.judge(rules)
    assert verdict.clean, verdict.report()
    verdict.raise_if_broken()
    assert dict(verdict.counts.excused) == dict.fromkeys(filter(None, cause.split(", ")), 1)


def test_every_verdict_has_a_broken_history() -> None:
    assert {kind for kind, _, _ in BROKEN.values()} == set(Kind)


def test_the_order_in_which_the_events_of_several_processes_are_given_does_not_matter() -> None:
    story = sent("a", "b").get("a").nack("a").get("a", "d", 2).ack("a", consumer="d").get("b").ack("b")
    assert judge(reversed(story.events), RULES).clean


def test_counts() -> None:
    story = sent("a", "b", "c", "d").get("a").get("b").get("c", "e").ack("b", "a").nack("c", "e").get("c", "e", 2)
    story.ack("c", consumer="e").get("d").settle("d", how="reject").confirm("d").refused("d", why="again")
    story.sending("x").tell(ev.NotSent, "x").sending("y").tell(ev.MaybeSent, "y").get("y", "f").ack("y", consumer="f")
    story.close("f").crash("e").down("cut").up("cut")
    counts = story.judge().counts
    assert counts.events == len(story.events)
    assert (counts.sent, counts.not_sent, counts.maybe_sent, counts.recovered) == (4, 1, 1, 1)
    assert (counts.deliveries, counts.redeliveries, counts.overlaps) == (6, 1, 1)
    assert (counts.acks, counts.out_of_order_acks, counts.nacks, counts.rejects) == (4, 1, 1, 1)
    assert (counts.stale, counts.again, counts.closes, counts.crashes) == (0, 1, 1, 1)
    assert counts.faults == {"cut": 1}


@pytest.mark.parametrize(
    ("floors", "missing"),
    [
        (replace(NO_FLOORS, acks=3), "2 acks, 3 wanted"),
        (replace(NO_FLOORS, nacks=2), "1 nacks, 2 wanted"),
        (replace(NO_FLOORS, redeliveries=2), "1 redeliveries, 2 wanted"),
        (replace(NO_FLOORS, out_of_order_acks=2), "1 out of order acks, 2 wanted"),
        (replace(NO_FLOORS, overlaps=1), "0 overlaps, 1 wanted"),
        (replace(NO_FLOORS, faults={"cut": 2}), "1 faults 'cut', 2 wanted"),
        (replace(NO_FLOORS, faults={"stall": 1}), "0 faults 'stall', 1 wanted"),
    ],
)
def test_too_little_of_anything_proves_nothing(floors: Floors, missing: str) -> None:
    story = sent("a", "b").get("a").get("b").ack("b").nack("a").get("a", "c", 2).ack("a").down().up()
    verdict = story.judge(replace(RULES, floors=floors))
    assert verdict.clean
    assert verdict.missing == [missing]
    with pytest.raises(ProvedNothing, match=missing):
        verdict.raise_if_broken()
    enough = Floors(acks=2, nacks=1, redeliveries=1, out_of_order_acks=1, overlaps=0, faults={"cut": 1})
    story.judge(replace(RULES, floors=enough)).raise_if_broken()


def test_an_empty_history_proves_nothing() -> None:
    assert not judge([]).proved
    assert not judge([], replace(RULES, floors=Floors())).proved


def test_the_report_tells_the_story_and_names_the_guarantee() -> None:
    story = sent("innocent").get("innocent").ack("innocent").send("culprit").get("culprit").ack("culprit").down("cut")
    story.up("cut").get("culprit", "other", 2)
    report = story.judge().report()
    assert "1 x acked yet redelivered" in report
    assert "A1: a confirmed ack is final" in report
    assert "'other'" in report
    assert "numbers=[2]" in report
    assert "down  what='cut'" in report
    assert "innocent" not in report


def test_a_story_of_two_messages_tells_of_both() -> None:
    report = sent("a", "b", key="k").get("a").get("b").ack("a", "b").judge(BY_KEY).report()
    assert "key not one at a time" in report
    assert "delivered  message='a'" in report
    assert "delivered  message='b'" in report


def test_the_report_stays_short() -> None:
    story = sent(*(f"m{number}" for number in range(1000)))
    verdict = story.judge()
    assert verdict.found[Kind.LOST] == 1000
    assert len(verdict.findings) == QUOTED_FINDINGS
    assert len(verdict.report().splitlines()) < 40


def test_a_long_story_is_quoted_around_what_went_wrong() -> None:
    story = sent("m").get("m")
    for attempt in range(2, 200):
        story.nack("m").get("m", "c", attempt if attempt != 150 else 7)
    story.ack("m")
    finding = story.judge().findings[0]
    assert len(finding.story) == 25
    assert finding.story[0] is story.events[0]
    assert any(event.at == finding.at for event in finding.story)
