"""The four calls that carry messages: what sender and receiver ask for, whoever makes the requests."""

from collections.abc import Mapping
from typing import Any, Protocol


class QueueCalls(Protocol):
    """botocore's client of SQS, or `unimq_sqs._http.FastCalls`; thread-safe, and names are those of botocore.

    A request is made once and never repeated here. Each call raises errors of `unimq_sqs._errors.NATIVE_ERRORS` only.
    """

    def send_message_batch(self, *, QueueUrl: str, Entries: Any) -> Mapping[str, Any]: ...  # noqa: N803 - theirs
    def receive_message(
        self,
        *,
        QueueUrl: str,  # noqa: N803
        MaxNumberOfMessages: int = ...,  # noqa: N803
        WaitTimeSeconds: int = ...,  # noqa: N803
        VisibilityTimeout: int = ...,  # noqa: N803
        MessageAttributeNames: Any = ...,  # noqa: N803
        MessageSystemAttributeNames: Any = ...,  # noqa: N803
        ReceiveRequestAttemptId: str = ...,  # noqa: N803
    ) -> Mapping[str, Any]: ...
    def delete_message_batch(self, *, QueueUrl: str, Entries: Any) -> Mapping[str, Any]: ...  # noqa: N803
    def change_message_visibility_batch(self, *, QueueUrl: str, Entries: Any) -> Mapping[str, Any]: ...  # noqa: N803
