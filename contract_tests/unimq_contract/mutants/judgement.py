"""What a run on mutants proves: which tests killed what they claim to kill, and all that is missing to a proof."""

from collections.abc import Mapping
from dataclasses import dataclass

from unimq_contract.mutants.seam import Mutant

KILLED = "killed"
SURVIVED = "survived"
SKIPPED = "skipped"
"""Verdicts; any other says by what accident a test ended."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One run."""

    found: Mapping[tuple[str, str, str], str]
    """Verdict by backend, mutant and test."""
    made: Mapping[str, set[str]]
    """Mutants by backend."""
    claims: Mapping[str, int]
    """By test, how often it claims to kill a mutant."""
    is_whole: bool
    """Whether every mutant was made around every kind of broker, so that each test must show what it can do.

    Some tests need what only some brokers have: a process that can be frozen, an account, a socket.
    """

    def killed_at(self, backend: str) -> set[tuple[str, str]]:
        """Return the mutants of a backend that were killed, each with a test that did it."""
        return {(name, test) for (at, name, test), verdict in self.found.items() if at == backend and verdict == KILLED}

    def barren(self) -> list[str]:
        """Return the tests that claim no mutant."""
        return sorted(test for test, count in self.claims.items() if not count)

    def unshown(self) -> list[str]:
        """Return the tests that claim mutants and killed none in this run."""
        killing = {test for (_, _, test), verdict in self.found.items() if verdict == KILLED}
        return sorted(test for test, count in self.claims.items() if count and test not in killing)

    def wrong(self) -> list[str]:
        """Return everything that keeps the run from proving what it was to prove; nothing if it proves that."""
        wrong = [
            f"{backend}: {name}: {test}: {verdict}"
            for (backend, name, test), verdict in self.found.items()
            if verdict not in {SKIPPED, SURVIVED if name == Mutant.name else KILLED}
        ]
        for backend, names in self.made.items():
            killed = {name for name, _ in self.killed_at(backend)}
            wrong += [f"{backend}: {name}: no test kills it" for name in names - killed - {Mutant.name}]
        wrong += [f"{test}: claims to kill no mutant" for test in self.barren()]
        if self.is_whole:
            wrong += [f"{test}: kills no mutant of any backend" for test in self.unshown()]
        return sorted(wrong) if self.found else ["no test ran on any mutant"]
