"""A consumer to be killed: receives messages, says which, settles none, and waits for its end.

``UNIMQ_URL=… python -m unimq_contract.holder QUEUE COUNT``. The URL is in the environment because arguments are public.
"""

import json
import signal
import sys

import unimq


def main() -> None:
    """Print one line of JSON with the bodies as text, then hold them."""
    queue, count = sys.argv[1], int(sys.argv[2])
    held: list[unimq.Delivery] = []
    with unimq.connect() as broker, broker.consumer(queue, prefetch=count) as consumer:
        while len(held) < count:
            held += consumer.receive(count - len(held))
        sys.stdout.write(json.dumps([delivery.body.decode() for delivery in held]) + "\n")
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    main()
