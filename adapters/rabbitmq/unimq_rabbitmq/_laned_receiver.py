"""Receiving from all lanes of an ordered queue: one receiver for each of them, which share one prefetch."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import cast

from unimq import UnimqError
from unimq.adapter import Delivery, DeliverySink
from unimq_rabbitmq import _key_lanes
from unimq_rabbitmq._delayed_nacks import DelayedNacks
from unimq_rabbitmq._link import Link
from unimq_rabbitmq._receiver import Done, RabbitMQReceiver, Share, Token


class LanedReceiver:
    """See `unimq.adapter.Receiver`. For any thread; it has no state of its own but the lanes, which never change."""

    def __init__(
        self,
        link: Link,
        queues: Sequence[str],
        sink: DeliverySink,
        prefetch: int,
        delays: DelayedNacks,
        *,
        spreads: bool,
    ) -> None:
        """With `spreads` it takes lanes over from those who have them; without it waits for what they leave."""
        share = Share(prefetch)
        priorities = _key_lanes.priorities(len(queues)) if spreads else [None] * len(queues)
        self._lanes = [
            RabbitMQReceiver(
                link,
                queue,
                sink,
                prefetch,
                delays,
                is_ordered=True,
                share=share,
                lanes=len(queues),
                priority=priority,
            )
            for queue, priority in zip(queues, priorities, strict=True)
        ]

    def open(self, timeout: float) -> None:
        """Wait until the broker has accepted the consumer of every lane; see `RabbitMQReceiver.open`."""
        deadline = time.monotonic() + timeout
        try:
            for lane in self._lanes:
                lane.open(max(0.0, deadline - time.monotonic()))
        except UnimqError:
            self.close(max(0.0, deadline - time.monotonic()))
            raise

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See `unimq.adapter.Receiver.ack`."""
        by_lane: dict[RabbitMQReceiver, list[Delivery]] = {}
        for delivery in deliveries:
            by_lane.setdefault(_lane_of(delivery), []).append(delivery)
        for lane, its in by_lane.items():
            lane.ack(its)

    def nack(self, delivery: Delivery, delay: float) -> None:
        """See `unimq.adapter.Receiver.nack`."""
        _lane_of(delivery).nack(delivery, delay)

    def extend(self, delivery: Delivery, duration: float) -> None:
        """Never called: the capability is unsupported."""
        raise NotImplementedError

    def barrier(self, done: Done) -> None:
        """See `unimq.adapter.Receiver.barrier`."""
        gathered = _gather(len(self._lanes), done)
        for lane in self._lanes:
            lane.barrier(gathered)

    def pause(self) -> None:
        """See `unimq.adapter.Receiver.pause`."""
        for lane in self._lanes:
            lane.pause()

    def resume(self) -> None:
        """See `unimq.adapter.Receiver.resume`."""
        for lane in self._lanes:
            lane.resume()

    def close(self, timeout: float) -> None:
        """See `unimq.adapter.Receiver.close`."""
        deadline = time.monotonic() + timeout
        # All first: one that closes makes room for what the others have received.
        closings = [lane.begin_close() for lane in self._lanes]
        for lane, closing in zip(self._lanes, closings, strict=True):
            lane.finish_close(closing, max(0.0, deadline - time.monotonic()))


def _lane_of(delivery: Delivery) -> RabbitMQReceiver:
    return cast("Token", delivery.token)[0].owner


def _gather(count: int, done: Done) -> Callable[[Sequence[UnimqError]], None]:
    """Return what calls `done` at its `count`-th call, with the errors of all."""
    lock = threading.Lock()
    errors: list[UnimqError] = []
    missing = count

    def one(found: Sequence[UnimqError]) -> None:
        nonlocal missing
        with lock:
            errors.extend(found)
            missing -= 1
            is_last = not missing
        if is_last:
            done(errors)

    return one
