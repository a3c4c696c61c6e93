"""What a check found, and the table of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from rsdgc.errors import RsdgcError

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


def looked(about: str, look: Callable[[], Finding | str], remedy: str = "") -> Finding:
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
