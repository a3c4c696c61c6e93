"""What a reader of a run's folder sees while the run goes on."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from flwr.app import Message

from fl_app.live.progress import ProgressReader
from fl_app.live.status_file import STATUS_FILE, StatusWriter, read_status
from fl_app.runs.lock import lock_run
from fl_app.runs.records import read_run
from rsdgc.errors import RunFolderError
from strategies.ledger import RoundEntry
from tests.federation import run, settings


@pytest.fixture(scope="module")
def watched(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple]]:
    """A run, and what a reader saw of it whenever a site had worked."""
    out = tmp_path_factory.mktemp("watched") / "run"
    reader, seen = ProgressReader(out), []

    def look(message: Message, reply: Message) -> Message:
        progress = reader.read()
        seen.append((progress.state, progress.stage, len(progress.waits_for), len(progress.ended)))
        return reply

    run(settings(data, out, rounds=3), fault=look)
    return out, seen


def test_rounds_and_replies_are_seen_as_they_happen(watched: tuple[Path, list[tuple]]) -> None:
    _, seen = watched
    assert seen[0] == ("starting", "waiting for sites", 0, 0)
    assert ("running", "round 1 of 3", 3, 0) in seen
    assert ("running", "round 3 of 3", 3, 2) in seen
    assert seen[-1] == ("running", "final evaluation", 3, 3)


def test_a_complete_run_has_the_figures_of_its_summary(watched: tuple[Path, list[tuple]]) -> None:
    out, _ = watched
    progress = ProgressReader(out).read()
    summary = read_run(out).summary
    assert (progress.state, progress.share, progress.waits_for) == ("complete", 1.0, [])
    assert progress.seconds_left is None
    assert not (out / STATUS_FILE).exists()
    sites = progress.sites.values()
    assert sum(site.bytes_up for site in sites) == summary.bytes_up
    assert sum(site.bytes_down for site in sites) == summary.bytes_down
    factors = [site.compression(progress.dense_bytes) for site in sites]
    assert min(factors) <= summary.compression_total <= max(factors)
    assert {site.outcome for site in sites} == {"accepted"}


def test_a_run_that_was_interrupted_adds_up_to_what_its_ledger_has(
    watched: tuple[Path, list[tuple]], tmp_path: Path
) -> None:
    out, _ = watched
    whole = read_run(out)
    for name in ("config.json", "run.holder"):
        (tmp_path / name).write_bytes((out / name).read_bytes())
    for name in ("history.jsonl", "rounds.jsonl"):
        lines = (out / name).read_text().splitlines(keepends=True)
        cut = [line for line in lines if json.loads(line)["round"] <= 2]
        (tmp_path / name).write_text("".join(cut) + '{"round": 3, "si')  # being written
    progress = ProgressReader(tmp_path).read()
    assert progress.state == "interrupted"
    assert progress.stage == "ended after round 2 of 3, not complete"
    assert progress.run().summary.bytes_up == sum(line.bytes_up for line in whole.history[:3])
    assert progress.run().summary.accuracy == whole.history[2].accuracy


def test_a_reader_starts_over_when_a_run_was_resumed(tmp_path: Path, run_folder: Path) -> None:
    """The files are cut back to a checkpoint, and may have grown again before the next look."""
    reader = ProgressReader(run_folder)
    before = reader.read()
    lines = (run_folder / "history.jsonl").read_text().splitlines(keepends=True)
    changed = [line.replace('"seconds": ', '"seconds": 1') for line in lines]
    (run_folder / "history.jsonl").write_text("".join(changed))
    with lock_run(run_folder, 8):
        after = reader.read()
    assert len(after.history) == len(before.history)
    assert after.ended[0].seconds != before.ended[0].seconds
    (run_folder / "history.jsonl").write_text("".join(lines[:4]))
    assert len(reader.read().history) == 4


def test_estimates_come_from_the_rounds_that_have_ended(run_folder: Path) -> None:
    (run_folder / "summary.json").unlink()
    lines = (run_folder / "history.jsonl").read_text().splitlines(keepends=True)
    (run_folder / "history.jsonl").write_text("".join(lines[:11]))
    writer = StatusWriter(run_folder, 20)
    with lock_run(run_folder, 8):
        writer.messages_sent("train", 11, ["site-00", "site-01", "site-02", "site-03"])
        writer.site_replied("site-02")
        progress = ProgressReader(run_folder).read()
    assert progress.waits_for == ["site-00", "site-01", "site-03"]
    assert progress.share == pytest.approx((10 + 1 / 4) / 20)
    seconds = [json.loads(line)["seconds"] for line in lines[6:11]]
    assert progress.seconds_left == pytest.approx(10 * sum(seconds) / 5, rel=0.1)


def test_a_status_that_cannot_be_written_does_not_end_the_run(tmp_path: Path) -> None:
    writer = StatusWriter(tmp_path / "gone", 3)
    writer.messages_sent("train", 1, ["oslo"])
    writer.round_ended(RoundEntry(1), 3)
    writer.close()


@pytest.mark.parametrize("text", ["[]", '{"phase": "train"}', '{"phase": 1, "round": []}', "\xff"])
def test_a_damaged_status_names_its_file(tmp_path: Path, text: str) -> None:
    (tmp_path / STATUS_FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(RunFolderError, match=STATUS_FILE):
        read_status(tmp_path)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_folder_of_another_user_can_be_read(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The lock of a server's run cannot be probed by somebody who may only read."""
    (run_folder / "summary.json").unlink()
    with lock_run(run_folder, 8):
        pass

    def refuse(*_: object) -> bool:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fl_app.runs.lock.is_locked", refuse)
    assert ProgressReader(run_folder).read().state == "running"
