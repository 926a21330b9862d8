"""What errors of the client mean: only a refusal proves that a message is not stored."""

import pytest
from confluent_kafka import KafkaError, KafkaException
from unimq_kafka._errors import is_final, native_of, request_error, send_error

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


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (KafkaError._MSG_TIMED_OUT, SendUnknown),
        (KafkaError._PURGE_QUEUE, SendUnknown),
        (KafkaError._PURGE_INFLIGHT, SendUnknown),
        (KafkaError._TRANSPORT, SendUnknown),
        (KafkaError.REQUEST_TIMED_OUT, SendUnknown),
        (KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND, SendUnknown),
        (KafkaError._FATAL, SendUnknown),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, NotFound),
        (KafkaError._UNKNOWN_PARTITION, NotFound),
        (KafkaError.MSG_SIZE_TOO_LARGE, MessageTooLarge),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, AuthError),
        (KafkaError.INVALID_RECORD, SendRejected),
        (KafkaError.POLICY_VIOLATION, SendRejected),
    ],
)
def test_what_became_of_a_message(code: int, kind: type[UnimqError]) -> None:
    error = send_error(KafkaError(code), "orders", "m1", "")
    assert type(error) is kind
    assert "m1" in str(error)
    assert "orders" in str(error)
    cause = error.__cause__
    assert isinstance(cause, KafkaException)
    assert native_of(cause).code() == code
    if isinstance(error, SendRejected | SendUnknown):
        assert error.message_id == "m1"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (KafkaError._TIMED_OUT, ConnectionLost),
        (KafkaError._TRANSPORT, ConnectionLost),
        (KafkaError.INVALID_REPLICATION_FACTOR, ConfigError),
        (KafkaError.POLICY_VIOLATION, ConfigError),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, NotFound),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, AuthError),
        (KafkaError._AUTHENTICATION, AuthError),
        (KafkaError.INVALID_RECORD, ConfigError),
    ],
)
def test_what_became_of_a_request(code: int, kind: type[UnimqError]) -> None:
    assert type(request_error(KafkaError(code), "asking")) is kind


def test_refused_credentials_and_certificates_are_final() -> None:
    assert is_final(KafkaError(KafkaError._AUTHENTICATION))
    assert is_final(KafkaError(KafkaError._SSL))
    assert not is_final(KafkaError(KafkaError._TRANSPORT))


def test_an_exception_without_a_code_has_one() -> None:
    assert native_of(KafkaException("odd")).code() == KafkaError._FAIL


def test_an_unknown_outcome_says_what_the_broker_said() -> None:
    assert "refused" in str(send_error(KafkaError(KafkaError._MSG_TIMED_OUT), "q", "m", "Connection refused"))
