"""What the test classes of the suite have in common."""

from typing import ClassVar


class Contract:
    """One family of guarantees. Its subclasses in `unimq_contract.suite` run on the backends of the command line.

    A subclass in somebody's own tests, named ``Test…`` and with a `url`, runs on that one:

        from unimq_contract.suite import SendContract

        class TestSend(SendContract):
            url = "sqlite:///orders.db"
    """

    url: ClassVar[str | None] = None
    """Broker to run on, instead of those of the command line."""
