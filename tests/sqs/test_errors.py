"""The table of errors, and that translating one lets its connection go."""

import pytest
from botocore import exceptions as native
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError
from unimq_sqs._errors import NativeError, kind_of, refusal, translate

import unimq


def _answer(code: str, status: int = 400) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Op")  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (_answer("InvalidClientTokenId", 403), unimq.AuthError),
        (_answer("AccessDenied", 403), unimq.AuthError),
        (_answer("QueueDoesNotExist"), unimq.NotFound),
        (_answer("AWS.SimpleQueueService.NonExistentQueue"), unimq.NotFound),
        (_answer("NotFound", 404), unimq.NotFound),
        (_answer("AWS.SimpleQueueService.BatchRequestTooLong"), unimq.MessageTooLarge),
        (_answer("RequestThrottled"), unimq.ConnectionLost),
        (_answer("Whatever", 503), unimq.ConnectionLost),
        (_answer("Whatever", 429), unimq.ConnectionLost),
        (_answer("InvalidParameterValue"), None),
        (native.EndpointConnectionError(endpoint_url="http://127.0.0.1:1/"), unimq.ConnectionLost),
        (native.ReadTimeoutError(endpoint_url="u"), unimq.ConnectionLost),
        (native.ConnectionClosedError(endpoint_url="u"), unimq.ConnectionLost),
        (native.SSLError(endpoint_url="u", error=OSError("e")), unimq.ConnectionLost),
        (ResponseParserError("<html>"), unimq.ConnectionLost),
        (native.NoCredentialsError(), unimq.AuthError),
        (native.NoRegionError(), unimq.ConfigError),
    ],
)
def test_table(error: NativeError, kind: type[unimq.UnimqError] | None) -> None:
    assert kind_of(error) is kind
    translated = translate(error, "doing", unimq.SendRejected)
    assert type(translated) is (kind or unimq.SendRejected)
    assert translated.__cause__ is error


def _cut() -> None:
    try:
        raise OSError
    except OSError as error:
        raise native.ConnectionClosedError(endpoint_url="u", error=error) from error


def test_a_kept_error_keeps_no_frames_of_the_client() -> None:
    with pytest.raises(native.ConnectionClosedError) as caught:
        _cut()
    translated = translate(caught.value, "doing")
    assert translated.__cause__ is caught.value
    assert isinstance(caught.value.__cause__, OSError)
    assert (caught.value.__traceback__, caught.value.__cause__.__traceback__) == (None, None)


def test_refused_entries() -> None:
    text = "One or more parameters are invalid. Message must be shorter than 1024 bytes."
    too_long = {"Code": "InvalidParameterValue", "Message": text}
    assert type(refusal(too_long, "sending")) is unimq.MessageTooLarge
    assert type(refusal({"Code": "InvalidMessageContents"}, "sending")) is unimq.InvalidMessage
    assert type(refusal({"Code": "ReceiptHandleIsInvalid"}, "acking")) is unimq.LeaseLost
    assert type(refusal({"Code": "Other", "Message": "why"}, "sending")) is unimq.SendRejected
