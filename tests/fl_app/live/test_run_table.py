"""The tables that a terminal shows of a run, at any width and height."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from fl_app.live.progress import Progress, ProgressReader, SiteProgress
from fl_app.live.run_table import run_view
from fl_app.live.status_file import RunStatus, StatusWriter
from fl_app.runs.lock import lock_run
from strategies.ledger import RoundEntry


def drawn(progress: Progress, width: int, height: int = 30, **how: object) -> list[str]:
    console = Console(width=width, height=height, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(run_view(progress, width, height, **how))
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", capture.get()).splitlines()]


@pytest.fixture
def midway(run_folder: Path) -> Progress:
    """Round 9 of 20, with 1 of 4 sites heard."""
    (run_folder / "summary.json").unlink()
    for name in ("history.jsonl", "rounds.jsonl"):
        lines = (run_folder / name).read_text().splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["round"] <= 8]
        (run_folder / name).write_text("".join(kept))
    writer = StatusWriter(run_folder, 20)
    with lock_run(run_folder, 8):
        writer.messages_sent("train", 9, [f"site-{number:02}" for number in range(4)])
        writer.site_replied("site-01")
        return ProgressReader(run_folder).read()


@pytest.mark.parametrize("width", [60, 120])
def test_rounds_sites_and_bars_fit_the_width(midway: Progress, width: int) -> None:
    lines = drawn(midway, width)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert lines[0].endswith("round 9 of 20")
    assert re.search(r"8 of 20 rounds · .* left$", lines[1])
    assert "1 of 4 sites" in lines[2]
    assert re.search(r"^site-01 +replied", text, re.M)
    assert len(re.findall(r"^site-0\d +at work", text, re.M)) == 3
    assert len(re.findall(r"^ +\d+ .*×", text, re.M)) == 8
    last = midway.ended[-1]
    for figure in (f"{last.accuracy:.3f}", f"{last.loss:.3f}"):
        assert figure in text
    assert "…" not in text


def test_a_narrow_terminal_has_fewer_columns(midway: Progress) -> None:
    wide, narrow = drawn(midway, 120), drawn(midway, 60)
    assert re.search(r"up +fewer +down +fewer +sent +fewer", "\n".join(wide))
    assert "down" not in "\n".join(narrow)
    assert "sent" in "\n".join(narrow)
    assert "accuracy" in "\n".join(drawn(midway, 36))


def test_many_sites_leave_room_for_the_rounds(midway: Progress) -> None:
    names = [f"station-{number:03}" for number in range(80)]
    midway.sites = {name: SiteProgress(name) for name in names}
    midway.status = RunStatus(
        phase="train", round=9, last_round=20, asked=names, replied=names[:77]
    )
    lines = drawn(midway, 80, height=24)
    assert len(lines) < 24
    assert sum("at work" in line for line in lines) == 3
    assert re.search(r"^and \d\d more sites$", lines[-1])
    assert sum("×" in line for line in lines) >= 6  # rounds
    whole = drawn(midway, 80, height=24, whole=True)
    assert sum(line.startswith("station-") for line in whole) == 80


def test_before_the_first_round_there_is_a_stage(tmp_path: Path) -> None:
    assert drawn(ProgressReader(tmp_path).read(), 60)[0] == "waiting for sites"
    assert drawn(ProgressReader(tmp_path).read(), 60, title="run 2 of 3")[0].startswith("run 2 of")


def test_a_name_with_brackets_is_no_markup(midway: Progress) -> None:
    midway.sites = {"[red]oslo[/]": SiteProgress("[red]oslo[/]")}
    assert "[red]oslo[/]" in "\n".join(drawn(midway, 80))


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(60, 200),
    height=st.integers(5, 60),
    count=st.integers(0, 40),
    big=st.integers(0, 10**13),
    seconds=st.floats(0, 3e6),
)
def test_no_number_is_cut(width: int, height: int, count: int, big: int, seconds: float) -> None:
    entry = RoundEntry(count, big, big, 9 * big, 9 * big, 7, 9, seconds=seconds, accuracy=0.5)
    sites = {f"s{number}": SiteProgress(f"s{number}", big, big) for number in range(count)}
    progress = Progress(Path(), "interrupted", history=[entry], sites=sites)
    lines = drawn(progress, width, height)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines[1:])
    assert len(lines) <= max(height, 6)
