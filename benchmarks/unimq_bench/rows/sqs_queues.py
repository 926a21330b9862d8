"""Queues of the rows that speak to SQS by boto3: made, emptied, found, deleted. Nothing here is measured."""

import base64
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any
from urllib.parse import parse_qs, urlsplit

from unimq_bench.rows.sqs_requests import RequestCounter

_TEXT = re.compile(rb"[\t\n\r\x20-\x7e]*")


def text_of(body: bytes) -> str:
    """Return a body as SQS takes it: as it is if it is text, else base64, and before it a letter that says which."""
    return "t" + body.decode() if _TEXT.fullmatch(body) else "b" + base64.b64encode(body).decode()


def body_of(text: str) -> bytes:
    """Return what `text_of` was given."""
    return text[1:].encode() if text[0] == "t" else base64.b64decode(text[1:])


class Queues:
    """A client for a ``sqs://`` or ``sqs+http://`` URL, whose requests are counted, and the queues that it reaches."""

    def __init__(self, url: str, settings: Mapping[str, Any]) -> None:
        boto3: Any = import_module("boto3")
        from botocore.config import Config

        parts = urlsplit(url)
        self.is_emulated = parts.scheme == "sqs+http"
        self.region = parse_qs(parts.query).get("region", ["us-east-1"])[0]
        place: dict[str, Any] = {"region_name": self.region}
        if self.is_emulated:
            place["endpoint_url"] = f"http://{parts.hostname}:{parts.port or 80}"
            place |= {"aws_access_key_id": parts.username, "aws_secret_access_key": parts.password}
        self.client: Any = boto3.client("sqs", **place, config=Config(**settings))
        self.counter = RequestCounter(self.client)
        self.durability = "memory" if self.is_emulated else "replicated(3)"
        self.emulated = "SQS emulator" if self.is_emulated else ""
        self.versions = {"boto3": boto3.__version__}

    def url_of(self, queue: str) -> str:
        """Return the address of a queue."""
        return str(self.client.get_queue_url(QueueName=queue)["QueueUrl"])

    def make(self, queue: str) -> None:
        """Make the queue, empty."""
        self.delete(queue)
        self.client.create_queue(QueueName=queue)

    def delete(self, queue: str) -> None:
        """Delete the queue, if there is one."""
        try:
            self.client.delete_queue(QueueUrl=self.url_of(queue))
        except self.client.exceptions.QueueDoesNotExist:
            return
