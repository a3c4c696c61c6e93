"""``--pattern``: what the names of files mean, such as ``{scene}_{band}.tif``.

A pattern is a file name, or the end of a path, with placeholders:

========================  =====================================================================
``{scene}``               place, or place and time: files of one scene have the same text here
``{modality}``            name of the modality; ``labels`` for labels
``{band}``                name of the band
``{date}``                date of the scene: ``20190606`` or ``2019-06-06``, also with a time
``*``, ``?``              any text, any one character, without a meaning
========================  =====================================================================

All other characters stand for themselves; capitals do not matter. No part reaches over a ``/``. A
placeholder takes as much as it can, so that ``{scene}_{band}.tif`` divides ``a_b_c.tif`` into
``a_b`` and ``c``. The first of several patterns that matches a file counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from rsdgc.errors import SettingError

#: What a placeholder matches.
PLACEHOLDERS = {
    "scene": r"[^/]+",
    "modality": r"[^/]+",
    "band": r"[^/]+",
    "date": r"(?:19|20)\d{2}-?(?:0[1-9]|1[0-2])-?(?:0[1-9]|[12]\d|3[01])(?:T\d{6}Z?)?",
}
_PARTS = re.compile(r"(\{[^{}]*\}|\*+|\?)")


@dataclass(frozen=True)
class NameParts:
    """What a pattern says of a file; texts are empty where it has no such placeholder."""

    folder: str  #: what of the file's path the pattern leaves over
    scene: str = ""
    modality: str = ""
    band: str = ""
    date: str = ""


@dataclass(frozen=True)
class NamePattern:
    """A pattern that was checked, and the expression that it stands for."""

    text: str
    expression: re.Pattern[str]

    @classmethod
    def parse(cls, text: str) -> NamePattern:
        """Check a pattern; SettingError says what is wrong with it."""
        parts = [part for part in _PARTS.split(text.strip("/")) if part]
        expression, last = "", ""
        for part in parts:
            if part[0] == "*" or (part[0] == "{" and part[-1] == "}"):
                if last and last[-1] in "}*":
                    raise SettingError(
                        f"--pattern {text!r} has nothing between {last} and {part}: write what "
                        "divides them, as in {scene}_{band}.tif"
                    )
                expression += _placeholder(text, part, expression)
            elif any(sign in part for sign in "{}"):
                raise SettingError(f"--pattern {text!r} has a brace alone: write {{scene}} or such")
            else:
                expression += "[^/]" if part == "?" else re.escape(part)
            last = part
        if not parts:
            raise SettingError("--pattern is empty: write for example {scene}_{band}.tif")
        return cls(text, re.compile(expression, re.IGNORECASE))

    def match(self, name: str) -> NameParts | None:
        """Read the path of a file within the archive; None if the pattern does not match it."""
        depth = self.text.strip("/").count("/") + 1
        parts = PurePosixPath(name).parts
        match = self.expression.fullmatch("/".join(parts[-depth:]))
        if match is None or len(parts) < depth:
            return None
        return NameParts("/".join(parts[:-depth]), **match.groupdict())

    def says_format(self, name: str) -> bool:
        """Tell whether a file is matched, and the pattern has its suffix, whatever that means."""
        suffix = PurePosixPath(self.text).suffix
        literal = bool(suffix) and not any(sign in suffix for sign in "*?{}")
        return literal and self.match(name) is not None

    @property
    def has_date(self) -> bool:
        """Whether files of several dates are of several scenes."""
        return "date" in self.expression.groupindex


def _placeholder(text: str, part: str, before: str) -> str:
    if part[0] == "*":
        return "[^/]*"
    name = part[1:-1]
    if name not in PLACEHOLDERS:
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise SettingError(f"--pattern {text!r} has {part}: choose from {known}, * and ?")
    if f"(?P<{name}>" in before:
        raise SettingError(f"--pattern {text!r} has {part} twice: write * in place of one")
    return f"(?P<{name}>{PLACEHOLDERS[name]})"


def first_match(patterns: Sequence[NamePattern], name: str) -> NameParts | None:
    """Read a file's path by the first pattern that matches it."""
    return next((parts for pattern in patterns if (parts := pattern.match(name))), None)
