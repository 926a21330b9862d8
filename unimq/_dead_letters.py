"""Dead letters: a confirmed copy with its provenance in headers, in one format on every backend (A4, A8)."""

import time
from collections.abc import Callable

from unimq._codec import LONGEST_ERROR
from unimq._delivery import Delivery
from unimq._errors import Closed, MessageTooLarge, UnimqError
from unimq._message import DEAD_LETTER_PREFIX, Headers, Message
from unimq._outgoing import Outcome
from unimq._sending import ProducerCore
from unimq._waiting import deadline_after

REASON = DEAD_LETTER_PREFIX + "reason"
SOURCE = DEAD_LETTER_PREFIX + "source"
ATTEMPTS = DEAD_LETTER_PREFIX + "attempts"
FIRST_SENT_AT = DEAD_LETTER_PREFIX + "sent-at"
DEAD_AT = DEAD_LETTER_PREFIX + "at"
ORIGINAL_ID = DEAD_LETTER_PREFIX + "id"
ERROR_TYPE = DEAD_LETTER_PREFIX + "error-type"
ERROR = DEAD_LETTER_PREFIX + "error"
PROVENANCE = frozenset({REASON, SOURCE, ATTEMPTS, FIRST_SENT_AT, DEAD_AT, ORIGINAL_ID, ERROR_TYPE, ERROR})
"""What a dead letter has and a redriven message has not."""
REDRIVES = DEAD_LETTER_PREFIX + "redrives"
REDRIVE_ID = DEAD_LETTER_PREFIX + "redrive-id"
"""What a redriven message keeps, also when it is dead again: how often it was redriven, and by which run at last."""


def provenance(delivery: Delivery, reason: str, source: str, error: BaseException | None = None) -> Headers:
    """Return the headers of the copy: those of the message, and where it comes from and why.

    Times are Unix seconds with three decimals. The names stand in ``docs/dead-letters.md``.
    """
    headers: dict[str, str | bytes] = {
        # Of a dead letter that was forwarded as it was, the former provenance ends here.
        **{name: value for name, value in delivery.headers.items() if name not in PROVENANCE},
        REASON: reason,
        SOURCE: source,
        ATTEMPTS: str(delivery.attempt),
        FIRST_SENT_AT: f"{delivery.sent_at:.3f}",
        DEAD_AT: f"{time.time():.3f}",
        ORIGINAL_ID: delivery.id,
    }
    if error is not None:
        headers |= error_headers(error)
    return headers


def error_headers(error: BaseException) -> dict[str, str | bytes]:
    """Return the headers that keep the type and the beginning of the text of what a handler or codec raised."""
    # A lone surrogate, which text of an exception may hold, has no place in a header.
    text = str(error)[:LONGEST_ERROR].encode(errors="replace").decode()
    return {ERROR_TYPE: type(error).__name__, ERROR: text}


class DeadLetters:
    """The way to one dead-letter queue; owned by one consumer.

    The window of its producer is unlimited: what is under way is bounded by the consumer's `prefetch`.
    """

    def __init__(self, producer: ProducerCore) -> None:
        self.producer = producer

    def send(
        self,
        delivery: Delivery,
        reason: str,
        source: str,
        error: BaseException | None,
        done: Callable[[UnimqError | None], None],
    ) -> None:
        """Send the copy without waiting; `done` gets `None` once it is confirmed, or the error.

        `error` is what a handler or codec raised: the provenance keeps its type and text. What is so large that the
        provenance has no room goes as it was sent: better no reason than a message that cannot go anywhere (D1).
        """

        def report(outcome: Outcome) -> None:
            if isinstance(outcome, MessageTooLarge):
                self.producer.seldom.say(
                    "no-room-for-provenance",
                    "dead letter %s from %r has no room for its provenance",
                    delivery.id,
                    source,
                    source=source,
                    message_id=delivery.id,
                )
                self._submit(delivery, delivery.headers, lambda last: done(_error_of(last)))
            else:
                done(_error_of(outcome))

        self._submit(delivery, provenance(delivery, reason, source, error), report)

    def _submit(self, delivery: Delivery, headers: Headers, report: Callable[[Outcome], None]) -> None:
        message = delivery.message
        copy = Message(
            message.body,
            message.key,
            headers,
            message.id,
            message.content_type,
            message.correlation_id,
            message.reply_to,
            sent_at=message.sent_at,
        )
        producer = self.producer
        entry = producer.entry(copy, deadline_after(producer.timeout))
        try:
            if not producer.admits_freely:
                producer.admit(1, entry.size)
        except Closed as closed:
            report(closed)
            return
        producer.join_pipeline(entry, report)
        producer.sender.submit((entry,))


def _error_of(outcome: Outcome) -> UnimqError | None:
    return outcome if isinstance(outcome, UnimqError) else None
