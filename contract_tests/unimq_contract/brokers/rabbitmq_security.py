"""A TLS listener, accounts and rights of a private RabbitMQ, for tests that ask for them."""

import base64
import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .certificates import authority, certificate
from .process import free_ports


@dataclass(frozen=True, slots=True)
class Account:
    """A user of the virtual host ``/``. Rights are regular expressions of names; an empty one gives none."""

    password: str
    configure: str = ".*"
    write: str = ".*"
    read: str = ".*"
    enters: bool = True
    """Whether the user has any right on the virtual host; without one it is not let in."""


@dataclass(frozen=True, slots=True)
class Security:
    """What a node needs for its listener with TLS, and what a client needs to use it.

    The server's certificate is for 127.0.0.1 alone, so that ``localhost`` is a name that it does not have.
    """

    accounts: Mapping[str, Account]
    """Besides ``guest``, whom the tap's own URL names."""
    port: int
    client_certificates: bool
    """Whether the listener takes only clients with a certificate of its own authority."""
    ca_file: Path
    other_ca_file: Path
    """An authority that has nothing to do with the server."""
    server_file: Path
    """Key and certificate of the server."""
    client_file: Path
    """Key and certificate of a client."""
    stranger_file: Path
    """Key and certificate that the other authority has given to a client."""

    def settings(self, provide: Callable[[str, str], str]) -> dict[str, str]:
        """Return the lines of rabbitmq.conf with this listener and these accounts.

        ``provide`` puts a file of that name and text where the broker sees it, and returns its path there.
        """
        ca = provide("ca.pem", self.ca_file.read_text("ascii"))
        server = provide("server.pem", self.server_file.read_text("ascii"))
        return {
            "listeners.ssl.1": f"127.0.0.1:{self.port}",
            "ssl_options.cacertfile": ca,
            "ssl_options.certfile": server,
            "ssl_options.keyfile": server,
            "ssl_options.verify": "verify_peer" if self.client_certificates else "verify_none",
            "ssl_options.fail_if_no_peer_cert": "true" if self.client_certificates else "false",
            "load_definitions": provide("definitions.json", self._definitions()),
        }

    def _definitions(self) -> str:
        # Definitions replace the account that a new broker makes for itself.
        accounts = {"guest": Account("guest"), **self.accounts}
        return json.dumps(
            {
                "vhosts": [{"name": "/"}],
                "users": [
                    {
                        "name": name,
                        "password_hash": _hashed(account.password),
                        "hashing_algorithm": "rabbit_password_hashing_sha256",
                        "tags": ["administrator"] if name == "guest" else [],
                    }
                    for name, account in accounts.items()
                ],
                "permissions": [
                    {
                        "user": name,
                        "vhost": "/",
                        "configure": account.configure,
                        "write": account.write,
                        "read": account.read,
                    }
                    for name, account in accounts.items()
                    if account.enters
                ],
            }
        )


def make_security(folder: Path, accounts: Mapping[str, Account], *, client_certificates: bool) -> Security:
    """Make keys and certificates in ``folder``, and find a port.

    Raises:
        BrokerUnavailable: openssl is missing or fails.

    """
    ca, other = authority(folder, "ca"), authority(folder, "other-ca")
    server = certificate(folder, ca, "server", "IP:127.0.0.1")
    client = certificate(folder, ca, "client", "DNS:client")
    stranger = certificate(folder, other, "stranger", "DNS:stranger")
    (port,) = free_ports(1)
    return Security(accounts, port, client_certificates, ca, other, server, client, stranger)


def _hashed(password: str) -> str:
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode("ascii")
