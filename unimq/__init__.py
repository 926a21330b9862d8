"""One Producer/Consumer interface for Amazon SQS, Apache Kafka, RabbitMQ and an in-memory broker."""
