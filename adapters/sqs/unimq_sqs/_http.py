"""The fast path: the four calls that carry messages, without the layers of botocore (``?http=fast``).

What is rare stays botocore's: it finds endpoint, region and credentials, reads error answers, and makes the errors.
What happens for each message is here: JSON, a signature, a request on a connection that stays open.
"""

import base64
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
from botocore import exceptions as native
from botocore.httpsession import DEFAULT_CA_BUNDLE, get_cert_path
from botocore.parsers import ResponseParserError, create_parser
from botocore.utils import get_environ_proxies
from urllib3 import HTTPHeaderDict
from urllib3.connection import HTTPConnection

from unimq import ConfigError
from unimq_sqs._counting import RECEIVE, RequestCounts
from unimq_sqs._exchange import Answer, Exchange
from unimq_sqs._signing import Keys, Signer

if TYPE_CHECKING:
    import botocore.session
    from types_boto3_sqs import SQSClient

OPERATIONS = ("SendMessageBatch", "ReceiveMessage", "DeleteMessageBatch", "ChangeMessageVisibilityBatch")
_SCOPE = re.compile(r"AWS4-HMAC-SHA256 Credential=[^/]+/\d{8}/([^/]+)/([^/]+)/aws4_request,")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Route(NamedTuple):
    """Where requests go, and for what they are signed."""

    url: str
    region: str
    service: str


class RouteFinder:
    """Looks at the first request of a client, for its route: the rules by which botocore finds it are many.

    Partitions, FIPS, dual stack, endpoints of the environment and of the configuration are all in it.
    """

    def __init__(self, client: "SQSClient") -> None:
        self._found: Route | None = None
        self._lock = threading.Lock()
        client.meta.events.register("before-send.sqs", self._look)

    def _look(self, request: Any, **_: object) -> None:
        with self._lock:
            if self._found is None:
                given: str | bytes = request.headers.get("Authorization") or ""
                text = given.decode("latin-1") if isinstance(given, bytes) else given
                scope = _SCOPE.match(text)
                self._found = Route(request.url, *(scope.groups() if scope else ("", "")))

    def route(self) -> Route:
        """Return the route, once a request was sent.

        Raises:
            ConfigError: the fast path cannot make the requests that botocore makes.

        """
        with self._lock:
            found = self._found
        if found is None or not found.region:
            raise ConfigError("http=fast signs with Signature Version 4 only, which botocore is not configured to use")
        if urlsplit(found.url).path not in {"", "/"} or urlsplit(found.url).query:
            raise ConfigError("http=fast needs an endpoint without a path; use http=botocore")
        return found


def ca_bundle(session: "botocore.session.Session") -> str:
    """Return the file of the authorities that botocore would trust, from configuration or environment."""
    chosen: str | None = session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
    return chosen or get_cert_path(True) or DEFAULT_CA_BUNDLE  # noqa: FBT003 - theirs


class FastCalls:
    """See `unimq_sqs._calls.QueueCalls`. Thread-safe."""

    def __init__(
        self,
        client: "SQSClient",
        credentials: Callable[[], Keys | None],
        route: Route,
        counts: RequestCounts,
        *,
        authorities: Callable[[], str],
        connections: int,
        connect_timeout: float,
        read_timeout: float,
        poll_timeout: float,
    ) -> None:
        """Make no request yet.

        Args:
            client: botocore's, which makes the errors.
            credentials: gives those of this moment, refreshed where they must be; `None` if there are none.
            route: where to.
            counts: told of every request.
            authorities: gives the file of trusted authorities; asked for HTTPS only.
            connections: kept open at most.
            connect_timeout: seconds.
            read_timeout: seconds, for all but long polls.
            poll_timeout: the same for long polls.

        Raises:
            ConfigError: a proxy stands between, or the file of authorities cannot be read.

        """
        parts = urlsplit(route.url)
        if get_environ_proxies(route.url).get(parts.scheme):
            raise ConfigError(
                "http=fast goes through no proxy: name the endpoint's host in NO_PROXY, or use http=botocore"
            )
        host, port = parts.hostname or "", parts.port
        named = f"[{host}]" if ":" in host else host
        default = 443 if parts.scheme == "https" else 80
        self._signer = Signer(named if port in {None, default} else f"{named}:{port}", route.region, route.service)
        self._url = route.url
        self._client = client
        self._credentials = credentials
        self._counts = counts
        self._parser = create_parser(client.meta.service_model.resolved_protocol)
        self._short = read_timeout
        self._long = poll_timeout
        self._exchange = Exchange(
            named,
            port,
            _trusting(authorities()) if parts.scheme == "https" else None,
            route.url,
            connections=connections,
            connect_timeout=connect_timeout,
            socket_options=_kept_alive(),
        )

    def close(self) -> None:
        """Close the connections that are not in use; a request that is under way closes its own."""
        self._exchange.close()

    def send_message_batch(self, *, QueueUrl: str, Entries: Any) -> Mapping[str, Any]:  # noqa: N803 - theirs
        """See `QueueCalls`."""
        return self._call("SendMessageBatch", {"QueueUrl": QueueUrl, "Entries": Entries}, self._short)

    def receive_message(self, **parameters: Any) -> Mapping[str, Any]:
        """See `QueueCalls`."""
        return self._call("ReceiveMessage", parameters, self._long)

    def delete_message_batch(self, *, QueueUrl: str, Entries: Any) -> Mapping[str, Any]:  # noqa: N803
        """See `QueueCalls`."""
        return self._call("DeleteMessageBatch", {"QueueUrl": QueueUrl, "Entries": Entries}, self._short)

    def change_message_visibility_batch(self, *, QueueUrl: str, Entries: Any) -> Mapping[str, Any]:  # noqa: N803
        """See `QueueCalls`."""
        return self._call("ChangeMessageVisibilityBatch", {"QueueUrl": QueueUrl, "Entries": Entries}, self._short)

    def _call(self, operation: str, parameters: Mapping[str, Any], timeout: float) -> Mapping[str, Any]:
        keys = self._credentials()
        if keys is None:
            raise native.NoCredentialsError
        body = _encode(parameters)
        headers = self._signer.headers(f"AmazonSQS.{operation}", body, keys)
        action = f"SQS.{operation}"
        self._counts.sent(action, len(body))
        response = self._exchange.post(headers, body, timeout)
        data = response.body
        if response.status >= 300:
            self._counts.answered(action, len(data))
            raise self._error(operation, response)
        try:
            answer = _decode(data)
        except msgspec.MsgspecError as error:
            # Of a proxy, or cut off in the middle: what was done is not known.
            raise ResponseParserError(f"{operation} was answered with what is no JSON: {error}") from error
        is_empty = False
        if action == RECEIVE:
            messages = answer.get("Messages")
            is_empty = not messages
            if b'"BinaryValue"' in data:
                _decode_binary(messages or ())
        self._counts.answered(action, len(data), is_empty=is_empty)
        return answer

    def _error(self, operation: str, response: Answer) -> Exception:
        """Return the error that botocore raises for an answer, read by its own parser."""
        shape: Any = self._client.meta.service_model.operation_model(operation).output_shape
        parsed: Any = self._parser.parse(
            {"body": response.body, "headers": HTTPHeaderDict(response.headers), "status_code": response.status}, shape
        )
        told: Mapping[str, Any] = parsed.get("Error", {})
        # Classes are named by the codes of JSON; `Code` is the older one, where there are two.
        kind: Any = self._client.exceptions.from_code(told.get("QueryErrorCode") or told.get("Code") or "")
        error: Exception = kind(parsed, operation)
        return error


def _kept_alive() -> list[Any]:
    defaults: Any = HTTPConnection.default_socket_options
    return [*defaults, (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]


def _trusting(authorities: str) -> ssl.SSLContext:
    """Return what checks certificate and host name, and speaks TLS 1.2 or later."""
    try:
        context = ssl.create_default_context(cafile=authorities)
    except OSError as error:
        raise ConfigError(f"the file of trusted authorities {authorities} cannot be read: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _decode_binary(messages: Sequence[Mapping[str, Any]]) -> None:
    """Turn binary attributes into the bytes that botocore makes of them."""
    for message in messages:
        attributes: Mapping[str, dict[str, Any]] = message.get("MessageAttributes") or {}
        for attribute in attributes.values():
            if "BinaryValue" in attribute:
                attribute["BinaryValue"] = base64.b64decode(attribute["BinaryValue"])
