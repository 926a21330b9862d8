"""Deliberately broken brokers: a test that passes on all of them proves nothing.

Each mutant is an adapter with one fault, put in at the driver interface, under a scheme of its own. A test says with
``@guarantee(…, kills=…)`` on which of them it must fail, and

    pytest -p unimq_contract.plugin -p unimq_contract.mutants --pyargs unimq_contract --unimq-mutants all

runs those tests on those mutants. A mutant is killed when a test fails on it by an assertion; one that survives a test
that claims it, that nobody claims, or that only breaks something by accident, fails the run.

The faults are in the modules of this package, one module per theme; a new one is a subclass of `seam.Mutant` in one of
them, or in a new module beside them.
"""

import importlib
import pkgutil

from unimq_contract.mutants.seam import Mutant

__all__ = ["Mutant", "mutants"]

pytest_plugins = ("unimq_contract.mutants.session",)


def mutants() -> dict[str, type[Mutant]]:
    """Return every mutant by name: the subclasses of `Mutant` that the modules of this package define."""
    found: dict[str, type[Mutant]] = {}
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        if module.name.endswith((".seam", ".session")):
            continue
        for kind in vars(importlib.import_module(module.name)).values():
            if isinstance(kind, type) and issubclass(kind, Mutant) and kind.__module__ == module.name:
                found[kind.name] = kind
    return found
