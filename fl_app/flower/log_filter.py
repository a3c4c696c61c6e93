"""The lines of a run's log that a person wants to see: the app's own, without Flower's."""

from __future__ import annotations

import re

from rsdgc.plain_text import escape_hidden

_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_LEVEL = re.compile(r"^(DEBUG|INFO|WARNING|ERROR|CRITICAL)\s*(?:\[[^\]]*\])?\s*:\s*")
_FLOWERS_OWN = re.compile(
    r"Using SuperLink|Starting logstream|Starting Flower Simulation|Federation `|"
    r"Since flwr \d|To change federation size|flwr federation simulation-config|"
    r"Successfully installed|Starting local SuperLink|aggregate_train: Received|"
    r"Manually terminating ClientAppActor"
)


def clean_log_line(raw: str) -> str:
    """Return a line of a log as a terminal may show it: without colors, what is hidden escaped."""
    return escape_hidden(_COLOR.sub("", raw).rstrip().expandtabs(4))


class LogFilter:
    """Turns raw lines into those that are shown, and remembers what they report."""

    def __init__(self) -> None:
        #: text of the last error that this app logged; empty if there was none. The traceback
        #: that follows it is not shown, because the text names problem and remedy.
        self.error = ""
        #: the line that names the report; it is not shown, so that the command can print it last
        self.headline = ""
        self.folder = ""  #: the run folder; empty until the run has logged it

    def show(self, raw: str) -> str | None:
        """Return the line to show, or None."""
        line = clean_log_line(raw)
        match = _LEVEL.match(line)
        level, text = (match[1], line[match.end() :]) if match else ("", line)
        if level == "ERROR" and text.startswith("error: "):
            self.error = text.removeprefix("error: ")
            return None
        if level == "INFO" and text.startswith("report: "):
            self.headline = text
            return None
        if level == "INFO" and text.startswith("run folder: "):
            self.folder = text.removeprefix("run folder: ")
        if not text.strip() or _FLOWERS_OWN.search(text) or (self.error and level in ("", "ERROR")):
            return None
        return text if level in ("", "INFO") else f"{level.lower()}: {text}"
