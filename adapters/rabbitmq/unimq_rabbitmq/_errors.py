"""From the errors of pika and the reply codes of the broker to those of unimq: the one place where they are judged."""

import re

from pika import exceptions

from unimq import (
    AuthError,
    ConfigError,
    ConnectionLost,
    DeclarationConflict,
    MessageTooLarge,
    NotFound,
    SendRejected,
    UnimqError,
    Unsupported,
)
from unimq.adapter import Message

_REPLY = re.compile(r"ConnectionClosedByBroker: \((\d+)\) (.*?)\"?,?\)?$", re.DOTALL)
_DIFFERENCE = re.compile(r"inequivalent arg '(?P<name>[^']+)'.*: received (?P<wanted>.*) but current is (?P<found>.*)")
_POLICIES = {
    "x-max-length": "max_length",
    "x-overflow": "overflow",
    "x-queue-type": "queue type",
    "x-single-active-consumer": "ordering (x-single-active-consumer)",
    "type": "exchange type",
}
_LARGEST = re.compile(r"message size \d+ (?:is )?larger than (?:configured )?max size (\d+)")
_EXTERNAL = "EXTERNAL"
"""All that pika says where the broker does not offer this way to log in."""
NOT_FOUND = 404
_FORBIDDEN = 403
_CONFLICTS = {405, 406}
_REFUSED_VHOST = 530
# Among the names that OpenSSL gives to what goes wrong, those that say that one side does not trust the other; pika
# hands some of them on as text only.
_DISTRUST = re.compile(
    r"\[SSL: (?:CERTIFICATE_VERIFY_FAILED|\w*ALERT_\w*(?:CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED|HANDSHAKE_FAILURE)\w*)\]"
)


def from_connection(error: BaseException, where: str) -> UnimqError:
    """Judge why a connection could not be made, or was lost."""
    cause = _innermost(error)
    if isinstance(
        cause,
        exceptions.AuthenticationError | exceptions.ProbableAuthenticationError | exceptions.ProbableAccessDeniedError,
    ):
        # pika only guesses from the moment of the loss; a refusal is one only if the broker said so.
        said = str(cause.args[0]) if cause.args else ""
        if said == _EXTERNAL:
            text = f"{where} takes no login by certificate: its plugin rabbitmq_auth_mechanism_ssl is not in force"
            return _with_cause(AuthError(text), error)
        reply = _REPLY.search(said)
        if reply is not None:
            text = f"{where} refused the login: {reply[2].strip(chr(39))}"
            missing_vhost = int(reply[1]) == _REFUSED_VHOST and "not found" in reply[2]
            return _with_cause(ConfigError(text) if missing_vhost else AuthError(text), error)
    if _DISTRUST.search(str(cause)):
        return _with_cause(AuthError(f"TLS with {where} failed: {_describe(cause)}"), error)
    return _with_cause(ConnectionLost(f"{where}: {_describe(cause)}"), error)


def from_channel(error: BaseException, what: str) -> UnimqError:
    """Judge why the broker refused an operation on `what`, a phrase such as ``queue 'orders'``."""
    if isinstance(error, UnimqError):
        return error
    if isinstance(error, exceptions.ShortStringTooLong):
        return _with_cause(ConfigError(f"{what}: a name has more than 255 bytes"), error)
    if is_unknown_exchange_type(error):
        return _with_cause(
            Unsupported(
                f"key_lanes for {what}",
                "the broker's plugin rabbitmq_consistent_hash_exchange is not enabled",
                "rabbitmq-plugins enable rabbitmq_consistent_hash_exchange on each of its nodes, or key_lanes=1",
            ),
            error,
        )
    if not isinstance(error, exceptions.ChannelClosed):
        return _with_cause(ConnectionLost(f"{what}: {_describe(error)}"), error)
    code, text = error.reply_code, error.reply_text
    if code == NOT_FOUND:
        return _with_cause(NotFound(f"{what} does not exist: {text}"), error)
    if code == _FORBIDDEN:
        return _with_cause(AuthError(f"{what}: {text}"), error)
    if code in _CONFLICTS:
        found = _DIFFERENCE.search(text)
        if found is not None:
            name = _POLICIES.get(found["name"], found["name"])
            text = f"{name} is {found['found']} there, {found['wanted']} here ({text})"
        return _with_cause(DeclarationConflict(f"{what} exists with other properties: {text}"), error)
    return _with_cause(ConnectionLost(f"{what}: the broker closed the channel: {code} {text}"), error)


def is_unknown_exchange_type(error: BaseException) -> bool:
    """Tell whether the broker lacks the plugin with the exchange that hashes keys."""
    return "unknown exchange type 'x-consistent-hash'" in str(error)


def largest_body(error: BaseException) -> int | None:
    """Return how many bytes of body the broker takes, if it closed a channel because one had more."""
    found = _LARGEST.search(str(error))
    return None if found is None else int(found[1])


def too_large(message: Message, largest: int, cause: BaseException | None = None) -> MessageTooLarge:
    """Return the error of a message whose body has more bytes than the broker has said that it takes."""
    refused = MessageTooLarge(
        f"the body has {len(message.body)} bytes; this RabbitMQ takes {largest}", message_id=message.id
    )
    refused.__cause__ = cause
    return refused


def rejection(error: BaseException, message_id: str) -> SendRejected:
    """Judge a message for which the broker closed the channel, and which was the only one on its way."""
    text = str(error)
    kind = MessageTooLarge if "larger than" in text or "exceeds" in text else SendRejected
    refused = kind(f"the broker refuses message {message_id}: {text}", message_id=message_id)
    refused.__cause__ = error
    return refused


def _innermost(error: BaseException) -> BaseException:
    """Unpack the layers that pika puts around the reason of a failed connection."""
    while True:
        inner: object = None
        if getattr(error, "exceptions", None):
            inner = error.exceptions[-1]  # type: ignore[attr-defined]
        elif getattr(error, "exception", None):
            inner = error.exception  # type: ignore[attr-defined]
        elif error.args:
            inner = error.args[0]
        if not isinstance(inner, BaseException):
            return error
        error = inner


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _with_cause(mapped: UnimqError, cause: BaseException) -> UnimqError:
    mapped.__cause__ = cause
    return mapped
