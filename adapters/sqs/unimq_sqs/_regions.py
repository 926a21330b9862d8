"""Regions that do not exist."""

import difflib
from urllib.parse import urlsplit

import botocore.session

from unimq import ConfigError


def refuse_unknown_region(session: botocore.session.Session, region: str, endpoint: str, cause: Exception) -> None:
    """Raise `ConfigError` where nobody answered because there is no such region, as far as botocore knows.

    Asked only then: a region that is newer than the installed botocore answers all the same. An endpoint that was
    chosen by hand, which may have no region in its name, has nothing to do with it.
    """
    if f".{region}." not in f".{urlsplit(endpoint).hostname}.":
        return
    known = [name for each in session.get_available_partitions() for name in session.get_available_regions("sqs", each)]
    if region in known:
        return
    near = difflib.get_close_matches(region, known, n=3, cutoff=0.0)
    raise ConfigError(
        f"nobody answers at {endpoint}, and botocore {botocore.__version__} knows no region {region!r}; the nearest of"
        f" those it knows: {', '.join(near)}"
    ) from cause
