"""The numbered guarantees of the contract, and the markers by which a test says what it proves and what it needs."""

import pytest

FAMILIES = {
    "S": "Send",
    "R": "Receive",
    "A": "Settle",
    "O": "Order",
    "G": "Groups",
    "T": "Time and limits",
    "D": "Dead letters",
    "Q": "Request-reply",
    "L": "Life",
    "E": "Errors",
    "P": "Principles",
}

GUARANTEES = {
    "S1": "send returns only when the broker has confirmed that the message is stored",
    "S2": "otherwise it raises within its timeout: SendRejected or SendUnknown",
    "S3": "send_many reports each entry's own outcome; good ones are stored even when others fail",
    "S4": "missing, unroutable, refused, too large or invalid: a typed error, never silence",
    "S5": "buffers are bounded; a full one blocks, then raises BufferFull",
    "S6": "flush and close wait for every outcome and report what failed",
    "S7": "the sender's later changes do not change what was sent",
    "R1": "every confirmed message is delivered to every subscription until acked",
    "R2": "body, key, headers, id, content type, correlation id and time arrive equal",
    "R3": "what a consumer holds unsettled never exceeds prefetch",
    "R4": "receive returns as soon as any message is there, or none at the timeout",
    "R5": "nothing is invented",
    "A1": "a confirmed ack is final",
    "A2": "acks are per message, in any order, from any thread",
    "A3": "nack redelivers that message and no other, not before the delay, with attempt + 1",
    "A4": "reject moves the message to the dead-letter queue, or drops it as declared",
    "A5": "unsettled messages return after close, crash, lost connection or ended lease",
    "A6": "a stale settlement raises LeaseLost, a second one AlreadySettled; neither touches anything",
    "A7": "attempt is 1 at first and counts deliveries",
    "A8": "the failure of delivery number max_deliveries dead-letters the message, confirmed first",
    "A9": "shutdown and lost connections never dead-letter by themselves",
    "A10": "long handlers keep their lease",
    "O1": 'under ordering="key" the messages of a key arrive in send order, one in flight at a time',
    "O2": 'ordering="none" promises nothing',
    "G1": "competing consumers share a queue: all of it, no overlap, everybody gets work",
    "G2": "every subscription gets every message sent after it was declared, independently of the others",
    "T1": "an expired message is not delivered, an unexpired one is",
    "T2": "a delayed message comes not before its time, and soon after",
    "T3": "max_length rejects or drops the oldest",
    "T4": "stats gives the depth, as exact as the backend allows",
    "D1": "poison never blocks others",
    "D2": "redrive returns messages to their source",
    "D3": "an undecodable message dead-letters at once",
    "D4": "the limit without a dead-letter queue follows the declared policy, never a hot loop",
    "Q1": "replies correlate under concurrency",
    "Q2": "timeouts raise and late replies are dropped",
    "Q3": "a crashed responder means redelivery or timeout",
    "L1": "close is idempotent, bounded and wakes blocked calls; one that does not raise causes no redelivery",
    "L2": "producers and consumers are thread-safe; a forked child gets a clear error",
    "L3": "adapters reconnect by themselves and keep exactly one consumer",
    "L4": "no thread, socket, temporary queue or file outlives close",
    "L5": "memory is bounded by the declared windows",
    "E1": "one tree of errors, named by situation",
    "E2": "wrong credentials fail fast and are not retried",
    "E3": "no silent TLS downgrade",
    "P2": "never fake, never ignore: a feature works or raises Unsupported before any I/O",
}
"""Short forms of section 4 of the design; `P2` is its second principle."""


def guarantee(*numbers: str, kills: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """Say which guarantees a test proves, and which mutants (`unimq_contract.mutants`) it must fail on."""
    unknown = set(numbers) - GUARANTEES.keys()
    if unknown or not numbers:
        raise ValueError(f"unknown guarantees {sorted(unknown)}; known: {', '.join(GUARANTEES)}")
    return pytest.mark.guarantee(*numbers, kills=kills)


def needs(*features: str) -> pytest.MarkDecorator:
    """Run a test only where these fields of `unimq.Capabilities` are supported; elsewhere asking for them must raise,
    which `CapabilitiesContract` checks.
    """
    return pytest.mark.needs(*features)
