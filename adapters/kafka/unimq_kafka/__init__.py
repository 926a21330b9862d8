"""The adapter for Apache Kafka, on confluent-kafka. ``docs/kafka.md`` says what is created and what is guaranteed."""

from unimq import MissingDependency

try:
    import confluent_kafka as _  # noqa: F401
except ModuleNotFoundError as exc:
    if exc.name != "confluent_kafka":
        raise
    raise MissingDependency(
        "kafka:// needs the client library confluent-kafka; install it by: pip install 'unimq[kafka]'"
    ) from exc

from unimq_kafka._driver import KafkaAdapter
from unimq_kafka._producer import Position

__all__ = ["KafkaAdapter", "Position"]
