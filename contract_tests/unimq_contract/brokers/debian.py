"""Unpack packages of any Debian release, with all their dependencies, into a folder: no root, nothing installed."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .process import find_program
from .tap import BrokerUnavailable

KEYRINGS = Path("/usr/share/keyrings")
# What the programs inside need beyond their declared dependencies, because nothing essential is there yet.
BASE = ("base-files", "bash", "coreutils", "dash", "gawk", "grep", "hostname", "sed", "util-linux")
LEFT_OUT = ("./usr/share/doc/*", "./usr/share/man/*", "./usr/share/locale/*")


def mirror(what: str) -> str:
    """The Debian mirror that apt is configured for, or ``UNIMQ_TAP_DEBIAN_MIRROR``."""
    given = os.environ.get("UNIMQ_TAP_DEBIAN_MIRROR")
    if given:
        return given
    found = _run(what, ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"], {})
    for line in found.splitlines():
        if re.search(r"/debian/*$", line):
            return line
    raise BrokerUnavailable(
        what,
        "apt's configuration names no Debian mirror",
        "Set UNIMQ_TAP_DEBIAN_MIRROR to one, or install the package.",
    )


def unpack(suite: str, packages: Sequence[str], folder: Path) -> None:
    """Fetch ``packages`` of ``suite`` with apt, verified by Debian's keys, and unpack them into ``folder``."""
    what = f"{', '.join(packages)} of Debian {suite}"
    for program in ("apt-get", "dpkg-deb", "tar"):
        find_program(program, f"it is needed to unpack {what}", "On other systems give a URL or use Docker.")
    keys = sorted(KEYRINGS.glob("debian-archive-*.gpg"))
    if not keys:
        raise BrokerUnavailable(what, f"{KEYRINGS} has no keys of Debian", "apt-get install debian-archive-keyring")
    source = mirror(what)
    apt = folder / ".apt"
    for part in ("keys", "sources", "state/lists/partial", "cache/archives/partial"):
        (apt / part).mkdir(parents=True)
    for key in keys:
        shutil.copy(key, apt / "keys")
    (apt / "sources.list").write_text(f"deb {source} {suite} main\n", "ascii")
    (apt / "status").touch()  # an empty status makes apt fetch every dependency
    options = {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": apt / "sources",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": apt / "sources",
        "Dir::Etc::trusted": "/dev/null",
        "Dir::Etc::trustedparts": apt / "keys",
        "Dir::State": apt / "state",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "APT::Sandbox::User": "root",  # else apt drops to a user who may not write here
        "APT::Install-Recommends": "false",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        # A mirror that lags serves an unstable release whose date has passed; the signature is checked all the same.
        "Acquire::Check-Valid-Until": "false",
    }
    flags = [text for name, value in options.items() for text in ("-o", f"{name}={value}")]
    _run(what, ["apt-get", "-qq", *flags, "update"], {})
    _run(
        what, ["apt-get", "-qq", "-y", "-d", *flags, "install", *BASE, *packages], {"DEBIAN_FRONTEND": "noninteractive"}
    )
    for package in sorted((apt / "cache/archives").glob("*.deb")):
        _unpack_one(what, package, folder)
    shutil.rmtree(apt)
    for part in ("dev", "proc", "tmp", "etc", "tap"):
        (folder / part).mkdir(exist_ok=True)
    (folder / "etc/hosts").write_text("127.0.0.1 localhost\n", "ascii")
    (folder / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n", "ascii")


def _unpack_one(what: str, package: Path, folder: Path) -> None:
    left_out = [f"--exclude={pattern}" for pattern in LEFT_OUT]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as archive:
        done = subprocess.run(
            ["tar", "-x", "-C", folder, "--no-same-owner", *left_out],
            stdin=archive.stdout, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode != 0 or archive.returncode != 0:
        raise BrokerUnavailable(what, f"{package.name} cannot be unpacked: {done.stderr.strip()}", "Is the disk full?")


def _run(what: str, argv: Sequence[str], env: dict[str, str]) -> str:
    find_program(argv[0], f"it is needed to fetch {what}", "On other systems give a URL or use Docker.")
    done = subprocess.run(argv, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BrokerUnavailable(
            what,
            f"{' '.join(argv[:1])} ended with {done.returncode}: {done.stderr.strip()[-1500:]}",
            "Can the mirror be reached?",
        )
    return done.stdout
