"""Faults of connecting."""

import time

import msgspec

from unimq import AuthError, ConnectionLost, UnimqError
from unimq.adapter import Adapter, BrokerURL, Driver
from unimq_contract.mutants.seam import Mutant


class UnreadOptionTaken(Mutant):
    """The URL may have an option that nobody reads."""

    @classmethod
    def options(cls, real: type[msgspec.Struct]) -> type[msgspec.Struct]:
        return msgspec.defstruct(
            "Options", [("ttlInSecond", str, "")], bases=(real,), kw_only=True, forbid_unknown_fields=True
        )


class PasswordInErrors(Mutant):
    """The error of a connection that failed says with which account it was tried, to the last letter."""

    def connect(self, real: Adapter, url: BrokerURL, options: msgspec.Struct, timeout: float) -> Driver:
        try:
            return super().connect(real, url, options, timeout)
        except UnimqError as error:
            error.add_note(f"tried as {url.user}:{url.password}")
            raise


class OutageLooksLikeRefusal(Mutant):
    """A broker that is not there is said to have refused the account."""

    in_memory = False

    def connect(self, real: Adapter, url: BrokerURL, options: msgspec.Struct, timeout: float) -> Driver:
        try:
            return super().connect(real, url, options, timeout)
        except ConnectionLost as error:
            raise AuthError(str(error)) from error


class HangsWhenNobodyListens(Mutant):
    """A connection to where nobody listens is given up long after its timeout."""

    in_memory = False

    def connect(self, real: Adapter, url: BrokerURL, options: msgspec.Struct, timeout: float) -> Driver:
        try:
            return super().connect(real, url, options, timeout)
        except ConnectionLost:
            time.sleep(timeout * 20)
            raise


class WrongCredentialsRetried(Mutant):
    """An account that was refused is tried again until the time is over."""

    in_memory = False

    def connect(self, real: Adapter, url: BrokerURL, options: msgspec.Struct, timeout: float) -> Driver:
        deadline = time.monotonic() + timeout
        while True:
            try:
                return super().connect(real, url, options, timeout)
            except AuthError:
                if time.monotonic() >= deadline:
                    raise
                # Wrong credentials do not become right ones, but a broker may not be asked in a hot loop either.
                time.sleep(timeout / 20)


class WrongCredentialsLookLikeAnOutage(Mutant):
    """A refused account is said to be a lost connection, which invites to try again."""

    in_memory = False

    def connect(self, real: Adapter, url: BrokerURL, options: msgspec.Struct, timeout: float) -> Driver:
        try:
            return super().connect(real, url, options, timeout)
        except AuthError as error:
            raise ConnectionLost(str(error)) from error
