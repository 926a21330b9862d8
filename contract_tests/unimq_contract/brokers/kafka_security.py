"""Listeners of a private Kafka with TLS, accounts and rights, for tests that ask for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .certificates import authority, certificate
from .process import free_ports

_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_MODULES = "org.apache.kafka.common.security"


@dataclass(frozen=True, slots=True)
class Security:
    """What a node needs for its listeners with TLS, and what a client needs to use them.

    The server's certificate is for 127.0.0.1 alone, so that ``localhost`` is a name that it does not have.
    """

    accounts: Mapping[str, str]
    """Passwords of users, each for PLAIN and SCRAM alike; letters and digits."""
    sasl_port: int
    """TLS, and a user with a password."""
    mutual_port: int
    """TLS, and a certificate of the client."""
    ca_file: Path
    other_ca_file: Path
    """An authority that has nothing to do with the server."""
    server_file: Path
    """Key and certificate of the server."""
    client_file: Path
    """Key and certificate of a client, whose principal is ``User:CN=client``."""

    def extend(self, lines: Mapping[str, str]) -> dict[str, str]:
        """Return the lines of server.properties with these listeners and an authorizer.

        Whoever comes through the plain listener may do everything, as the tap's own tools do.
        """
        added = f"SECURED://127.0.0.1:{self.sasl_port},MUTUAL://127.0.0.1:{self.mutual_port}"
        users = " ".join(f'user_{name}="{password}"' for name, password in self.accounts.items())
        scram = f"{_MODULES}.scram.ScramLoginModule required;"
        return {
            **lines,
            "listeners": f"{lines['listeners']},{added}",
            "advertised.listeners": f"{lines['advertised.listeners']},{added}",
            "listener.security.protocol.map": (
                f"{lines['listener.security.protocol.map']},SECURED:SASL_SSL,MUTUAL:SSL"
            ),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.server_file),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.ca_file),
            "listener.name.mutual.ssl.client.auth": "required",
            "listener.name.secured.sasl.enabled.mechanisms": ",".join(_MECHANISMS),
            "listener.name.secured.plain.sasl.jaas.config": f"{_MODULES}.plain.PlainLoginModule required {users};",
            "listener.name.secured.scram-sha-256.sasl.jaas.config": scram,
            "listener.name.secured.scram-sha-512.sasl.jaas.config": scram,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }

    @property
    def format_arguments(self) -> Sequence[str]:
        """Arguments of the storage tool, which makes the accounts of SCRAM before the first start."""
        return [
            argument
            for mechanism in _MECHANISMS
            if mechanism.startswith("SCRAM")
            for name, password in self.accounts.items()
            for argument in ("--add-scram", f"{mechanism}=[name={name},password={password}]")
        ]


def make_security(folder: Path, accounts: Mapping[str, str]) -> Security:
    """Make keys and certificates in ``folder``, and find ports.

    Raises:
        BrokerUnavailable: openssl is missing or fails.

    """
    ca, other = authority(folder, "ca"), authority(folder, "other-ca")
    server = certificate(folder, ca, "server", "IP:127.0.0.1")
    client = certificate(folder, ca, "client", "DNS:client")
    sasl_port, mutual_port = free_ports(2)
    return Security(accounts, sasl_port, mutual_port, ca, other, server, client)
