"""unimq on one SQLite file: a durable queue that several processes share, and no server.

``sqlite:///orders.db`` is a file in the working directory, ``sqlite:////var/lib/orders.db`` an absolute path.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import msgspec

from unimq import ConfigError
from unimq.adapter import BrokerURL, Capabilities
from unimq_sqlite._driver import SQLiteDriver, SQLiteOptions, capabilities_of
from unimq_sqlite._owner import Owner

__all__ = ["SQLiteAdapter", "SQLiteOptions"]


class SQLiteAdapter:
    """``sqlite:///relative/path`` and ``sqlite:////absolute/path``."""

    schemes: ClassVar[Sequence[str]] = ("sqlite",)
    options: ClassVar[type[msgspec.Struct]] = SQLiteOptions

    def connect(self, url: BrokerURL, options: SQLiteOptions, *, timeout: float) -> SQLiteDriver:
        """Open the file, and make it if it is missing.

        Raises:
            ConfigError: there is no path, its folder is missing, or the file is no database.
            AuthError: the file cannot be read or written.
            ConnectionLost: another process kept the file locked for the whole `timeout`.

        """
        if url.hosts or url.user is not None or not url.path or url.path == ":memory:":
            raise ConfigError(f"{url}: expected sqlite:///relative/path or sqlite:////absolute/path; or memory://")
        path = Path(url.path).absolute()
        if not path.parent.is_dir() or path.is_dir():
            raise ConfigError(f"{url}: {path} is a folder, or is to be in one that does not exist: {path.parent}")
        return SQLiteDriver(Owner(path, options.synchronous, options.poll, timeout), options)

    def offline_capabilities(self, url: BrokerURL, options: SQLiteOptions) -> Capabilities:
        """Say what the file can do, without looking for it."""
        return capabilities_of(options)
