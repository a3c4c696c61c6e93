"""The lines of a run's log that a person wants to see: the app's own, without Flower's."""

from __future__ import annotations

import re

from rsdgc.plain_text import escape_hidden

_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_LEVEL = re.compile(r"^(DEBUG|INFO|WARNING|ERROR|CRITICAL)\s*(?:\[[^\]]*\])?\s*:\s*")
_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ(?: |$)")
_FLOWERS_OWN = re.compile(
    r"Using SuperLink|Starting logstream|Starting Flower Simulation|Federation `|"
    r"Since flwr \d|To change federation size|flwr federation simulation-config|"
    r"Successfully installed|Starting local SuperLink|aggregate_train: Received|"
    r"Manually terminating ClientAppActor|Start `flwr-\w+` process"
)

_RAY_TOO_SLOW = re.compile(r"The current node timed out during startup")
"""Ray waits 30 s for its own processes, which is not a setting."""


def clean_log_line(raw: str) -> str:
    """Return a line of a log as a terminal may show it: without colors, what is hidden escaped."""
    return escape_hidden(_COLOR.sub("", raw).rstrip().expandtabs(4))


def print_line(line: str) -> None:
    """Print a line at once: a run's log is what a command prints."""
    print(line, flush=True)


class LogFilter:
    """Turns raw lines into those that are shown, and remembers what they report.

    Lines are shown with the times that they were logged at if ``times`` is set.
    """

    def __init__(self, *, times: bool = False) -> None:
        self._times = times
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
        timed = _TIME.match(text)
        time = timed[0] if timed else ""
        text = text.removeprefix(time)
        if level == "ERROR" and text.startswith("error: "):
            self.error = text.removeprefix("error: ")
            return None
        if _RAY_TOO_SLOW.search(text) and not self.error:
            self.error = (
                "Ray's processes did not start within its 30 s, because this machine is busy: "
                "try again when it has less to do"
            )
            return None
        if level == "INFO" and text.startswith("report: "):
            self.headline = text
            return None
        if level == "INFO" and text.startswith("run folder: "):
            self.folder = text.removeprefix("run folder: ")
        if not text.strip() or _FLOWERS_OWN.search(text) or (self.error and level in ("", "ERROR")):
            return None
        kind = "" if level in ("", "INFO") else f"{level.lower()}: "
        return f"{time if self._times else ''}{kind}{text}"
