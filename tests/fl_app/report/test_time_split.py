"""Where a round's time went: recorded parts, and what older folders tell."""

import json
from pathlib import Path

import pytest

from fl_app.report.time_split import part_totals, round_times, run_time, time_by_round
from fl_app.runs.records import read_run


def record_replies(folder: Path) -> None:
    """Let replies arrive after 4 to 7 s of rounds of 9.5 s, the last from site-03."""
    path = folder / "rounds.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["reply_seconds"] = 4.0 + int(line["site"][-1])
    final = {"round": 20, "site": "site-00", "phase": "evaluate", "reply_seconds": 2.4}
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, final]))
    path = folder / "history.jsonl"
    lines = [json.loads(line) | {"wait_seconds": 0.5} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_parts_add_up_to_the_round(run_folder: Path) -> None:
    record_replies(run_folder)
    run = read_run(run_folder)
    times = round_times(run)
    assert len(times) == 20
    for time in times:
        parts = (time.wait, time.work, time.transfer, time.server)
        assert sum(part or 0.0 for part in parts) == pytest.approx(time.total)
    assert times[0].last_site == "site-03"
    assert (times[0].work, times[0].transfer) == pytest.approx((3.2, 3.8))
    whole = run_time(run)
    assert whole.end == 2.4
    assert whole.start == pytest.approx(212.4 - 20 * 9.5 - 2.4)
    figure = time_by_round(run)
    assert figure is not None
    assert "work of the last site" in figure.svg


def test_the_work_of_a_site_is_split_into_its_steps(run_folder: Path) -> None:
    record_replies(run_folder)
    path = run_folder / "rounds.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    steps = {"score_seconds": 0.5, "train_seconds": 2.0, "compress_seconds": 0.25}
    path.write_text("".join(json.dumps(line | steps) + "\n" for line in lines))
    run = read_run(run_folder)
    times = round_times(run)
    for time in times:
        parts = (time.wait, time.score, time.train, time.compress, time.other)
        rest = (time.transfer, time.server)
        assert sum(part or 0.0 for part in (*parts, *rest)) == pytest.approx(time.total)
    assert (times[0].score, times[0].train, times[0].compress) == (0.5, 2.0, 0.25)
    assert times[0].other == pytest.approx(0.45)
    assert times[0].work is None
    names = [name for name, _, _ in part_totals(times)]
    assert names == ["wait", *("score", "train", "compress", "other work"), "transfer", "server"]
    assert sum(share for *_, share in part_totals(times)) == pytest.approx(1)
    figure = time_by_round(run)
    assert figure is not None
    assert all(name in figure.svg for name in names)


def test_a_site_whose_clock_runs_fast_takes_no_longer_than_its_round(run_folder: Path) -> None:
    record_replies(run_folder)
    path = run_folder / "rounds.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    fast = {"seconds": 70.0, "score_seconds": 20.0, "train_seconds": 40.0, "compress_seconds": 10.0}
    path.write_text("".join(json.dumps(line | fast) + "\n" for line in lines))
    time = round_times(read_run(run_folder))[0]
    assert (time.score, time.train, time.compress) == pytest.approx((2.0, 4.0, 1.0))
    assert (time.other, time.transfer) == pytest.approx((0.0, 0.0))


def test_older_folders_are_split_at_the_longest_work(run_folder: Path) -> None:
    run = read_run(run_folder)
    assert round_times(run)[0].work == 3.2
    assert round_times(run)[0].transfer == pytest.approx(6.3)
    assert run_time(run).start is None
    assert time_by_round(run) is not None


def test_a_run_without_rounds_has_no_times(tmp_path: Path, run_folder: Path) -> None:
    path = run_folder / "history.jsonl"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    assert time_by_round(read_run(run_folder)) is None
