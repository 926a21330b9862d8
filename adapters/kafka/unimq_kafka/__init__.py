"""The adapter for Apache Kafka, on confluent-kafka."""
