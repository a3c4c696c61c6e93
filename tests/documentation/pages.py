"""The pages of the documentation, their fenced blocks, and the commands in them.

A block without a language holds commands, or files and folders; ``text`` is what a command prints.
A block of Python or TOML whose first line is ``# NAME`` is that file. The comment ``<!-- not run:
WHY -->`` before a block says that it cannot run as it stands: it is checked and not executed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md")))
}

_BLOCK = re.compile(
    r"(?P<note><!-- not run: [^>]*-->\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)
_FILE = re.compile(r"# (\S+\.(?:py|toml))(?::.*)?\n")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    runs: bool  #: no comment says that it cannot run as it stands

    @property
    def file(self) -> str:
        """Name of the file that the block is; empty if it is none."""
        match = _FILE.match(self.text)
        return match[1] if match and self.language in ("python", "toml") else ""

    @property
    def place(self) -> str:
        """Page and line."""
        return f"{self.page}:{self.line}"

    def commands(self) -> Iterator[list[str]]:
        """Yield the words of each command: continued lines joined, comments and ``&&`` apart."""
        if self.language:
            return
        for line in self.text.replace("\\\n", "").splitlines():
            try:
                words = shlex.split(line, comments=True)
            except ValueError:  # a quotation mark of prose
                continue
            command: list[str] = []
            for word in [*words, "&&"]:
                if word == "&&":
                    if command:
                        yield command
                    command = []
                else:
                    command.append(word)


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = PAGES[page]
    return [
        Block(
            page,
            text.count("\n", 0, match.start("indent")) + 1,
            match["language"],
            re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE),
            match["note"] is None,
        )
        for match in _BLOCK.finditer(text)
    ]


def all_blocks() -> list[Block]:
    """Return the fenced blocks of all pages."""
    return [block for page in PAGES for block in blocks(page)]


def inline_code(page: str) -> Iterator[str]:
    """Yield the spans of code in the text of a page."""
    prose = _BLOCK.sub("", PAGES[page])
    for match in re.finditer(r"`([^`]+)`", prose):
        yield " ".join(match[1].split())
