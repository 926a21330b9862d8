"""Keys and certificates for brokers on tap, made by openssl when a test runs, in a folder of that test."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from .process import find_program
from .tap import BrokerUnavailable


def authority(folder: Path, name: str) -> Path:
    """Make an authority; returns its certificate, whose key is beside it.

    Raises:
        BrokerUnavailable: openssl is missing or fails.

    """
    made = folder / f"{name}.pem"
    _openssl("req", "-x509", *_new_key(folder, name), "-days", "2", "-out", str(made))
    return made


def certificate(folder: Path, ca: Path, name: str, alternative: str) -> Path:
    """Make a certificate that `ca` signs; returns a file with its key and itself.

    ``alternative`` is what it is for, such as ``IP:127.0.0.1``.

    Raises:
        BrokerUnavailable: openssl is missing or fails.

    """
    signed = folder / f"{name}.crt"
    _openssl(
        *("req", "-x509", *_new_key(folder, name), "-days", "2", "-out", str(signed)),
        *("-CA", str(ca), "-CAkey", str(ca.with_suffix(".key"))),
        *("-addext", f"subjectAltName={alternative}", "-addext", "basicConstraints=critical,CA:FALSE"),
    )
    both = folder / f"{name}-both.pem"
    both.write_text(signed.with_suffix(".key").read_text("ascii") + signed.read_text("ascii"), "ascii")
    return both


def _new_key(folder: Path, name: str) -> Sequence[str]:
    # On a curve, as making an RSA key takes long enough to be felt.
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    return (*curve, "-noenc", "-subj", f"/CN={name}", "-keyout", str(folder / f"{name}.key"))


def _openssl(*arguments: str) -> None:
    program = find_program("openssl", "it makes certificates", "Install OpenSSL 3 (Debian: apt-get install openssl).")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BrokerUnavailable(
            "openssl", f"it ended with {done.returncode}: {done.stderr.strip()[-500:]}", "See there."
        )
