"""`UNIMQ_SQS_HTTP=fast` runs all of these tests over the fast path, where their URLs do not say otherwise."""

import os
from collections.abc import Iterator

import msgspec
import pytest
import unimq_sqs
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
