"""The one place that says which broker versions are installed and started.

Sources of the figures behind the choices: measured on Debian 12 with Python 3.11 and Java 17.
"""

from typing import Final

# Apache Kafka, as Maven artefacts. kafka-tools carries the storage formatter; neither brings a logging back end, and
# slf4j-simple (not -nop) is chosen because a broker that fails to start must say why in its log.
KAFKA: Final = "4.3.1"
KAFKA_SCALA: Final = "2.13"
SLF4J: Final = "1.7.36"
KAFKA_JAVA: Final = 17

# Only some ElasticMQ versions are published as artefacts; this is the newest one that is.
ELASTICMQ: Final = "1.7.1"
ELASTICMQ_SCALA: Final = "2.13"
ELASTICMQ_JAVA: Final = 11

# ministack pins an exact botocore; beside a current boto3 a resolver silently falls back to an old ministack. It serves
# SQS and SNS without botocore, so it is installed with `--no-deps` into a folder of its own, with what it imports.
MINISTACK: Final = "1.5.33"
MINISTACK_REQUIREMENTS: Final = (
    f"ministack=={MINISTACK}",
    "defusedxml==0.7.1",
    "h11==0.16.0",
    "h2==4.4.1",
    "hpack==4.2.0",
    "hypercorn==0.18.0",
    "hyperframe==6.1.0",
    "priority==2.0.0",
    "pyyaml==6.0.3",
    "wsproto==1.3.2",
)

# Generations of RabbitMQ, by the Debian suite that carries them. bookworm has 3.10, trixie 4.0, sid the newest 4.x.
RABBITMQ_SUITES: Final = {"3": "bookworm", "4": "trixie", "newest": "sid"}
RABBITMQ_DEFAULT_GENERATION: Final = "4"

# The Docker rung. The images are looked for under exactly these names; environment variables may name others.
IMAGES: Final = {
    "rabbitmq": "rabbitmq:4.1",
    "kafka": f"apache/kafka:{KAFKA}",
    "sqs": "localstack/localstack:4.13.1",
}
