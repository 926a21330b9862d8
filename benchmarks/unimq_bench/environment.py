"""The machine and the software a result was made with: what a reader needs, and no secret or name."""

import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path

from unimq_bench.counting import busy_seconds
from unimq_bench.recording import cost_per_sample
from unimq_bench.results import Environment

_PACKAGES = ("unimq", "msgspec", "pika", "confluent-kafka", "boto3", "botocore", "hdrhistogram")
_CLOCK_READS = 2000
_SLEEPS = 300


def look(*, quick: bool = False) -> Environment:
    """Describe this machine; measures its clock, its sleep and the recorder for about a second."""
    busy, start = busy_seconds(), time.monotonic()
    lateness = _sleep_lateness(_SLEEPS // 6 if quick else _SLEEPS)
    load = (busy_seconds() - busy) / (time.monotonic() - start)
    return Environment(
        python=platform.python_version(),
        implementation=platform.python_implementation(),
        kernel=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        cpu=_cpu(),
        cores=os.cpu_count() or 0,
        memory_bytes=_memory(),
        virtual="hypervisor" if "hypervisor" in _cpu_line("flags").split() else "",
        switch_interval=sys.getswitchinterval(),
        clock=time.get_clock_info("monotonic").implementation,
        clock_step_ns=clock_step(),
        sleep_lateness_ns=lateness,
        recorder_ns=cost_per_sample(20_000 if quick else 200_000),
        load_before=load,
        packages={name: found for name in _PACKAGES if (found := _version(name))},
    )


def clock_step() -> int:
    """Return the smallest step of the clock that was seen, in nanoseconds."""
    reads = [time.monotonic_ns() for _ in range(_CLOCK_READS)]
    return min((after - before for before, after in pairwise(reads) if after > before), default=0)


def _sleep_lateness(sleeps: int) -> int:
    late: list[int] = []
    for _ in range(sleeps):
        start = time.monotonic_ns()
        time.sleep(0.001)
        late.append(time.monotonic_ns() - start - 1_000_000)
    return sorted(late)[len(late) * 99 // 100]


def _cpu_line(name: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.split(":")[0].strip() == name), "")


def _cpu() -> str:
    return _cpu_line("model name") or platform.processor()


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
