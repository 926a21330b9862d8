"""Handles of the client library across a fork: the child must not free what it inherited."""

import ctypes
import os

_open: set[object] = set()


def keep(handle: object) -> None:
    """Note an open handle."""
    _open.add(handle)


def forget(handle: object) -> None:
    """Note that a handle was closed."""
    _open.discard(handle)


def _leak_in_child() -> None:
    """Make the inherited handles immortal: to free one is to join threads of the parent, and crashes (L2)."""
    for handle in _open:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))
    _open.clear()


os.register_at_fork(after_in_child=_leak_in_child)
