"""The result of a check, the table of results, and the checks that suit either party."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from cryptography import x509
from filelock import FileLock
from packaging.requirements import Requirement

from rsdgc.errors import RsdgcError, SettingError

EXPIRY_WARNING = timedelta(days=30)
"""A certificate that expires within this time is a warning: a month suffices to renew it."""


@dataclass(frozen=True)
class CheckResult:
    """What one check found.

    Attributes
    ----------
    subject : str
        What was checked, in a word or two.
    status : {"ok", "warning", "FAILED"}
        A party can run in spite of a warning.
    detail : str
        What the check found.
    remedy : str
        What to do; empty if nothing is wrong.
    """

    subject: str
    status: Literal["ok", "warning", "FAILED"]
    detail: str
    remedy: str = ""


def run_check(
    subject: str, check: Callable[[], CheckResult | str], remedy: str = ""
) -> CheckResult:
    """Run a check that may raise; return an error of this project as a failed check.

    Parameters
    ----------
    subject : str
        What is checked.
    check : callable
        Returns the result, or only its detail if nothing is wrong.
    remedy : str
        What to do after an error; empty if the error's own text says so.
    """
    try:
        result = check()
    except RsdgcError as error:
        return CheckResult(subject, "FAILED", str(error), remedy)
    return result if isinstance(result, CheckResult) else CheckResult(subject, "ok", result)


def format_table(results: Sequence[CheckResult]) -> str:
    """Return one line for each result, with its remedy on a line below."""
    width = max((len(result.subject) for result in results), default=0)
    lines = []
    for result in results:
        lines.append(f"{result.status:<8} {result.subject:<{width}}  {result.detail}")
        if result.remedy:
            lines.append(f"{'':<8} {'':<{width}}  → {result.remedy}")
    return "\n".join(lines)


def count_failures(results: Sequence[CheckResult]) -> int:
    """Return the number of failed checks."""
    return sum(result.status == "FAILED" for result in results)


def check_versions() -> CheckResult:
    """Compare the installed packages with the versions that rsdgc requires."""
    problems = []
    for text in requires("rsdgc") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            problems.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            problems.append(f"{requirement.name} is {installed}, not {requirement.specifier}")
    if problems:
        return CheckResult(
            "versions", "FAILED", "; ".join(problems), "install rsdgc again with pip"
        )
    packages = ", ".join(f"{name} {version(name)}" for name in ("rsdgc", "flwr", "torch"))
    python = ".".join(map(str, sys.version_info[:3]))
    return CheckResult("versions", "ok", f"{packages}, Python {python}")


def check_disk(folder: Path, min_free_gb: float) -> CheckResult:
    """Compare the free space of a folder's disk with ``min-free-gb``; the folder may not exist."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    detail = f"{free_gb:.1f} GB free at {existing}"
    if free_gb < min_free_gb:
        return CheckResult(
            "disk",
            "FAILED",
            f"{detail}, but min-free-gb is {min_free_gb:g}",
            "free some space (rsdgc site clean lists old states), or lower min-free-gb",
        )
    return CheckResult("disk", "ok", detail)


def check_writable(subject: str, folder: Path) -> CheckResult:
    """Write, lock and delete a file in a folder; make the folder if it does not exist."""
    probe = folder / f".rsdgc-check-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Some network disks take files but no locks, and both parties rely on locks.
        with FileLock(probe, timeout=0):
            probe.write_text("x", encoding="utf-8")
    except OSError as error:
        return CheckResult(
            subject,
            "FAILED",
            f"cannot write to {folder} ({error.strerror})",
            "make the user that runs rsdgc its owner, and use a local disk",
        )
    finally:
        if probe.exists():
            probe.unlink()
    return CheckResult(subject, "ok", str(folder))


def read_certificate(path: Path) -> x509.Certificate:
    """Return the certificate in a PEM file.

    Raises
    ------
    SettingError
        The file cannot be read, or is not a certificate.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise SettingError(f"certificate {path} cannot be read ({error.strerror})") from None
    except ValueError:
        raise SettingError(f"{path} is not a certificate") from None


def check_validity(
    subject: str, expires: datetime, remedy: str, *, begins: datetime | None = None
) -> CheckResult:
    """Compare a certificate's dates with the present time."""
    now = datetime.now(UTC)
    day = f"{expires:%Y-%m-%d}"
    if begins is not None and now < begins:
        # Certificates are valid from before they were signed, so this machine's clock is wrong.
        detail = f"not valid before {begins:%Y-%m-%d %H:%M} UTC"
        return CheckResult(subject, "FAILED", detail, "set the clock")
    if now >= expires:
        return CheckResult(subject, "FAILED", f"expired on {day}", remedy)
    if now + EXPIRY_WARNING >= expires:
        return CheckResult(subject, "warning", f"expires on {day}", remedy)
    return CheckResult(subject, "ok", f"valid until {day}")


def check_authority(path: Path) -> CheckResult:
    """Check the certificate of the authority that this party trusts.

    Raises
    ------
    SettingError
        The file cannot be read, or is not a certificate.
    """
    certificate = read_certificate(path)
    return check_validity(
        "authority",
        certificate.not_valid_after_utc,
        "make a new federation: every party needs the new ca.crt",
        begins=certificate.not_valid_before_utc,
    )
