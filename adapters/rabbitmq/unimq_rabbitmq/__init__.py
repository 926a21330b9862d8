"""RabbitMQ through pika: ``amqp://user:password@host:port/vhost`` and ``amqps://…``; see ``docs/rabbitmq.md``."""

try:
    import pika as _pika
except ModuleNotFoundError as error:
    if error.name != "pika":
        raise
    from unimq import MissingDependency

    raise MissingDependency("amqp:// needs the client library pika: pip install 'unimq[rabbitmq]'") from error

from unimq_rabbitmq._driver import RabbitMQAdapter

__all__ = ["RabbitMQAdapter"]

del _pika
