"""Ctrl-C, SIGTERM and a closed terminal say what stands; a closed pipe is no error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fl_app import simulation
from fl_app.compare import compare
from fl_app.compare.trials import trials_of
from fl_app.interruption import (
    ENDED_BY_CTRL_C,
    ENDED_BY_SIGHUP,
    ENDED_BY_SIGTERM,
    OUTPUT_CLOSED,
    Interrupted,
    explain_interruption,
)
from fl_app.simulation import run_simulation, what_stands
from rsdgc.errors import RunError
from tests.command import rsdgc
from tests.federation import run, settings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("raised", "exit_code"),
    [
        (KeyboardInterrupt(), ENDED_BY_CTRL_C),
        (SystemExit(ENDED_BY_SIGTERM), ENDED_BY_SIGTERM),
        (SystemExit(ENDED_BY_SIGHUP), ENDED_BY_SIGHUP),
        (BrokenPipeError(), OUTPUT_CLOSED),
        (Interrupted("a part stands", ENDED_BY_CTRL_C), ENDED_BY_CTRL_C),
    ],
)
def test_the_notice_is_made_when_it_happens(raised: BaseException, exit_code: int) -> None:
    done: list[str] = []

    def work() -> None:
        with explain_interruption(lambda: f"{len(done)} of 2 stands"):
            done.append("one")
            raise raised

    with pytest.raises(Interrupted, match="1 of 2 stands") as caught:
        work()
    assert caught.value.exit_code == exit_code


@pytest.mark.parametrize(
    ("number", "nohup", "exit_code"),
    [
        (signal.SIGTERM, False, ENDED_BY_SIGTERM),
        (signal.SIGHUP, False, ENDED_BY_SIGHUP),
        (signal.SIGHUP, True, 0),
    ],
)
def test_what_is_started_is_ended_in_order_when_the_terminal_goes(
    number: signal.Signals, nohup: bool, exit_code: int
) -> None:
    command = (
        "from fl_app.interruption import exit_on_signals\n"
        "exit_on_signals()\n"
        "try:\n    print('at work', flush=True); input()\n"
        "finally:\n    print('cleaned up')\n"
    )
    words = ["nohup"] * nohup + [sys.executable, "-c", command]
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "at work\n"
        running.send_signal(number)
        left, _ = running.communicate("\n")
    assert (left, running.returncode) == ("cleaned up\n", exit_code)


def test_other_exits_pass() -> None:
    with pytest.raises(SystemExit), explain_interruption(lambda: ""):
        raise SystemExit(3)
    with pytest.raises(ValueError, match="defect"), explain_interruption(lambda: ""):
        raise ValueError("defect")


def test_a_run_says_where_it_can_go_on(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "a run"
    assert "left nothing" in what_stands(out, 3)
    run(settings(data, out, rounds=2, checkpoint_every=2))
    assert what_stands(out, 3).endswith(f"is complete; rsdgc report '{out}' writes its report")
    (out / "summary.json").unlink()
    assert what_stands(out, 3).endswith(
        f"rsdgc simulate --resume '{out}' goes on from round 3 of 3"
    )
    for checkpoint in (out / "checkpoints").iterdir():
        checkpoint.unlink()
    assert "from the start: no checkpoint yet" in what_stands(out, 3)


def test_a_simulation_that_fails_says_how_it_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a run"

    def fail_after_two_rounds(*_args: object, **_kwargs: object) -> None:
        run(settings(data, out, rounds=2, checkpoint_every=2))
        (out / "summary.json").unlink()
        raise RunError("no sign of life")

    def fail_at_once(*_args: object, **_kwargs: object) -> None:
        raise RunError("no sites")

    monkeypatch.setattr(simulation, "simulate", fail_at_once)
    with pytest.raises(RunError, match=r"^no sites$"):
        run_simulation(settings(data, out, rounds=3), cpus_per_site=1)
    monkeypatch.setattr(simulation, "simulate", fail_after_two_rounds)
    goes_on = f"rsdgc simulate --resume '{out}' goes on from round 3 of 3"
    with pytest.raises(RunError, match=rf"^no sign of life; the run is in {out}; {goes_on}$"):
        run_simulation(settings(data, out, rounds=3), cpus_per_site=1)


def test_ctrl_c_in_a_simulation_is_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press_ctrl_c(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(simulation, "simulate", press_ctrl_c)
    with pytest.raises(Interrupted, match="left nothing"):
        run_simulation(settings(data, tmp_path / "run"), cpus_per_site=1)
    with pytest.raises(Interrupted, match=r"0 of 2 runs in .* stay; the same command goes on"):
        compare(data, tmp_path / "all", trials_of(["fedavg", "topk"], ["9x"], [0]), {"rounds": 1})
    capsys.readouterr()
    words = ["simulate", "--data", data, "--out", tmp_path / "run"]
    assert rsdgc(monkeypatch, *words) == ENDED_BY_CTRL_C
    shown = capsys.readouterr()
    assert shown.out.startswith("checking the run: 60 rounds of rs-dgc with small-resnet on ")
    assert (
        shown.err
        == "interrupted: the run had not begun, and left nothing; the same command "
        + ("starts it\n")
    )


def test_ctrl_c_in_an_ingestion_is_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press_ctrl_c(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("data_prep.ingest.class_folders.ingest_class_folders", press_ctrl_c)
    words = ["ingest", data.parent / "images", "--layout", "class-folders"]
    assert rsdgc(monkeypatch, *words, "--out", tmp_path / "store") == ENDED_BY_CTRL_C
    error = capsys.readouterr().err
    assert error.startswith("interrupted: ")
    assert "the same command goes on" in error


@pytest.mark.parametrize(
    ("raised", "exit_code"),
    [(KeyboardInterrupt(), ENDED_BY_CTRL_C), (SystemExit(ENDED_BY_SIGTERM), ENDED_BY_SIGTERM)],
)
@pytest.mark.parametrize(
    ("words", "part"),
    [
        (
            ["partition", "store", "--scheme", "iid", "--out", "data"],
            "data_prep.partition.partition",
        ),
        (["report", "run"], "fl_app.report.write_report"),
        (["export", "run", "--out", "model"], "fl_app.runs.records.RunSummary.read"),
    ],
)
def test_a_command_that_is_short_says_what_to_do(
    raised: BaseException,
    exit_code: int,
    words: list[str],
    part: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def end(*_args: object, **_kwargs: object) -> None:
        raise raised

    monkeypatch.setattr(part, end)
    assert rsdgc(monkeypatch, *words) == exit_code
    text = "interrupted: it was not done; the same command begins again\n"
    assert capsys.readouterr().err.lstrip("\n") == text  # Click ends the line of the terminal's ^C


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [(signal.SIGTERM, ENDED_BY_SIGTERM), (signal.SIGHUP, ENDED_BY_SIGHUP)],
)
def test_a_signal_that_a_library_turns_into_an_error_of_its_own_is_one(
    number: signal.Signals,
    exit_code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def end(*_args: object, **_kwargs: object) -> None:
        try:
            os.kill(os.getpid(), number)
        except SystemExit:
            raise ValueError("error building a class: SystemExit") from None

    monkeypatch.setattr("data_prep.partition.partition", end)
    words = ["partition", "store", "--scheme", "iid", "--out", "data"]
    assert rsdgc(monkeypatch, *words) == exit_code
    assert capsys.readouterr().err.startswith("interrupted: ")
    monkeypatch.setattr("data_prep.ingest.scenes.ingest_scenes", end)
    assert rsdgc(monkeypatch, "ingest", "archive", "--out", "store") == exit_code
    assert "the same command goes on" in capsys.readouterr().err


def test_ctrl_c_while_the_command_line_is_imported_says_nothing() -> None:
    program = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in the background
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        name == 'typer' and os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from fl_app.__main__ import main\n"
        "main()\n"
    )
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, cwd=ROOT, check=False, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_python_shuts_down_says_nothing(number: signal.Signals) -> None:
    program = (
        "import atexit, os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in the background
        f"atexit.register(os.kill, os.getpid(), {int(number)})\n"
        "from fl_app.__main__ import main\n"
        "sys.argv = ['rsdgc', '--version']\n"
        "main()\n"
    )
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, cwd=ROOT, check=False, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("rsdgc ")


def test_a_closed_pipe_ends_quietly_with_0(tmp_path: Path) -> None:
    """As ``rsdgc settings | head -1`` under ``set -o pipefail``, with a reader that is gone."""
    command = [sys.executable, "-m", "fl_app.cli", "settings"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env=environment
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait() == 0
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN  # Python's own; writing raises


def test_leaving_a_deployed_run_says_that_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press_ctrl_c(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fl_app.deploy.party_config.read_server", lambda _: None)
    monkeypatch.setattr("fl_app.deploy.run_commands.run", press_ctrl_c)
    monkeypatch.setattr("fl_app.deploy.run_commands.watch", press_ctrl_c)
    for words in (["run", "--out", "spring"], ["watch"]):
        assert rsdgc(monkeypatch, "server", *words) == ENDED_BY_CTRL_C
        assert "rsdgc server watch follows it" in capsys.readouterr().err
