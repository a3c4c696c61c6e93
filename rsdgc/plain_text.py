"""Text from elsewhere, made fit for a log, a terminal, a table or a page.

A name or an error of a site may hold anything: line breaks that forge lines of the log, escape
sequences that drive a terminal, characters that reverse or hide the text around them. One function
cleans all of it, :func:`plain_line`, and every text is cleaned where it enters the program. A name
by which something is looked up must not change: refuse it unless :func:`is_plain`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

MAX_LINE = 1000
"""Characters of a line. Ray describes the memory of the whole machine when it ends a worker for
lack of memory; a remedy at the end of an ordinary message must not be cut."""

MAX_NAME = 100
"""Characters of a name of a site, a class, a modality or a band."""

_SPACES = re.compile(r"\s+")

MAX_MARKS = 3
"""Marks on one letter, such as accents; more of them cover the lines above and below."""

# Letters and marks that show nothing (Unicode's Default_Ignorable_Code_Point), and the empty
# pattern of Braille: str.isprintable() lets them pass, as they are neither controls nor spaces.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)


def plain_line(text: str, limit: int = MAX_LINE) -> str:
    r"""Return a text as one line of printable characters, at most ``limit`` of them.

    White space becomes one space; two spaces stay, as in a path. Controls, and characters that are
    invisible or change the direction of the text, are written as Python escapes them.

    >>> plain_line("no chips\nINFO : \x1b[2Jall \u202ewell")
    'no chips INFO : \\x1b[2Jall \\u202ewell'
    """
    text = text.strip()
    # What is beyond the limit is not looked at: a peer chooses the length of its text.
    line = one_line(text[: limit + 1])
    if len(line) <= limit and len(text) <= limit:
        return line
    return line[: limit - 2].rsplit(" ", 1)[0] + " …"


def one_line(text: str) -> str:
    """Return a text as :func:`plain_line` does, however long it is."""
    return escape_hidden(_SPACES.sub(_spaces, text).strip())


def is_plain(name: str) -> bool:
    """Return whether a name has 1 to :data:`MAX_NAME` characters, none that needs cleaning."""
    return 0 < len(name) <= MAX_NAME and plain_line(name, MAX_NAME) == name


def escape_hidden(line: str) -> str:
    """Return a line with its controls and invisible characters escaped, its spaces as they are."""
    if line.isascii() and line.isprintable():
        return line
    return "".join(_visible_characters(line))


def _spaces(match: re.Match[str]) -> str:
    return match[0] if match[0] == "  " else " "


def _visible_characters(line: str) -> Iterator[str]:
    marks = 0
    for character in line:
        marks = marks + 1 if unicodedata.category(character) in ("Mn", "Me") else 0
        hidden = not character.isprintable() or _INVISIBLE.match(character)
        if hidden or marks > MAX_MARKS:
            yield character.encode("unicode_escape").decode("ascii")
        else:
            yield character
