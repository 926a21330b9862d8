"""The signer of the fast path against the one of botocore: the same request, the same signature, byte for byte."""

import calendar
import datetime as dt
from unittest.mock import patch

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, ReadOnlyCredentials
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unimq_sqs._signing import Signer

UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
PRINTABLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60)
HOSTS = st.sampled_from(
    [
        ("https://sqs.eu-west-1.amazonaws.com/", "sqs.eu-west-1.amazonaws.com"),
        ("https://vpce-1.sqs.us-east-1.vpce.amazonaws.com:443/", "vpce-1.sqs.us-east-1.vpce.amazonaws.com"),
        ("https://queue.example:8443/", "queue.example:8443"),
        ("http://127.0.0.1:4566/", "127.0.0.1:4566"),
        ("http://[::1]:4566", "[::1]:4566"),
        ("http://localhost:80/", "localhost"),
    ]
)
REGIONS = st.sampled_from(["us-east-1", "eu-central-1", "us-gov-west-1", "cn-north-1", "ap-southeast-2"])
MOMENTS = st.datetimes(dt.datetime(2001, 1, 1), dt.datetime(2099, 12, 31))  # noqa: DTZ001 - botocore's are naive
TARGETS = st.sampled_from(["AmazonSQS.SendMessageBatch", "AmazonSQS.ReceiveMessage", "AmazonSQS.DeleteMessageBatch"])


def signed_by_botocore(
    url: str, region: str, headers: dict[str, str], body: bytes, keys: ReadOnlyCredentials, moment: dt.datetime
) -> AWSRequest:
    """Return the same request with the signature of botocore."""
    ours = ("Content-Type", "X-Amz-Target", "X-Amzn-Query-Mode", "User-Agent")
    request = AWSRequest("POST", url, {name: headers[name] for name in ours}, body)
    with patch("botocore.auth.get_current_datetime", return_value=moment):
        SigV4Auth(Credentials(keys.access_key or "", keys.secret_key or "", keys.token), "sqs", region).add_auth(
            request
        )
    return request


@UNTIMED
@given(HOSTS, REGIONS, TARGETS, st.binary(max_size=2000), PRINTABLE, PRINTABLE, st.none() | PRINTABLE, MOMENTS)
def test_signatures_are_those_of_botocore(
    address: tuple[str, str],
    region: str,
    target: str,
    body: bytes,
    access_key: str,
    secret_key: str,
    token: str | None,
    moment: dt.datetime,
) -> None:
    url, host = address
    keys = ReadOnlyCredentials(access_key, secret_key, token)
    ours = Signer(host, region, "sqs").headers(target, body, keys, calendar.timegm(moment.timetuple()))
    theirs = signed_by_botocore(url, region, ours, body, keys, moment)
    for name in ("Authorization", "X-Amz-Date", "X-Amz-Security-Token"):
        assert ours.get(name) == theirs.headers.get(name)
    # What is signed must be what is sent.
    assert ours["Host"] == host


def test_one_signer_follows_the_day_and_the_keys() -> None:
    """The derived key is kept: a stale one would be refused from midnight on, or after a refresh of the credentials."""
    signer = Signer("h", "eu-west-1", "sqs")
    evening = dt.datetime(2026, 11, 24, 23, 59, 59)  # noqa: DTZ001
    morning = dt.datetime(2026, 11, 25)  # noqa: DTZ001
    for secret in ("first", "second", "first"):
        for moment in (evening, morning, evening):
            keys = ReadOnlyCredentials("AK", secret, None)
            ours = signer.headers("AmazonSQS.ReceiveMessage", b"{}", keys, calendar.timegm(moment.timetuple()))
            theirs = signed_by_botocore("http://h/", "eu-west-1", ours, b"{}", keys, moment)
            assert ours["Authorization"] == theirs.headers["Authorization"]
