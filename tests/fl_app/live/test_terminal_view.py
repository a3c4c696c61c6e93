"""What a command shows of the run that it follows, in a terminal and in a pipe."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from fl_app.live.terminal_view import PlainDisplay, TableDisplay, run_display

ROUND = "round  8/20 | 4 of 4 sites | accuracy 0.5"


def terminal(width: int = 100) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=40)


def text_of(console: Console) -> str:
    file = console.file
    assert isinstance(file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())


def test_a_pipe_gets_the_lines_of_the_log(
    capsys: pytest.CaptureFixture[str], run_folder: Path
) -> None:
    with run_display("run 1 of 2") as display:
        assert isinstance(display, PlainDisplay)
        display.stage("starting Flower's server")
        for line in (f"run folder: {run_folder}", ROUND, "warning: oslo refused"):
            display.show(line)
    assert capsys.readouterr().out == f"run folder: {run_folder}\n{ROUND}\nwarning: oslo refused\n"


@pytest.mark.parametrize("time", ["", "2026-11-26T13:50:02Z "])
def test_in_a_terminal_the_table_takes_the_place_of_the_round_lines(
    run_folder: Path, time: str
) -> None:
    console = terminal()
    with run_display("run 3 of 15, 12 min left", console) as display:
        display.stage("starting Flower's server")
        console.print("")
        display.show(f"{time}run folder: {run_folder}")
        display.show(f"{time}{ROUND}")
        display.show(f"{time}warning: [red]oslo[/] refused")
    shown = text_of(console)
    assert "run 3 of 15, 12 min left · starting Flower's server · 0 s" in shown
    assert ROUND not in shown
    assert f"{time}warning: [red]oslo[/] refused" in shown
    assert "· complete" in shown
    assert "20 of 20 rounds" in shown


def test_rounds_of_a_folder_that_is_not_here_are_lines(tmp_path: Path) -> None:
    """Of a run that a server elsewhere works on, only the log is known."""
    console = terminal()
    with run_display(console=console) as display:
        display.show(f"run folder: {tmp_path / 'gone'}")
        display.show(ROUND)
    assert ROUND in text_of(console)


def test_a_damaged_folder_does_not_end_the_display(run_folder: Path) -> None:
    (run_folder / "history.jsonl").write_text("{}x\n")
    console = terminal()
    with run_display(console=console) as display:
        assert isinstance(display, TableDisplay)
        display.show(f"run folder: {run_folder}")
    assert "nothing to show: " in text_of(console)


def test_the_cursor_comes_back_when_the_command_is_ended(run_folder: Path) -> None:
    console = terminal()

    def follow() -> None:
        with run_display(console=console) as display:
            display.show(f"run folder: {run_folder}")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow()
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().rstrip().endswith("\x1b[?25h")
