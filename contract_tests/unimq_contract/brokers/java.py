"""The machine's Java, and jars fetched by Maven."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .process import find_program
from .tap import BrokerUnavailable

_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion><groupId>unimq</groupId><artifactId>tap</artifactId><version>1</version>
  <dependencies>{}</dependencies>
</project>
"""
_DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"


def find_java(minimum: int, what: str) -> tuple[str, str]:
    """Path and version of ``JAVA_HOME``'s or the path's Java."""
    how = f"Install Java {minimum} or newer (Debian: apt-get install openjdk-17-jre-headless), or set JAVA_HOME."
    home = os.environ.get("JAVA_HOME")
    path = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    if path is None:
        raise BrokerUnavailable(what, f"no java in {'JAVA_HOME' if home else 'the path'}", how)
    told = subprocess.run([path, "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "((\d+)[^"]*)"', told.stderr)
    if found is None:
        raise BrokerUnavailable(what, f"{path} -version says no version: {told.stderr.strip()[:200]}", how)
    if int(found[2]) < minimum:
        raise BrokerUnavailable(what, f"{path} is Java {found[1]}", how)
    return path, found[1]


def fetch_jars(artefacts: Sequence[str], folder: Path, what: str) -> int:
    """Copy ``group:name:version`` artefacts with everything they need into ``folder``; returns the number of jars."""
    maven = find_program("mvn", f"it fetches {what}", "Install Maven (Debian: apt-get install maven).")
    pom = folder / "pom.xml"
    pom.write_text(_POM.format("".join(_DEPENDENCY.format(*a.split(":")) for a in artefacts)), "utf-8")
    done = subprocess.run(
        [maven, "-q", "-B", "-Dstyle.color=never", "-f", pom, "dependency:copy-dependencies", "-DincludeScope=runtime",
         f"-DoutputDirectory={folder / 'libs'}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise BrokerUnavailable(
            what,
            f"mvn ended with {done.returncode}: {(done.stdout + done.stderr).strip()[-1500:]}",
            "Can Maven reach its repository?",
        )
    return len(list((folder / "libs").glob("*.jar")))
