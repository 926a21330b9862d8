"""Signature Version 4 for the one kind of request of the fast path: a POST of JSON to the root of one endpoint.

The signatures are those that botocore would make for the same request, byte for byte; a test holds them against it.
"""

import hashlib
import hmac
import time
from typing import NamedTuple, Protocol

CONTENT_TYPE = "application/x-amz-json-1.0"
_SIGNED = "content-type;host;x-amz-date;x-amz-target;x-amzn-query-mode"
_SIGNED_OF_SESSION = "content-type;host;x-amz-date;x-amz-security-token;x-amz-target;x-amzn-query-mode"


class Keys(Protocol):
    """Credentials of one moment: botocore's `ReadOnlyCredentials`."""

    @property
    def access_key(self) -> str | None: ...
    @property
    def secret_key(self) -> str | None: ...
    @property
    def token(self) -> str | None: ...


class _DayKey(NamedTuple):
    """The key that is derived for one day, and what it was derived from."""

    secret_key: str
    day: str
    key: bytes


class Signer:
    """Signs for one endpoint. Thread-safe without a lock: the only thing that changes is replaced as a whole."""

    def __init__(self, host: str, region: str, service: str) -> None:
        self._host = host
        self._region = region
        self._service = service
        self._known = _DayKey("", "", b"")

    def headers(self, target: str, body: bytes, keys: Keys, now: float | None = None) -> dict[str, str]:
        """Return all headers of a request for an action (``AmazonSQS.…``), signed at `now` (Unix time; else the clock).

        A clock that is wrong is not corrected, as botocore does not: AWS refuses the signature, and says why.
        """
        date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        token = keys.token
        if token:
            signed, token_line = _SIGNED_OF_SESSION, f"x-amz-security-token:{' '.join(token.split())}\n"
        else:
            signed, token_line = _SIGNED, ""
        request = (
            f"POST\n/\n\ncontent-type:{CONTENT_TYPE}\nhost:{self._host}\nx-amz-date:{date}\n{token_line}"
            f"x-amz-target:{target}\nx-amzn-query-mode:true\n\n{signed}\n{hashlib.sha256(body).hexdigest()}"
        )
        scope = f"{date[:8]}/{self._region}/{self._service}/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(self._day_key(keys.secret_key or "", date[:8]), text.encode(), "sha256").hex()
        headers = {
            "Host": self._host,
            "Content-Type": CONTENT_TYPE,
            "X-Amz-Date": date,
            "X-Amz-Target": target,
            "X-Amzn-Query-Mode": "true",
            "User-Agent": "unimq",
            "Authorization": f"AWS4-HMAC-SHA256 Credential={keys.access_key}/{scope}, SignedHeaders={signed},"
            f" Signature={signature}",
        }
        if token:
            headers["X-Amz-Security-Token"] = token
        return headers

    def _day_key(self, secret_key: str, day: str) -> bytes:
        known = self._known
        if known.day != day or known.secret_key != secret_key:
            key = f"AWS4{secret_key}".encode()
            for part in (day, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._known = known = _DayKey(secret_key, day, key)
        return known.key
