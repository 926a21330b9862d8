"""The adapter for RabbitMQ, on pika."""
