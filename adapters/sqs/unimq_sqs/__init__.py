"""The adapter for Amazon SQS and SNS: ``sqs://`` for AWS, ``sqs+http://`` for emulators. See ``docs/sqs.md``."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec

from unimq import MissingDependency
from unimq.adapter import BrokerURL, Capabilities, Load

try:
    # boto3 brings it; boto3's own layer on top is not needed.
    from unimq_sqs._capabilities import capabilities_of
    from unimq_sqs._driver import Clients, SQSDriver
    from unimq_sqs._estimate import billed_requests
except ModuleNotFoundError as exc:
    if exc.name != "botocore":
        raise
    raise MissingDependency("sqs:// needs boto3: pip install 'unimq[sqs]'") from exc

from unimq_sqs._options import SQSOptions, read_settings

__all__ = ["Clients", "SQSAdapter", "SQSOptions"]


class SQSAdapter:
    """``sqs://?region=eu-west-1`` and ``sqs+http://KEY:SECRET@127.0.0.1:PORT/?region=us-east-1``."""

    schemes: ClassVar[Sequence[str]] = ("sqs", "sqs+http")
    options: ClassVar[type[msgspec.Struct]] = SQSOptions

    def connect(self, url: BrokerURL, options: SQSOptions, *, timeout: float) -> SQSDriver:
        """See `unimq.adapter.Adapter.connect`."""
        return SQSDriver(read_settings(url, options), timeout)

    def offline_capabilities(self, url: BrokerURL, options: SQSOptions) -> Capabilities:
        """See `unimq.adapter.OfflineAdapter`. Of an emulator it is assumed that it has SNS."""
        return capabilities_of("SQS emulator" if read_settings(url, options).is_emulator else "", has_sns=True)

    def billed_requests(self, options: SQSOptions, load: Load) -> Mapping[str, float]:
        """See `unimq.adapter.EstimatingAdapter`."""
        return billed_requests(options, load)
