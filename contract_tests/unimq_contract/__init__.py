"""The contract suite that every adapter passes.

    pytest -p unimq_contract.plugin --pyargs unimq_contract --unimq-url URL

The tests are in `unimq_contract.suite`, one class per family of guarantees; subclass them to run them on a fixed URL.
`unimq_contract.brokers` starts real brokers and needs nothing but the standard library.
"""

import sys

# Before anything imports the suite: an assert of a module that is imported already stays bare. Outside of pytest there
# is nothing to rewrite, and whoever only starts a broker need not have pytest.
pytest = sys.modules.get("pytest")
if pytest is not None:
    pytest.register_assert_rewrite("unimq_contract.suite", "unimq_contract.harness")
