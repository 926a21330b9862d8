"""Topics of the rows that speak to Kafka by confluent-kafka: made, emptied, looked at, deleted. Not measured."""

import time
from concurrent.futures import wait
from typing import Any
from urllib.parse import urlsplit

_TIMEOUT = 30.0


def bootstrap_of(url: str) -> str:
    """Return the hosts of a ``kafka://`` URL as the client wants them."""
    return urlsplit(url).netloc.rpartition("@")[2]


class Topics:
    """The administration of one row's topics; a topic's consumer group has its name."""

    def __init__(self, bootstrap: str) -> None:
        from confluent_kafka.admin import AdminClient

        # The stubs leave the futures' results open.
        self._admin: Any = AdminClient(
            {"bootstrap.servers": bootstrap, "log_level": 0, "allow.auto.create.topics": False}
        )
        self.layout: dict[str, int] = {}
        """``partitions`` and ``replicas`` of the topic last looked at."""

    @property
    def durability(self) -> str:
        """What acks=all means for the topic last looked at; Kafka confirms before the disk has it."""
        replicas = self.layout.get("replicas", 1)
        return f"replicated({replicas})" if replicas > 1 else "leader memory"

    def make_empty(self, topic: str, partitions: int, replication: int) -> None:
        """Make the topic anew; `replication` -1 is the broker's default."""
        from confluent_kafka.cimpl import NewTopic

        self.remove(topic)
        self._admin.create_topics([NewTopic(topic, partitions, replication)])[topic].result(_TIMEOUT)
        self.look_at(topic)

    def remove(self, topic: str) -> None:
        """Delete topic and group. The group too: a topic of the same name would start at its old position."""
        wait(self._admin.delete_consumer_groups([topic]).values(), _TIMEOUT)
        wait(self._admin.delete_topics([topic]).values(), _TIMEOUT)
        deadline = time.monotonic() + _TIMEOUT
        while topic in self._admin.list_topics(timeout=_TIMEOUT).topics:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the broker did not delete topic {topic} within {_TIMEOUT:g} s")
            time.sleep(0.01)

    def look_at(self, topic: str) -> None:
        """Fill `layout`, once the broker has chosen leaders."""
        deadline = time.monotonic() + _TIMEOUT
        while True:
            partitions = self._admin.list_topics(topic, _TIMEOUT).topics[topic].partitions
            if partitions and all(partition.leader >= 0 for partition in partitions.values()):
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"topic {topic} has no leaders after {_TIMEOUT:g} s")
            time.sleep(0.01)
        self.layout = {"partitions": len(partitions), "replicas": len(partitions[0].replicas)}
