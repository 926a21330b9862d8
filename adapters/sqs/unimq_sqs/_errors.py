"""From the errors of botocore to those of unimq: one table, and one rule for what is worth another attempt."""

from collections.abc import Mapping
from typing import TypeAlias

from botocore import exceptions as native
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from unimq import (
    AuthError,
    ConfigError,
    ConnectionLost,
    DeclarationConflict,
    InvalidMessage,
    LeaseLost,
    MessageTooLarge,
    NotFound,
    SendRejected,
    UnimqError,
)

NativeError: TypeAlias = ClientError | BotoCoreError | ResponseParserError
NATIVE_ERRORS = (ClientError, BotoCoreError, ResponseParserError)
"""The last one, for an answer that is none (a proxy's error page), is no subclass of the others."""

_NAMESPACE = "AWS.SimpleQueueService."

_CODES: Mapping[type[UnimqError], frozenset[str]] = {
    # Wrong keys, expired tokens, refused permissions, clocks that differ too much for a signature.
    AuthError: frozenset(
        {
            "AccessDenied",
            "AccessDeniedException",
            "AuthFailure",
            "AuthorizationError",
            "AuthorizationErrorException",
            "ExpiredToken",
            "ExpiredTokenException",
            "IncompleteSignature",
            "IncompleteSignatureException",
            "InvalidAccessKeyId",
            "InvalidClientTokenId",
            "InvalidSecurity",
            "InvalidSignatureException",
            "KMSAccessDenied",
            "KmsAccessDenied",
            "MissingAuthenticationToken",
            "MissingAuthenticationTokenException",
            "OptInRequired",
            "RequestExpired",
            "RequestTimeTooSkewed",
            "SignatureDoesNotMatch",
            "UnrecognizedClientException",
        }
    ),
    NotFound: frozenset({"NonExistentQueue", "NotFound", "NotFoundException", "QueueDoesNotExist"}),
    DeclarationConflict: frozenset({"QueueAlreadyExists", "QueueDeletedRecently", "QueueNameExists"}),
    MessageTooLarge: frozenset({"BatchRequestTooLong", "BatchRequestTooLongException"}),
    InvalidMessage: frozenset({"InvalidMessageContents"}),
    LeaseLost: frozenset({"MessageNotInflight", "ReceiptHandleIsInvalid"}),
    # Worth another attempt.
    ConnectionLost: frozenset(
        {
            "InternalError",
            "InternalErrorException",
            "InternalFailure",
            "InternalServerError",
            "KMSThrottling",
            "KmsThrottled",
            "OverLimit",
            "PurgeQueueInProgress",
            "RequestThrottled",
            "RequestTimeout",
            "ServiceUnavailable",
            "Throttled",
            "ThrottledException",
            "Throttling",
            "ThrottlingException",
        }
    ),
}
_KIND_OF_CODE = {code: kind for kind, codes in _CODES.items() for code in codes}

_KIND_OF_CLASS: tuple[tuple[type[UnimqError], tuple[type[Exception], ...]], ...] = (
    (
        AuthError,
        (
            native.CredentialRetrievalError,
            native.NoAuthTokenError,
            native.NoCredentialsError,
            native.PartialCredentialsError,
            native.SSOError,
            native.TokenRetrievalError,
        ),
    ),
    (
        ConfigError,
        (
            native.ConfigNotFound,
            native.ConfigParseError,
            native.InvalidEndpointConfigurationError,
            native.InvalidRegionError,
            native.NoRegionError,
            native.ParamValidationError,
            native.ProfileNotFound,
        ),
    ),
    (
        ConnectionLost,
        (native.HTTPClientError, native.ConnectionError, native.ResponseStreamingError, ResponseParserError),
    ),
)
"""`HTTPClientError` covers refused, reset, timed-out and TLS connections; TLS is never given up for them (E3)."""


def code_of(error: NativeError) -> str:
    """Return the code of an answer without the prefix that only some carry; nothing for an error that is no answer."""
    if not isinstance(error, ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", "")).removeprefix(_NAMESPACE)


def kind_of(error: NativeError) -> type[UnimqError] | None:
    """Return the class of unimq's error; `ConnectionLost` means that another attempt can help, `None` neither."""
    if isinstance(error, ClientError):
        known = _KIND_OF_CODE.get(code_of(error))
        if known is not None:
            return known
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return ConnectionLost if status == 429 or status >= 500 else None
    for kind, classes in _KIND_OF_CLASS:
        if isinstance(error, classes):
            return kind
    return None


def translate(error: NativeError, doing: str, default: type[UnimqError] = ConfigError) -> UnimqError:
    """Return the typed error with the native one as its cause; `default` where the table has none (E1)."""
    translated = (kind_of(error) or default)(f"{doing}: {error}")
    # The frames of the client hold the connection: whoever keeps the error would keep a socket open (L4).
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    translated.__cause__ = error
    return translated


def refusal(failed: Mapping[str, object], doing: str, default: type[UnimqError] = SendRejected) -> UnimqError:
    """Return the typed error of one refused entry of a batch."""
    code = str(failed.get("Code", "")).removeprefix(_NAMESPACE)
    text = str(failed.get("Message", ""))
    kind = _KIND_OF_CODE.get(code, default)
    if kind is SendRejected and "shorter than" in text:
        # A message above the queue's own MaximumMessageSize has no code of its own.
        kind = MessageTooLarge
    return kind(f"{doing}: {code}: {text}")
