"""The judge: one pass over a history, one dictionary per group, every verdict with its cause.

*Consumed* means acked and confirmed, never merely delivered. A duplicate is not ignored but excused by its cause: since
the delivery before it there must have been a nack, an end of lease, a close, a crash, a fault, or a settlement whose
fate is unknown; or the message itself may have been stored twice because its send met a fault. All that is judged in
the order of time, except what only shows later: the fate of a send or of a settlement.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from unimq_contract.history.events import (
    Closed,
    Closing,
    Confirmed,
    Content,
    Crashed,
    Delivered,
    Depth,
    Discarded,
    Down,
    Event,
    Extended,
    Lapsed,
    LeaseEnded,
    MaybeSent,
    NotSent,
    Opened,
    Redriven,
    Refused,
    Revoked,
    Sending,
    Sent,
    Settling,
    Subscribed,
    Topic,
    Unconfirmed,
    Up,
)
from unimq_contract.history.rules import Rules
from unimq_contract.history.state import (
    CONFIRMED,
    DONE,
    HELD,
    LONG_AGO,
    LOST_SIGHT,
    MAYBE,
    OK,
    OPEN,
    PENDING,
    REJECTED,
    SETTLING,
    STALE,
    UNKNOWN,
    UNPLACED,
    ConsumerState,
    DeliveryState,
    Fate,
    Group,
    Lane,
    MessageState,
    Place,
    SendOutcome,
)
from unimq_contract.history.stories import with_stories
from unimq_contract.history.verdict import QUOTED_FINDINGS, Counts, Finding, Kind, Verdict

SECOND = 1_000_000_000


def judge(events: Iterable[Event], rules: Rules | None = None) -> Verdict:
    """Judge a whole history. The events of several processes need no order; equal times keep the given one."""
    ordered = sorted(events, key=lambda event: event.at)
    return _Judge(ordered, rules or Rules()).verdict()


class _Judge:
    """The state of one judgement."""

    def __init__(self, events: Sequence[Event], rules: Rules) -> None:
        self.events = events
        self.rules = rules
        self.start = events[0].at if events else 0
        self.now = self.start
        self.counts = Counts(events=len(events))
        self.found: Counter[Kind] = Counter()
        self.findings: list[Finding] = []
        self.tolerance = int(rules.tolerance * SECOND)
        self.shadow = int(rules.shadow * SECOND)
        self.rebalance = None if rules.rebalance is None else int(rules.rebalance * SECOND)
        self.by_key = rules.ordering == "key"
        self.messages: dict[str, MessageState] = {}
        self.groups: dict[str, Group] = {}
        self.targets: dict[str, list[Group]] = {}
        self.consumers: dict[str, ConsumerState] = {}
        self.suspects: list[DeliveryState] = []
        self.overtaken: list[tuple[MessageState, Delivered, MessageState]] = []
        self.faults = 0
        self.in_effect: Counter[str] = Counter()
        self.last_up = LONG_AGO
        self.acks_undone_at = LONG_AGO
        self.first_delivery_after_up = 0
        self.last_send = 0
        self.last_settled = 0

    def verdict(self) -> Verdict:
        handlers: dict[type, Callable[[Any], None]] = {
            Sending: self._sending,
            Sent: self._sent,
            NotSent: self._not_sent,
            MaybeSent: self._maybe_sent,
            Subscribed: self._subscribed,
            Topic: self._topic,
            Redriven: self._redriven,
            Opened: self._opened,
            Delivered: self._delivered,
            Settling: self._settling,
            Refused: self._refused,
            Confirmed: self._confirmed,
            Unconfirmed: self._unconfirmed,
            Extended: self._extended,
            LeaseEnded: self._lease_ended,
            Revoked: self._revoked,
            Lapsed: self._lapsed,
            Discarded: self._discarded,
            Closing: self._closing,
            Closed: self._closed,
            Crashed: self._crashed,
            Down: self._down,
            Up: self._up,
            Depth: self._depth,
        }
        for event in self.events:
            self.now = event.at
            handlers[type(event)](event)
        self._finish()
        return Verdict(self.start, self.counts, self.found, with_stories(self.findings, self.events), self._missing())

    # Sends.

    def _sending(self, event: Sending) -> None:
        name = event.message
        if name in self.messages:
            self._find(Kind.MALFORMED, f"message {name!r} is sent twice", name)
            return
        self.messages[name] = MessageState(event, self.faults, self._shaky())
        for group in self._groups_of(event.target):
            group.possible += 1
            group.transient += event.expires != 0

    def _outcome(self, name: str, outcome: SendOutcome) -> MessageState | None:
        message = self.messages.get(name)
        if message is None or message.outcome is not PENDING:
            self._find(Kind.MALFORMED, f"message {name!r} has an outcome without a send, or two", name)
            return None
        message.outcome = outcome
        if outcome is UNKNOWN or message.faults != self.faults:
            message.copies = True
        self.last_send = self.now
        return message

    def _sent(self, event: Sent) -> None:
        self.counts.sent += 1
        message = self._outcome(event.message, OK)
        if message is not None:
            for group in self._expecting(message.sending):
                group.ok += 1
                group.copies |= message.copies

    def _not_sent(self, event: NotSent) -> None:
        self.counts.not_sent += 1
        message = self._outcome(event.message, REJECTED)
        if message is not None:
            for group in self._expecting(message.sending):
                group.possible -= 1

    def _maybe_sent(self, event: MaybeSent) -> None:
        self.counts.maybe_sent += 1
        message = self._outcome(event.message, UNKNOWN)
        if message is not None:
            for group in self._expecting(message.sending):
                group.copies = True

    # Groups and their members.

    def _subscribed(self, event: Subscribed) -> None:
        group = self.groups.get(event.group)
        if group is None:
            group = Group(event.group, event.target, event.at)
            self.groups[event.group] = group
            if event.dead_letters:
                group.parent = self._group(event.target)
            else:
                self.targets.setdefault(event.target, []).append(group)
        elif group.target != event.target:
            self._find(Kind.MALFORMED, f"group {event.group!r} belongs to {group.target!r} and to {event.target!r}")

    def _topic(self, event: Topic) -> None:
        self.targets.setdefault(event.target, [])

    def _redriven(self, event: Redriven) -> None:
        self._group(event.group).redriven_at = event.at

    def _group(self, name: str) -> Group:
        group = self.groups.get(name)
        if group is None:
            group = self.groups[name] = Group(name, name, LONG_AGO)
            self.targets.setdefault(name, []).append(group)
        return group

    def _groups_of(self, target: str) -> list[Group]:
        groups = self.targets.get(target)
        if groups is None:
            # Sent before anything else is known of it: a queue.
            self._group(target)
            groups = self.targets.setdefault(target, [])
        return groups

    def _expecting(self, sending: Sending) -> list[Group]:
        return [group for group in self._groups_of(sending.target) if group.since <= sending.at]

    def _consumer(self, name: str, group: str) -> ConsumerState:
        consumer = self.consumers.get(name)
        if consumer is None:
            consumer = self.consumers[name] = ConsumerState(name, self._group(group))
            consumer.group.opened = True
        return consumer

    def _opened(self, event: Opened) -> None:
        if event.consumer in self.consumers:
            self._find(Kind.MALFORMED, f"two consumers are called {event.consumer!r}")
            return
        self._membership(self._consumer(event.consumer, event.group).group)

    def _membership(self, group: Group) -> None:
        group.members += 1
        group.members_changed_at = self.now

    def _end(self, consumer: ConsumerState, why: str) -> None:
        group = consumer.group
        group.endings += 1
        consumer.ended = consumer.ended or why
        self._holds_nothing(consumer)
        self._membership(group)

    def _holds_nothing(self, consumer: ConsumerState) -> None:
        if consumer.held:
            consumer.group.holders -= 1
            consumer.held = 0
        for delivery in consumer.unsettled:
            delivery.holds = False

    def _closing(self, event: Closing) -> None:
        self.counts.closes += 1
        self._end(self._consumer(event.consumer, event.group), "close")

    def _closed(self, event: Closed) -> None:
        consumer = self._consumer(event.consumer, event.group)
        # What it was pushed while it was closing, and gave back unseen, may have used up a number, too.
        consumer.group.endings += 1
        for delivery in list(consumer.pending.values()):
            if event.clean and not self._fault_since(delivery):
                self._confirm(delivery)
            else:
                self._lose_sight(delivery)

    def _crashed(self, event: Crashed) -> None:
        self.counts.crashes += 1
        consumer = self._consumer(event.consumer, event.group)
        self._end(consumer, "crash")
        for delivery in list(consumer.pending.values()):
            self._lose_sight(delivery)

    def _revoked(self, event: Revoked | Lapsed) -> None:
        consumer = self._consumer(event.consumer, event.group)
        consumer.group.endings += 1
        for delivery in consumer.unsettled:
            delivery.ended = delivery.ended or "revocation"
        self._holds_nothing(consumer)
        consumer.unsettled.clear()

    def _lapsed(self, event: Lapsed) -> None:
        self._revoked(event)
        self._consumer(event.consumer, event.group).lapsed = True

    def _lease_ended(self, event: LeaseEnded) -> None:
        delivery = self._known(event)
        if delivery is not None:
            delivery.ended = "end of lease"
            delivery.consumer.group.endings += 1
            self._let_go(delivery)

    def _extended(self, event: Extended) -> None:
        delivery = self._known(event)
        if delivery is not None:
            delivery.lease_until = event.lease_until

    # Faults.

    def _down(self, event: Down) -> None:
        self.faults += 1
        self.counts.faults[event.what] += 1
        self.in_effect[event.what] += 1
        if event.what in self.rules.acks_undone_by:
            self.acks_undone_at = event.at

    def _up(self, event: Up) -> None:
        if not self.in_effect[event.what]:
            self._find(Kind.MALFORMED, f"the fault {event.what!r} ends without having begun")
            return
        self.in_effect[event.what] -= 1
        self.in_effect = +self.in_effect
        self.last_up = event.at
        self.first_delivery_after_up = 0

    def _shaky(self) -> bool:
        return bool(self.in_effect) or self.now < self.last_up + self.shadow

    def _fault_since(self, delivery: DeliveryState) -> bool:
        return delivery.shaky or delivery.faults != self.faults

    # Deliveries.

    def _delivered(self, event: Delivered) -> None:
        self.counts.deliveries += 1
        name = event.message
        consumer = self._consumer(event.consumer, event.group)
        group = consumer.group
        if group.name != event.group or event.number in consumer.deliveries:
            self._find(Kind.MALFORMED, f"delivery {event.number} of consumer {consumer.name!r} is there twice", name)
            return
        message = self.messages.get(name)
        if message is None:
            self._find(Kind.UNEXPECTED, f"{group.name!r} got message {name!r}, which nobody sent", name)
            # Judged on as if it had been sent, so that its other deliveries are judged too.
            message = MessageState(_as_if_sent(event), self.faults, copies=False, outcome=OK, surfaced=True)
            self.messages[name] = message
        elif not self._belongs(message, group):
            self._find(
                Kind.UNEXPECTED, f"{group.name!r} got message {name!r}, sent to {message.sending.target!r}", name
            )
        if not message.surfaced:
            message.surfaced = group.parent is None
        sending = message.sending
        if event.content != sending.content:
            self._find(Kind.CHANGED, f"message {name!r}: {_difference(sending.content, event.content)}", name)
        at = event.at
        if group.parent is None:
            if sending.not_before and at < sending.not_before - self.tolerance:
                early = (sending.not_before - at) / SECOND
                self._find(Kind.EARLY, f"message {name!r} came {early:.3f} s before its time", name)
            if sending.expires and at > sending.expires + self.tolerance:
                late = (at - sending.expires) / SECOND
                self._find(Kind.EXPIRED, f"message {name!r} came {late:.3f} s after its end", name)
        if not (self.in_effect or self.last_up < 0 or self.first_delivery_after_up):
            self.first_delivery_after_up = at
        consumer.epoch = max(consumer.epoch, event.epoch)
        delivery = DeliveryState(
            event,
            UNPLACED,
            consumer,
            self.faults,
            bool(self.in_effect) or at < self.last_up + self.shadow,
            group.endings,
            group.members,
            event.lease_until,
        )
        consumer.deliveries[event.number] = delivery
        if consumer.lapsed:
            self._astray(delivery)
            return
        late = consumer.ended != "" or 0 < event.lease_until <= at
        place = group.places.get(name)
        if place is None:
            place = group.places[name] = Place(message, len(group.places))
            delivery.place = place
            self._check_first_attempt(delivery)
            if self.by_key and group.parent is None:
                self._check_send_order(delivery)
            if group.parent is not None:
                self._has_died(message, group.parent)
        else:
            delivery.place = place
            if late:
                # Handed out before its consumer's end and recorded after it: it may stand behind its own successor.
                self.counts.redeliveries += 1
                delivery.holds, delivery.ended = False, consumer.ended or "end of lease"
                if place.last is not None and place.last.event.attempt >= event.attempt:
                    return
            else:
                self._redelivered(place, delivery)
        last, place.last = place.last, delivery
        if last is not None:
            last.successor = delivery
        if late:
            delivery.holds, delivery.ended = False, consumer.ended or "end of lease"
            return
        if self.by_key and group.parent is None and sending.content.key is not None:
            self._check_key(delivery, sending.content.key)
        self._hold(delivery)

    def _astray(self, delivery: DeliveryState) -> None:
        """Take note of a stray: whoever else holds the message goes on to hold it."""
        group, name = delivery.consumer.group, delivery.event.message
        delivery.stray, delivery.holds, delivery.ended = True, False, "revocation"
        if name in group.places:
            self.counts.redeliveries += 1
            self.counts.excused["out of the group"] += 1

    def _confirm_stray(self, delivery: DeliveryState) -> None:
        """Let a stray take the place of a delivery that is not settled: its consumer was a member again by then."""
        name = delivery.event.message
        place = self._place_of_stray(delivery)
        last = place.last
        if last is None or last.how is None:
            if last is not None:
                self._let_go(last)
                last.successor = delivery
            place.last = delivery
        elif last.proof is CONFIRMED and last.how == "ack" and last.settled_at < delivery.event.at:
            text = f"{delivery.how} of message {name!r} by {delivery.consumer.name!r} was accepted after its last ack"
            self._find(Kind.STALE_ACK, text, name)

    def _lose_sight_of_stray(self, delivery: DeliveryState) -> None:
        place = self._place_of_stray(delivery)
        place.last = place.last or delivery
        if place.fate is OPEN and delivery.how != "nack":
            self._set_fate(delivery.consumer.group, place, MAYBE)

    def _place_of_stray(self, delivery: DeliveryState) -> Place:
        delivery.place = _place_in(delivery.consumer.group, self.messages[delivery.event.message])
        return delivery.place

    def _has_died(self, message: MessageState, parent: Group) -> None:
        """Note that a dead letter came: its original is settled, whoever gave it up."""
        is_new = message.sending.message not in parent.places
        place = _place_in(parent, message)
        if is_new:
            place.discarded = "dead"
        place.dead = True
        self._set_fate(parent, place, DONE)
        self._close_key(place, parent)

    def _hold(self, delivery: DeliveryState) -> None:
        consumer, group = delivery.consumer, delivery.consumer.group
        if group.holders - (consumer.held > 0):
            self.counts.overlaps += 1
        if not consumer.held:
            group.holders += 1
        consumer.held += 1
        consumer.unsettled.append(delivery)

    def _let_go(self, delivery: DeliveryState) -> None:
        if delivery.holds:
            delivery.holds = False
            consumer = delivery.consumer
            consumer.held -= 1
            if not consumer.held:
                consumer.group.holders -= 1

    def _belongs(self, message: MessageState, group: Group) -> bool:
        if group.parent is None:
            return message.sending.target == group.target
        if message.sending.expires:
            # It may have been given up without anybody having seen it.
            return True
        place = group.parent.places.get(message.sending.message)
        return place is not None and (place.dead or place.discarded != "" or self._exhausted(place))

    def _exhausted(self, place: Place) -> bool:
        """Tell whether the library gives it up because its last delivery ended without settlement (A8)."""
        limit = self.rules.max_deliveries
        return limit is not None and place.last is not None and place.last.event.attempt >= limit

    def _redelivered(self, place: Place, delivery: DeliveryState) -> None:
        self.counts.redeliveries += 1
        last, name, group = place.last, delivery.event.message, delivery.consumer.group
        message = place.message
        # A copy may come before the outcome of the send is known; what came before says nothing about its attempt.
        message.copies |= message.outcome is PENDING and message.faults != self.faults
        if last is None:
            # Discarded before anybody got it.
            self._find(Kind.DUPLICATED, f"message {name!r} was {place.discarded} in {group.name!r}, yet it came", name)
            return
        self._let_go(last)
        self._check_attempt(last, delivery)
        excuse = self._excuse(last)
        if excuse == "nack":
            self._check_nack_delay(last, delivery)
        elif not excuse and message.copies:
            # Its first instance keeps its fate: this one is another.
            self.counts.excused["stored twice"] += 1
            return
        elif not excuse and last.proof is SETTLING and not place.acked and not place.discarded:
            # The fate of the settlement will tell.
            last.suspicion = (delivery.event, self._excuse_if_held(last))
            self.suspects.append(last)
        elif not excuse:
            self._blame(place, last, delivery)
        if excuse:
            self.counts.excused[excuse] += 1
        if excuse == "redrive":
            place.dead = False
        if not message.copies:
            self._set_fate(group, place, OPEN)

    def _blame(self, place: Place, last: DeliveryState, delivery: DeliveryState) -> None:
        name, where = delivery.event.message, f"in {delivery.consumer.group.name!r}"
        if place.acked:
            text = f"message {name!r} came again {where}, to {delivery.consumer.name!r}, after its ack was confirmed"
            self._find(Kind.ACKED_YET_REDELIVERED, text, name)
        elif place.discarded:
            self._find(Kind.DUPLICATED, f"message {name!r} came {where} after it was {place.discarded}", name)
        elif last.how == "reject":
            self._find(Kind.DUPLICATED, f"message {name!r} came again {where} after it was given up", name)
        else:
            self._find(
                Kind.LEASED_TWICE,
                f"message {name!r} came {where} to {delivery.consumer.name!r} while {last.consumer.name!r} held it",
                name,
            )

    def _excuse(self, last: DeliveryState) -> str:
        """Return why a message may come again after this delivery; nothing if it may not."""
        if last.how == "nack":
            return "nack"
        if last.how is None:
            return self._excuse_if_held(last)
        if last.proof is LOST_SIGHT:
            return "unconfirmed settlement"
        if last.how == "reject" and last.settled_at < last.consumer.group.redriven_at:
            return "redrive"
        if last.proof is CONFIRMED and last.settled_at < self.acks_undone_at:
            last.place.acked = False
            return "ack undone by a fault"
        return ""

    def _excuse_if_held(self, last: DeliveryState) -> str:
        consumer = last.consumer
        if last.ended:
            return last.ended
        if last.lease_until and self.now >= last.lease_until - self.tolerance:
            return "end of lease"
        if consumer.ended:
            return consumer.ended
        if last.event.epoch < consumer.epoch:
            return "revocation"
        if self._fault_since(last):
            return "fault"
        return "rebalance" if self._rebalanced_since(last) else ""

    def _rebalanced_since(self, last: DeliveryState) -> bool:
        """Tell whether the delivery may have gone to another consumer because one joined or left."""
        group = last.consumer.group
        return self.rebalance is not None and (
            group.members != last.members or last.event.at < group.members_changed_at + self.rebalance
        )

    def _check_first_attempt(self, delivery: DeliveryState) -> None:
        attempt = delivery.event.attempt
        group = delivery.consumer.group
        disturbed = group.endings > 0 or self.faults > 0 or self.rules.attempts == "skipping"
        if attempt < 1 or (attempt > 1 and not disturbed):
            name = delivery.event.message
            self._find(Kind.ATTEMPTS, f"message {name!r} came to {group.name!r} first with attempt {attempt}", name)

    def _check_attempt(self, last: DeliveryState, delivery: DeliveryState) -> None:
        attempt, expected = delivery.event.attempt, last.event.attempt + 1
        if attempt == expected or last.place.message.copies:
            return
        group = delivery.consumer.group
        if attempt == 1 and last.how == "reject" and last.settled_at < group.redriven_at:
            return
        disturbed = group.endings != last.endings or self._fault_since(last) or self._rebalanced_since(last)
        if attempt == last.event.attempt and disturbed and last.how != "nack" and not self.rules.shutdown_counts:
            return
        if attempt > expected and (disturbed or self.rules.attempts != "exact"):
            return
        if 1 <= attempt < expected and disturbed and self.rules.attempts == "restarting":
            return
        name = delivery.event.message
        self._find(
            Kind.ATTEMPTS, f"message {name!r} came to {group.name!r} with attempt {attempt}, not {expected}", name
        )

    def _check_nack_delay(self, last: DeliveryState, delivery: DeliveryState) -> None:
        due = last.settled_at + last.delay
        if last.delay and self.now < due - self.tolerance and not last.consumer.ended and not self._fault_since(last):
            name, early = delivery.event.message, (due - self.now) / SECOND
            self._find(Kind.EARLY, f"message {name!r} came again {early:.3f} s before its nack's delay was over", name)

    # Order.

    def _check_send_order(self, delivery: DeliveryState) -> None:
        message = delivery.place.message
        sending = message.sending
        if sending.content.key is None or sending.not_before:
            return
        lane_of = (sending.producer, sending.content.key)
        lanes = delivery.consumer.group.lanes
        lane = lanes.get(lane_of)
        if lane is None:
            lane = lanes[lane_of] = Lane()
        if sending.sequence > lane.highest:
            lane.highest, lane.holder = sending.sequence, message
        elif lane.holder is not None:
            # Whether its send was confirmed may show later only; an unknown one may arrive late.
            self.overtaken.append((message, delivery.event, lane.holder))

    def _check_key(self, delivery: DeliveryState, key: str) -> None:
        place = delivery.place
        name, group = delivery.event.message, delivery.consumer.group
        opened = group.keys.get(key)
        if opened is None:
            opened = group.keys[key] = {}
        for other in [other for other in opened if other is not place]:
            expires = other.message.sending.expires
            if other.message.copies or place.message.copies or (expires and expires <= self.now):
                del opened[other]
                continue
            last = other.last
            if last is None:
                continue
            before = last.event.message
            text = f"message {name!r} came to {group.name!r} while message {before!r} of key {key!r}"
            if other.order < place.order:
                state = "waits after a nack" if last.how == "nack" else "is not settled"
                self._find(Kind.KEY_OVERLAP, f"{text} {state}", name, other=before)
                # Told once; what follows is judged against the later one.
                del opened[other]
            elif last.how is None and not self._excuse_if_held(last):
                self._find(Kind.KEY_OVERLAP, f"{text} is held", name, other=before)
                del opened[other]
        opened[place] = None

    def _close_key(self, place: Place, group: Group) -> None:
        key = place.message.sending.content.key
        if self.by_key and key is not None and key in group.keys:
            group.keys[key].pop(place, None)

    # Settlements.

    def _known(self, event: Settling | Refused | Extended | LeaseEnded) -> DeliveryState | None:
        consumer = self.consumers.get(event.consumer)
        delivery = None if consumer is None else consumer.deliveries.get(event.number)
        if delivery is None or delivery.event.message != event.message:
            text = f"delivery {event.number} of {event.message!r} to {event.consumer!r} is not in the history"
            self._find(Kind.MALFORMED, text, event.message)
            return None
        return delivery

    def _settling(self, event: Settling) -> None:
        delivery = self._known(event)
        if delivery is None:
            return
        if delivery.how is not None:
            self._find(
                Kind.SETTLED_TWICE, f"{event.how} after {delivery.how} of message {event.message!r}", event.message
            )
            return
        consumer, place, how = delivery.consumer, delivery.place, event.how
        if how == "nack":
            self.counts.nacks += 1
            limit = self.rules.max_deliveries
            if limit is not None and delivery.event.attempt >= limit:
                # The library gives it up (A8).
                how = "reject"
        elif how == "reject":
            self.counts.rejects += 1
        delivery.how, delivery.settled_at, delivery.delay = how, event.at, event.delay
        delivery.proof = SETTLING
        consumer.pending[event.number] = delivery
        if delivery.stray:
            held = consumer.group.places.get(event.message)
            if held is not None and how != "nack":
                self._close_key(held, consumer.group)
            return
        self._let_go(delivery)
        unsettled = consumer.unsettled
        while unsettled and unsettled[0].how is not None:
            unsettled.popleft()
        if how == "ack" and unsettled and unsettled[0].event.number < event.number:
            self.counts.out_of_order_acks += 1
        if how != "nack" and place.last is delivery:
            place.dead = how == "reject"
            self._set_fate(consumer.group, place, MAYBE)
            self._close_key(place, consumer.group)
        if consumer.ended == "crash":
            # Between the decision to kill it and its death.
            self._lose_sight(delivery)

    def _refused(self, event: Refused) -> None:
        delivery = self._known(event)
        if delivery is None:
            return
        if event.why == "again":
            self.counts.again += 1
            return
        self.counts.stale += event.why == "stale"
        if delivery.how is None:
            return
        place, group = delivery.place, delivery.consumer.group
        delivery.consumer.pending.pop(event.number, None)
        delivery.proof, delivery.how = STALE, None
        if delivery.suspicion is not None:
            redelivery, excuse = delivery.suspicion
            delivery.suspicion = None
            self._resolve(delivery, redelivery, excuse)
        if place.last is delivery:
            place.dead = False
            self._set_fate(group, place, OPEN)
            key = place.message.sending.content.key
            if self.by_key and key is not None and key in group.keys:
                group.keys[key][place] = None

    def _resolve(self, delivery: DeliveryState, redelivery: Delivered, excuse: str) -> None:
        """Judge a redelivery that met a settlement which then was refused."""
        if excuse:
            self.counts.excused[excuse] += 1
        else:
            name = redelivery.message
            holder = delivery.consumer.name
            text = f"message {name!r} came in {redelivery.group!r} to {redelivery.consumer!r} while {holder!r} held it"
            self._find(Kind.LEASED_TWICE, text, name, redelivery.at)

    def _confirmed(self, event: Confirmed) -> None:
        for delivery in self._settled(event):
            self._confirm(delivery)

    def _unconfirmed(self, event: Unconfirmed) -> None:
        for delivery in self._settled(event):
            self._lose_sight(delivery)

    def _settled(self, event: Confirmed | Unconfirmed) -> list[DeliveryState]:
        consumer = self.consumers.get(event.consumer)
        found: list[DeliveryState] = []
        for number in event.numbers:
            delivery = None if consumer is None else consumer.deliveries.get(number)
            if delivery is None or delivery.proof is HELD:
                self._find(Kind.MALFORMED, f"delivery {number} of {event.consumer!r} is confirmed and was not settled")
            elif delivery.proof is not STALE:
                found.append(delivery)
        return found

    def _confirm(self, delivery: DeliveryState) -> None:
        if delivery.proof is CONFIRMED:
            return
        delivery.proof = CONFIRMED
        if delivery.stray:
            self._confirm_stray(delivery)
        consumer, place, how = delivery.consumer, delivery.place, delivery.how
        consumer.pending.pop(delivery.event.number, None)
        if how == "nack":
            return
        self.last_settled = self.now
        if how == "ack":
            self.counts.acks += 1
        name = delivery.event.message
        successor = delivery.successor
        if successor is not None and not place.message.copies:
            if delivery.settled_at > successor.event.at:
                text = f"{how} of message {name!r} by {consumer.name!r} was accepted after it went to another delivery"
                self._find(Kind.STALE_ACK, text, name)
            elif delivery.suspicion is not None:
                self._acked_yet_redelivered(delivery, delivery.suspicion[0])
        delivery.suspicion = None
        if how == "ack":
            place.acked = True
        if place.last is delivery or place.message.copies:
            self._set_fate(consumer.group, place, DONE)

    def _acked_yet_redelivered(self, delivery: DeliveryState, redelivery: Delivered) -> None:
        name, how = redelivery.message, delivery.how
        text = f"message {name!r} came again to {redelivery.consumer!r} though its {how}, begun before, was confirmed"
        kind = Kind.ACKED_YET_REDELIVERED if how == "ack" else Kind.DUPLICATED
        self._find(kind, text, name, redelivery.at)

    def _lose_sight(self, delivery: DeliveryState) -> None:
        if delivery.proof is CONFIRMED:
            return
        delivery.proof = LOST_SIGHT
        delivery.consumer.pending.pop(delivery.event.number, None)
        if delivery.stray:
            self._lose_sight_of_stray(delivery)
        if delivery.suspicion is not None:
            delivery.suspicion = None
            self.counts.excused["unconfirmed settlement"] += 1

    def _discarded(self, event: Discarded) -> None:
        group = self._group(event.group)
        message = self.messages.get(event.message)
        if message is None:
            self._find(Kind.MALFORMED, f"message {event.message!r} is discarded and was never sent", event.message)
            return
        place = _place_in(group, message)
        place.discarded = event.why
        self._set_fate(group, place, DONE)
        self._close_key(place, group)

    def _set_fate(self, group: Group, place: Place, fate: Fate) -> None:
        old = place.fate
        if old is fate:
            return
        group.done += (fate is DONE) - (old is DONE)
        group.maybe += (fate is MAYBE) - (old is MAYBE)
        place.fate = fate

    # At the end.

    def _depth(self, event: Depth) -> None:
        group = self._group(event.group)
        if group.parent is not None:
            return
        left = event.ready + event.in_flight + event.delayed
        least = max(0, group.ok - group.done - group.maybe - group.transient)
        most = group.possible - group.done
        if left < least or (left > most and not group.copies):
            text = (
                f"{group.name!r} holds {left}, but of {group.ok} to {group.possible} accepted messages "
                f"{group.done} are settled for certain and {group.maybe} perhaps"
            )
            self._find(Kind.CONSERVATION, text)

    def _finish(self) -> None:
        for delivery in self.suspects:
            if delivery.suspicion is not None:
                self.counts.excused["unconfirmed settlement"] += 1
        for message, event, holder in self.overtaken:
            if message.outcome is OK:
                later = holder.sending.message
                text = f"message {event.message!r} came to {event.group!r} after {later!r}, which was sent later"
                self._find(Kind.REORDERED, text, event.message, event.at, other=later)
        for message in self.messages.values():
            if message.surfaced and message.outcome is REJECTED:
                name = message.sending.message
                self._find(Kind.ABORTED, f"message {name!r} was refused at the send, yet it came", name)
            elif message.surfaced and message.outcome in {UNKNOWN, PENDING}:
                self.counts.recovered += 1
        if self.rules.drained:
            for message in self.messages.values():
                if message.outcome is OK or (message.surfaced and message.outcome is not REJECTED):
                    self._check_lost(message)
            for group in self.groups.values():
                if group.parent is not None and group.opened:
                    self._check_lost_dead_letters(group, group.parent)
        self._check_liveness()
        allowed = self.rules.most_excused
        excused = sum(count for cause, count in self.counts.excused.items() if cause not in _NO_FAULT)
        if allowed is not None and excused > allowed:
            self._find(Kind.DUPLICATED, f"faults excuse {allowed} duplicates and there are {excused}")

    def _check_lost(self, message: MessageState) -> None:
        sending = message.sending
        name = sending.message
        for group in self._expecting(sending):
            place = group.places.get(name)
            if place is not None and place.fate is DONE:
                continue
            if place is not None and (place.fate is MAYBE or self._exhausted(place)):
                self.counts.uncertain += 1
            elif sending.expires and sending.expires <= self.now:
                self.counts.expired += 1
            elif place is not None or message.outcome is OK:
                self._find(Kind.LOST, f"message {name!r} in {group.name!r}: {_remains(place)}", name)

    def _check_lost_dead_letters(self, group: Group, parent: Group) -> None:
        for name, place in parent.places.items():
            if place.dead and place.fate is DONE:
                copy = group.places.get(name)
                if copy is None or copy.fate is OPEN:
                    text = f"dead letter {name!r} of {parent.name!r} in {group.name!r}: {_remains(copy)}"
                    self._find(Kind.LOST, text, name)

    def _check_liveness(self) -> None:
        rules = self.rules
        if rules.resumes_within is not None and self.last_up >= 0:
            took = (self.first_delivery_after_up - self.last_up) / SECOND
            if not self.first_delivery_after_up:
                self._find(Kind.LATE, "nothing was delivered after the last fault")
            elif took > rules.resumes_within:
                self._find(Kind.LATE, f"the first delivery after the last fault took {took:.1f} s")
        if rules.settles_within is not None:
            took = (self.last_settled - max(self.last_up, self.last_send)) / SECOND
            if took > rules.settles_within:
                self._find(Kind.LATE, f"the last message was settled {took:.1f} s after the last fault and send")

    def _missing(self) -> list[str]:
        floors, counts = self.rules.floors, self.counts
        wanted = {name: getattr(floors, name) for name in ("acks", "nacks", "redeliveries", "out_of_order_acks")}
        wanted["overlaps"] = floors.overlaps
        missing = [
            f"{getattr(counts, name)} {name.replace('_', ' ')}, {least} wanted"
            for name, least in wanted.items()
            if getattr(counts, name) < least
        ]
        return missing + [
            f"{counts.faults[name]} faults {name!r}, {least} wanted"
            for name, least in floors.faults.items()
            if counts.faults[name] < least
        ]

    # Findings.

    def _find(self, kind: Kind, text: str, message: str = "", at: int = -1, *, other: str = "") -> None:
        self.found[kind] += 1
        if self.found[kind] <= QUOTED_FINDINGS:
            self.findings.append(Finding(kind, text, self.now if at < 0 else at, message, other))


_NO_FAULT = {"nack", "close", "end of lease", "redrive"}
"""Excuses that are no fault's."""


def _place_in(group: Group, message: MessageState) -> Place:
    """Return the message's place in the group; the next one, if it has none yet."""
    name = message.sending.message
    place = group.places.get(name)
    if place is None:
        place = group.places[name] = Place(message, len(group.places))
    return place


def _as_if_sent(event: Delivered) -> Sending:
    return Sending(event.at, event.message, event.group, "", -1, event.content)


def _difference(sent: Content, got: Content) -> str:
    changes = [
        f"{name} {getattr(sent, name)!r} arrived as {getattr(got, name)!r}"
        for name in ("id", "body", "key", "headers", "properties")
        if getattr(sent, name) != getattr(got, name)
    ]
    return ", ".join(changes)


def _remains(place: Place | None) -> str:
    if place is None:
        return "confirmed, never delivered"
    if place.last is None or place.last.how == "nack":
        return "nacked, never delivered again"
    return f"delivered {place.last.event.attempt} times, never acked; it did not come again"
