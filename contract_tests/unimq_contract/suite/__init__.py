"""The tests of the contract: one class per family of guarantees, to be run as they are or subclassed with a `url`."""

from unimq_contract.suite.receiving import ReceiveContract
from unimq_contract.suite.sending import SendContract
from unimq_contract.suite.settling import SettleContract

__all__ = ["ReceiveContract", "SendContract", "SettleContract"]
