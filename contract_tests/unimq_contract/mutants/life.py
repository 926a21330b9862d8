"""Faults of opening and closing."""

import threading

from unimq.adapter import (
    Driver,
)
from unimq_contract.mutants.seam import FaultyReceiver, Mutant


class DeliversAfterClose(Mutant):
    """A closed consumer stays subscribed, and messages vanish into it."""

    def close_receiver(self, receiver: FaultyReceiver, timeout: float) -> None:
        pass


class ThreadLeftBehind(Mutant):
    """Each connection leaves a thread behind."""

    def opened(self, driver: Driver) -> None:
        threading.Thread(target=threading.Event().wait, name="left-behind", daemon=True).start()
