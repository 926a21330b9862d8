import pytest
from pika import exceptions
from pika.adapters.utils.connection_workflow import AMQPConnectionWorkflowFailed, AMQPConnectorSocketConnectError
from unimq_rabbitmq import _errors

from unimq import (
    AuthError,
    ConfigError,
    ConnectionLost,
    DeclarationConflict,
    MessageTooLarge,
    NotFound,
    SendRejected,
    UnimqError,
)


def _refused(code: int, text: str) -> str:
    return repr(exceptions.ConnectionClosedByBroker(code, text))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (exceptions.ProbableAuthenticationError(_refused(403, "ACCESS_REFUSED - Login was refused")), AuthError),
        (exceptions.ProbableAuthenticationError(repr(exceptions.StreamLostError("reset"))), ConnectionLost),
        (exceptions.ProbableAccessDeniedError(_refused(530, "NOT_ALLOWED - vhost nope not found")), ConfigError),
        (exceptions.ProbableAccessDeniedError(_refused(530, "NOT_ALLOWED - access to vhost refused")), AuthError),
        (
            exceptions.AMQPConnectionError(
                AMQPConnectionWorkflowFailed([AMQPConnectorSocketConnectError(ConnectionRefusedError(111, "refused"))])
            ),
            ConnectionLost,
        ),
        (exceptions.AMQPHeartbeatTimeout(), ConnectionLost),
        *[
            (
                exceptions.IncompatibleProtocolError(
                    repr(exceptions.StreamLostError(f"SSLError(1, '[SSL: {name}] x')"))
                ),
                kind,
            )
            for name, kind in {
                "CERTIFICATE_VERIFY_FAILED": AuthError,
                "TLSV13_ALERT_CERTIFICATE_REQUIRED": AuthError,
                "SSLV3_ALERT_BAD_CERTIFICATE": AuthError,
                "SSLV3_ALERT_HANDSHAKE_FAILURE": AuthError,
                "TLSV1_ALERT_UNKNOWN_CA": AuthError,
                "TLSV1_ALERT_INTERNAL_ERROR": ConnectionLost,
                "WRONG_VERSION_NUMBER": ConnectionLost,
            }.items()
        ],
    ],
)
def test_why_there_is_no_connection(error: Exception, kind: type[UnimqError]) -> None:
    found = _errors.from_connection(error, "broker:5672")
    assert type(found) is kind
    assert "broker:5672" in str(found)
    assert found.__cause__ is error


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (exceptions.ChannelClosedByBroker(404, "NOT_FOUND"), NotFound, "queue 'q' does not exist"),
        (exceptions.ChannelClosedByBroker(403, "ACCESS_REFUSED"), AuthError, "ACCESS_REFUSED"),
        (
            exceptions.ChannelClosedByBroker(
                406,
                "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received none but"
                " current is the value '3' of type 'signedint'",
            ),
            DeclarationConflict,
            "max_length is the value '3' of type 'signedint' there, none here",
        ),
        (exceptions.ChannelClosedByBroker(405, "RESOURCE_LOCKED"), DeclarationConflict, "RESOURCE_LOCKED"),
        (exceptions.ChannelClosedByBroker(541, "INTERNAL_ERROR"), ConnectionLost, "541"),
        (exceptions.ShortStringTooLong(b"q" * 300), ConfigError, "255 bytes"),
        (exceptions.NoFreeChannels(), ConnectionLost, "NoFreeChannels"),
    ],
)
def test_why_an_operation_was_refused(error: Exception, kind: type[UnimqError], text: str) -> None:
    found = _errors.from_channel(error, "queue 'q'")
    assert type(found) is kind
    assert text in str(found)
    assert found.__cause__ is error


def test_why_a_message_was_refused() -> None:
    large = exceptions.ChannelClosedByBroker(406, "PRECONDITION_FAILED - message size 9 is larger than max size 5")
    other = exceptions.ChannelClosedByBroker(406, "PRECONDITION_FAILED - fast reply consumer does not exist")
    assert type(_errors.rejection(large, "id")) is MessageTooLarge
    assert type(_errors.rejection(other, "id")) is SendRejected
    assert _errors.rejection(other, "id").message_id == "id"


@pytest.mark.parametrize(
    ("text", "largest"),
    [
        # As RabbitMQ 3.10, 4.0 and 4.3 say it, and as it is said where the limit is the largest possible one.
        ("PRECONDITION_FAILED - message size 65537 is larger than configured max size 65536", 65536),
        ("PRECONDITION_FAILED - message size 134217729 larger than max size 134217728", 134217728),
        ("PRECONDITION_FAILED - fast reply consumer does not exist", None),
    ],
)
def test_how_large_a_body_may_be(text: str, largest: int | None) -> None:
    assert _errors.largest_body(exceptions.ChannelClosedByBroker(406, text)) == largest
