"""The tests of the contract: one class per family of guarantees, to be run as they are or subclassed with a `url`."""

from unimq_contract.suite.capabilities import CapabilitiesContract
from unimq_contract.suite.codecs import CodecsContract
from unimq_contract.suite.dead_letters import DeadLettersContract
from unimq_contract.suite.errors import ErrorsContract
from unimq_contract.suite.faults import FaultsContract
from unimq_contract.suite.groups import GroupsContract
from unimq_contract.suite.life import LifeContract
from unimq_contract.suite.limits import LimitsContract
from unimq_contract.suite.model import ModelContract
from unimq_contract.suite.ordering import OrderingContract
from unimq_contract.suite.receiving import ReceiveContract
from unimq_contract.suite.redriving import RedriveContract
from unimq_contract.suite.replies import RepliesContract
from unimq_contract.suite.sending import SendContract
from unimq_contract.suite.settling import SettleContract
from unimq_contract.suite.timing import TimingContract
from unimq_contract.suite.working import WorkContract

__all__ = [
    "CapabilitiesContract",
    "CodecsContract",
    "DeadLettersContract",
    "ErrorsContract",
    "FaultsContract",
    "GroupsContract",
    "LifeContract",
    "LimitsContract",
    "ModelContract",
    "OrderingContract",
    "ReceiveContract",
    "RedriveContract",
    "RepliesContract",
    "SendContract",
    "SettleContract",
    "TimingContract",
    "WorkContract",
]
