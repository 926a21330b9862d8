"""What an error of the client means: one table, and the two ways to read it."""

from confluent_kafka import KafkaError, KafkaException

from unimq import (
    AuthError,
    ConfigError,
    ConnectionLost,
    MessageTooLarge,
    NotFound,
    SendRejected,
    SendUnknown,
    UnimqError,
)

_MEANINGS: dict[type[UnimqError], tuple[int, ...]] = {
    AuthError: (
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    ),
    NotFound: (
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.GROUP_ID_NOT_FOUND,
    ),
    MessageTooLarge: (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE, KafkaError.RECORD_LIST_TOO_LARGE),
    SendRejected: (
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.INVALID_RECORD,
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
        KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
    ),
    ConfigError: (
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_GROUP_ID,
        KafkaError.POLICY_VIOLATION,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.UNSUPPORTED_VERSION,
        KafkaError._UNSUPPORTED_FEATURE,
        KafkaError._INVALID_ARG,
    ),
}
_MISSING = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_ID}
_TABLE = {code: kind for kind, codes in _MEANINGS.items() for code in codes}
"""Codes of refusal only. Whatever is not here is a broker or connection that did not answer as it should."""


def is_final(error: KafkaError) -> bool:
    """Tell whether the credentials or the certificate were refused, which no retry changes (E2).

    The client itself retries for ever, and reports such a message or request as timed out.
    """
    return _TABLE.get(error.code()) is AuthError


def is_missing(error: KafkaError) -> bool:
    """Tell whether a topic or partition was not found."""
    return error.code() in _MISSING


def native_of(exception: KafkaException) -> KafkaError:
    """Return the error inside an exception of the client."""
    error = exception.args[0] if exception.args else None
    return error if isinstance(error, KafkaError) else KafkaError(KafkaError._FAIL, str(exception))


def request_error(native: KafkaError, doing: str) -> UnimqError:
    """Return the typed error of a request or of a consumer; an unknown code is a broker that is not at its best."""
    kind = _TABLE.get(native.code(), ConnectionLost)
    if issubclass(kind, SendRejected):
        kind = ConfigError
    return _caused(kind(f"{doing}: {describe(native)}"), native)


def send_error(native: KafkaError, target: str, message_id: str, trouble: str) -> UnimqError:
    """Return what became of a message by the error of its report or of `produce` (S2).

    Only a refusal proves that it is not stored. Time-outs and purges do not: a message may have been sent, stored, and
    its answer lost, and these codes come all the same.
    """
    kind = _TABLE.get(native.code(), SendUnknown)
    doing = f"message {message_id} to {target!r}"
    if kind is ConfigError:
        kind = SendRejected
    if kind is SendUnknown:
        hint = f" (the broker: {trouble})" if trouble else ""
        return _caused(SendUnknown(f"{doing} may be stored: {describe(native)}{hint}", message_id=message_id), native)
    if issubclass(kind, SendRejected):
        return _caused(kind(f"{doing}: {describe(native)}", message_id=message_id), native)
    return _caused(kind(f"{doing}: {describe(native)}"), native)


def describe(native: KafkaError) -> str:
    """Return name and text of the client's error."""
    return f"{native.str()} [{native.name()}]"


def _caused(error: UnimqError, native: KafkaError) -> UnimqError:
    error.__cause__ = KafkaException(native)
    return error
