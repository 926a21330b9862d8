"""The in-memory broker of unimq: every guarantee of the contract inside one process, and none across its end.

``memory://`` and ``memory://NAME`` are brokers of this process; all connections to one name share its queues, which
live until they are deleted or the process ends, as they would on a server. ``memory://?private=true`` is a broker of
its own that ends with its connection.
"""

from unimq_memory._driver import MemoryAdapter

__all__ = ["MemoryAdapter"]
