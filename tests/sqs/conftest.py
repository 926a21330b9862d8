"""`UNIMQ_SQS_HTTP=fast` runs all of these tests over the fast path, where their URLs do not say otherwise."""

import os
from collections.abc import Callable, Iterator

import msgspec
import pytest
import unimq_sqs
from unimq_contract.brokers import RunningTap, sqs
from unimq_sqs import SQSOptions
from unimq_sqs._options import Settings, read_settings

from unimq.adapter import BrokerURL

HTTP = os.environ.get("UNIMQ_SQS_HTTP", "botocore")


@pytest.fixture(scope="session", autouse=True)
def _chosen_path() -> Iterator[None]:
    if HTTP == "botocore":
        yield
        return

    def read(url: BrokerURL, options: SQSOptions) -> Settings:
        chosen = options if "http" in url.options else msgspec.structs.replace(options, http=HTTP)
        return read_settings(url, chosen)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unimq_sqs, "read_settings", read)
        yield


@pytest.fixture(scope="module", params=sqs.FLAVOURS)
def url(
    request: pytest.FixtureRequest, start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap]
) -> Iterator[str]:
    """Where SQS is, on each emulator in turn; a module that needs another one has a fixture of its own."""
    flavour = sqs.flavour(request.param)
    with start_or_skip(lambda: sqs.start(flavour=flavour)) as running:
        yield f"{running.tap.url}&wait=1"
