"""The client process itself: ``python -m unimq_contract.faults.client_main HISTORY``, with the broker in UNIMQ_URL.

It reads one order per line from its standard input and writes one answer per line.
"""

import sys
import threading
from pathlib import Path

import msgspec

import unimq
from unimq_contract.faults.orders import Answer, Close, Consume, Order, Receive, Rest, Send, Settle, Work
from unimq_contract.history.log import History
from unimq_contract.history.recording import RecordedDelivery, Recording, RecordingConsumer, RecordingProducer


class _Client:
    """The child's side. The background work has its own thread; `_held` belongs to whichever of both is active."""

    def __init__(self, history: History) -> None:
        self._recording = Recording(history)
        self._broker = unimq.connect()
        self._producers: dict[str, RecordingProducer] = {}
        self._consumer: RecordingConsumer | None = None
        self._held: list[RecordedDelivery] = []
        self._resting = threading.Event()
        self._worker: threading.Thread | None = None
        self._settled = 0
        self._error: BaseException | None = None

    def obey(self, order: Order) -> Answer:
        match order:
            case Consume(source, prefetch):
                place = source.place()
                assert not isinstance(place, unimq.Topic)
                self._consumer = self._recording.consumer(self._broker, place, prefetch=prefetch)
                return Answer(consumer=self._consumer.name, group=self._consumer.group)
            case Send():
                return Answer(self._send(order))
            case Receive(count, timeout):
                while len(self._held) < count:
                    received = self._open().receive(count - len(self._held), timeout)
                    if not received:
                        break
                    self._held += received
                return Answer(len(self._held))
            case Settle(count, nack, confirm):
                settled = sum(_settled(self._held.pop(0), nack=nack) for _ in range(min(count, len(self._held))))
                if confirm:
                    self._open().settle()
                return Answer(settled)
            case Work():
                self._resting.clear()
                self._worker = threading.Thread(target=self._work, args=(order,), name="client-work", daemon=True)
                self._worker.start()
                return Answer()
            case Rest():
                return Answer(self._rest())
            case Close():
                self._rest()
                if self._consumer is not None:
                    self._consumer.close()
                for producer in self._producers.values():
                    producer.close()
                self._broker.close()
                return Answer()

    def _send(self, order: Send) -> int:
        target = order.target.place()
        assert not isinstance(target, unimq.Subscription)
        if target.name not in self._producers:
            self._producers[target.name] = self._recording.producer(self._broker, target)
        producer = self._producers[target.name]
        for number in range(order.count):
            producer.send(size=order.size, key=order.keys[number % len(order.keys)] if order.keys else None)
        return order.count

    def _open(self) -> RecordingConsumer:
        if self._consumer is None:
            raise RuntimeError("no consumer is open")
        return self._consumer

    def _work(self, order: Work) -> None:
        consumer = self._open()
        messages = 0
        try:
            while not self._resting.is_set():
                # Short, because nothing but a message or a close wakes it.
                for delivery in consumer.receive(10, timeout=0.1):
                    messages += delivery.attempt == 1
                    if order.hold:
                        self._resting.wait(order.hold)
                    nack = order.nack > 0 and delivery.attempt == 1 and messages % order.nack == 0
                    self._settled += _settled(delivery, nack=nack)
            consumer.settle()
        except BaseException as error:
            self._error = error

    def _rest(self) -> int:
        self._resting.set()
        if self._worker is not None:
            self._worker.join()
            self._worker = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._settled


def _settled(delivery: RecordedDelivery, *, nack: bool) -> int:
    try:
        if nack:
            delivery.nack()
        else:
            delivery.ack()
    except unimq.LeaseLost:
        return 0
    return 1


def main(path: str) -> None:
    """Obey until standard input ends."""
    decoder: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)
    with History(Path(path)) as history:
        client = _Client(history)
        for line in sys.stdin.buffer:
            try:
                answer = client.obey(decoder.decode(line))
            except Exception as error:
                answer = Answer(error=f"{type(error).__name__}: {error}")
            sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1])
