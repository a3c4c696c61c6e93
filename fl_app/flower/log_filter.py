"""What a person sees of a run's log: the run's own lines, without Flower's chatter."""

from __future__ import annotations

import re

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LEVEL = re.compile(r"^(DEBUG|INFO|WARNING|ERROR|CRITICAL)\s*(?:\[[^\]]*\])?\s*:\s*")
_CHATTER = re.compile(
    r"Using SuperLink|Starting logstream|Starting Flower Simulation|Federation `|"
    r"Since flwr \d|To change federation size|flwr federation simulation-config|"
    r"Successfully installed|Starting local SuperLink|aggregate_train: Received|"
    r"Manually terminating ClientAppActor"
)


class LogFilter:
    """Turns raw lines into what is shown, and remembers the last error.

    Attributes
    ----------
    error : str
        The last line that an error of this application wrote; empty if there was none. A
        traceback that follows one is not shown: the line says it all.
    headline : str
        The line that names the report; kept back, to be shown last.
    folder : str
        Where the run is written, as soon as it has said so.
    """

    def __init__(self) -> None:
        self.error = ""
        self.headline = ""
        self.folder = ""

    def show(self, raw: str) -> str | None:
        """Return the line to show, or None."""
        line = _COLOUR.sub("", raw).rstrip()
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
        if not text.strip() or _CHATTER.search(text) or (self.error and level in ("", "ERROR")):
            return None
        return text if level in ("", "INFO") else f"{level.lower()}: {text}"
