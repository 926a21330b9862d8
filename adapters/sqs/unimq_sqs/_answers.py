"""What botocore takes for an answer though it is none."""

from typing import Any

import msgspec
from botocore.parsers import ResponseParserError

_decode = msgspec.json.Decoder(dict[str, Any]).decode


def refuse_broken_answers(client: Any) -> None:
    """Have a client of SQS raise `ResponseParserError` where an answer was cut off, or is a page of somebody between.

    botocore reads what is no JSON as an answer with nothing in it: a receive whose messages are hidden now would have
    brought none, and a queue that was made would have no URL. SNS answers in XML, of which it knows the end.
    """

    def look(response_dict: Any, parsed_response: Any, event_name: str, **_: object) -> None:
        # Without a response there is an error already; one with anything in it was read.
        if (
            response_dict is None
            or response_dict["status_code"] >= 300
            or parsed_response.keys() - {"ResponseMetadata"}
        ):
            return
        operation = event_name.rpartition(".")[2]
        shape = client.meta.service_model.operation_model(operation).output_shape
        if shape is None or not shape.members:
            return
        try:
            _decode(response_dict["body"] or b"")
        except msgspec.MsgspecError as error:
            raise ResponseParserError(f"{operation} was answered with what is no JSON: {error}") from error

    client.meta.events.register("response-received.sqs", look)
