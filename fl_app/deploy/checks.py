"""What a check found, and the table of it.

What any party looks at before it runs: versions, disk, folders, the authority's certificate.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from cryptography import x509
from packaging.requirements import Requirement

from rsdgc.errors import RsdgcError, SettingError

Outcome = Literal["ok", "warning", "FAILED"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    about : str
        What was looked at, in a word or two.
    outcome : {"ok", "warning", "FAILED"}
        A warning does not keep anything from running.
    found : str
        What is there.
    remedy : str
        What to do; empty where all is well.
    """

    about: str
    outcome: Outcome
    found: str
    remedy: str = ""


def run_check(about: str, look: Callable[[], Finding | str], remedy: str = "") -> Finding:
    """Look at something; an error of this project is a finding that failed.

    Parameters
    ----------
    about : str
        What is looked at.
    look : callable
        Returns a finding, or what is there if all is well.
    remedy : str
        For an error, whose text may already say what to do.
    """
    try:
        found = look()
    except RsdgcError as error:
        return Finding(about, "FAILED", str(error), remedy)
    return found if isinstance(found, Finding) else Finding(about, "ok", found)


def table(findings: Iterable[Finding]) -> str:
    """Return findings as lines: outcome, subject, what was found, and the remedy below it."""
    rows = list(findings)
    width = max((len(row.about) for row in rows), default=0)
    lines = []
    for row in rows:
        lines.append(f"{row.outcome:<8} {row.about:<{width}}  {row.found}")
        if row.remedy:
            lines.append(f"{'':<8} {'':<{width}}  → {row.remedy}")
    return "\n".join(lines)


def failed(findings: Iterable[Finding]) -> int:
    """Count what failed."""
    return sum(finding.outcome == "FAILED" for finding in findings)


SOON = timedelta(days=30)
"""A certificate that ends within this time is warned of."""
_SHOWN = ("flwr", "torch")


def versions() -> Finding:
    """Compare what is installed with what the package asks for."""
    wrong = []
    for text in requires("rsdgc") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            there = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(there, prereleases=True):
            wrong.append(f"{requirement.name} is {there}, not {requirement.specifier}")
    shown = ", ".join(f"{name} {version(name)}" for name in _SHOWN if not wrong)
    python = ".".join(map(str, sys.version_info[:3]))
    if wrong:
        return Finding("versions", "FAILED", "; ".join(wrong), "install the package anew with pip")
    return Finding("versions", "ok", f"rsdgc {version('rsdgc')}, {shown}, Python {python}")


def disk(folder: Path, min_free_gb: float) -> Finding:
    """Compare the free space below a folder with what the configuration asks for."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free_gb = shutil.disk_usage(there).free / 1e9
    found = f"{free_gb:.1f} GB free at {there}"
    if free_gb < min_free_gb:
        return Finding(
            "disk",
            "FAILED",
            f"{found}, {min_free_gb:g} GB wanted",
            "free some (rsdgc site clean lists old states), or lower min-free-gb",
        )
    return Finding("disk", "ok", found)


def writable(about: str, folder: Path) -> Finding:
    """Write, lock and delete a file in a folder; make the folder if its parent allows it."""
    probe = folder / f".rsdgc-check-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with probe.open("w", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write("x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Finding(
            about,
            "FAILED",
            f"{folder} cannot be written ({error.strerror})",
            "let the user that runs rsdgc own it, on a disk of this machine",
        )
    finally:
        if probe.exists():
            probe.unlink()
    return Finding(about, "ok", str(folder))


def read_certificate(path: Path) -> x509.Certificate:
    """Return a certificate.

    Raises
    ------
    SettingError
        It cannot be read.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise SettingError(f"certificate {path} cannot be read ({error.strerror})") from None
    except ValueError:
        raise SettingError(f"{path} is no certificate") from None


def validity(about: str, ends: datetime, remedy: str, *, begins: datetime | None = None) -> Finding:
    """Say how long a certificate is still valid."""
    now = datetime.now(UTC)
    day = f"{ends:%Y-%m-%d}"
    if begins is not None and now < begins:
        return Finding(
            about, "FAILED", f"not valid before {begins:%Y-%m-%d %H:%M} UTC", "set the clock"
        )
    if now >= ends:
        return Finding(about, "FAILED", f"expired on {day}", remedy)
    if now + SOON >= ends:
        return Finding(about, "warning", f"expires on {day}", remedy)
    return Finding(about, "ok", f"valid until {day}")


def authority(path: Path) -> Finding:
    """Look at the certificate that this party trusts."""
    certificate = read_certificate(path)
    return validity(
        "authority",
        certificate.not_valid_after_utc,
        "make a new federation: every party needs the new ca.crt",
        begins=certificate.not_valid_before_utc,
    )
