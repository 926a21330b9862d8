"""How pytest-xdist spreads a run: the tests of one backend go to one worker, those of any other file to one as well.

xdist's own ``loadgroup`` marks groups in the ids of tests, which pytest 9 does not let it change.
"""

from collections.abc import Sequence
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped] # pyright: ignore[reportMissingTypeStubs]


class OneBackendPerWorker(LoadScopeScheduling):  # type: ignore[misc] # untyped
    """A scheduler of xdist, which asks for the scope of each test; the largest scopes start first."""

    def __init__(self, config: pytest.Config, log: Any, backends: Sequence[str]) -> None:
        super().__init__(config, log)
        self._backends = backends

    def _split_scope(self, nodeid: str) -> str:
        path, _, test = nodeid.partition("::")
        if "contract_tests" in path or "unimq_contract" in path:
            parameters = test.partition("[")[2]
            for name in self._backends:
                if parameters.startswith((f"{name}-", f"{name}]")):
                    return name
        return path
