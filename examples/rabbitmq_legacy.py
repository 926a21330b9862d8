"""Join a RabbitMQ that other programs already use: their classic queue, their exchange, their routing keys.

A shop that knows nothing of unimq publishes orders to a topic exchange of its own, which feeds a classic queue.
Here they are read, and for each a receipt is sent to the same exchange with another routing key, which the shop reads.

Only RabbitMQ has such things, so this example takes amqp:// URLs only.
"""

import argparse
import json
import os
import secrets
import sys

import pika
from pika.adapters.blocking_connection import BlockingChannel

import unimq

PATIENCE = 30.0
"""Seconds without a message after which something must be wrong."""


class Shop:
    """The other program, as it was before: pika and nothing else."""

    def __init__(self, channel: BlockingChannel) -> None:
        self.name = f"shop.{secrets.token_hex(4)}"
        self.orders = f"{self.name}.orders"
        self.receipts = f"{self.name}.receipts"
        self._channel = channel
        channel.exchange_declare(self.name, exchange_type="topic", durable=True)
        for queue, pattern in ((self.orders, "order.*.created"), (self.receipts, "receipt.*")):
            channel.queue_declare(queue, durable=True)
            channel.queue_bind(queue, self.name, routing_key=pattern)
        channel.confirm_delivery()

    def sell(self, number: int) -> None:
        """Publish one order."""
        country = ("de", "fr", "pl")[number % 3]
        order = json.dumps({"number": number, "cents": 100 + number}).encode()
        self._channel.basic_publish(self.name, f"order.{country}.created", order)

    def receipts_of(self, count: int) -> list[int]:
        """Return the numbers of the orders for which receipts came."""
        numbers: list[int] = []
        for method, _, body in self._channel.consume(self.receipts, inactivity_timeout=PATIENCE):
            if method is None or body is None:
                break
            numbers.append(json.loads(body)["number"])
            self._channel.basic_ack(int(method.delivery_tag or 0))
            if len(numbers) == count:
                break
        self._channel.cancel()
        return numbers

    def close(self) -> None:
        """Leave nothing behind."""
        for queue in (self.orders, self.receipts):
            self._channel.queue_delete(queue)
        self._channel.exchange_delete(self.name)


def send_receipts(broker: unimq.Broker, shop: Shop, count: int) -> int:
    """Read the orders and send a receipt for each; return how many cents they are worth."""
    orders = unimq.Queue(shop.orders, dead_letter=False, portable_name=False)
    receipts = unimq.Topic(f"/exchanges/{shop.name}/receipt.printed", require_subscription=True, portable_name=False)
    cents = handled = 0
    with broker.producer(receipts) as producer, broker.consumer(orders) as consumer:
        while handled < count:
            deliveries = consumer.receive(100, timeout=PATIENCE)
            if not deliveries:
                break
            found = [json.loads(delivery.body) for delivery in deliveries]
            # Confirmed before the orders are acked: a crash between sends some receipts twice, and loses none.
            producer.send_many([json.dumps({"number": order["number"]}).encode() for order in found])
            consumer.ack(deliveries)
            cents += sum(order["cents"] for order in found)
            handled += len(found)
    return cents


def main() -> int:
    """Run both programs, and compare what came back with what was sold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", default=os.environ.get("UNIMQ_URL", "amqp://localhost/"), help="amqp://…")
    parser.add_argument("--orders", type=int, default=1000, help="default: %(default)s")
    given = parser.parse_args()
    count: int = given.orders
    # Their things are theirs: nothing is declared.
    url = f"{given.url}{'&' if '?' in given.url else '?'}declare=false"
    with pika.BlockingConnection(pika.URLParameters(given.url.partition("?")[0])) as connection:
        shop = Shop(connection.channel())
        try:
            for number in range(count):
                shop.sell(number)
            with unimq.connect(url) as broker:
                cents = send_receipts(broker, shop, count)
            numbers = shop.receipts_of(count)
        finally:
            shop.close()
    expected = sum(100 + number for number in range(count))
    is_right = sorted(numbers) == list(range(count)) and cents == expected
    print(f"{'Reconciled' if is_right else 'WRONG'}: {count} orders = {len(numbers)} receipts, {cents / 100:.2f} sold")
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
