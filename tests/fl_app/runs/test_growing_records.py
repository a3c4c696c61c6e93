"""A ledger's file is read line by line while it grows."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from fl_app.runs.growing_records import GrowingRecords
from rsdgc.errors import RunFolderError
from strategies.ledger import RoundEntry


def line(number: int) -> str:
    return json.dumps(asdict(RoundEntry(number))) + "\n"


def test_each_look_returns_the_lines_that_are_new_and_complete(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    records = GrowingRecords(RoundEntry, path)
    assert records.read_new() == []
    path.write_text(line(0) + line(1) + line(2)[:10])
    assert [entry.round for entry in records.read_new()] == [0, 1]
    assert records.read_new() == []
    path.write_text(line(0) + line(1) + line(2))
    assert [entry.round for entry in records.read_new()] == [2]


def test_a_damaged_line_is_named_by_its_number_at_every_look(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    records = GrowingRecords(RoundEntry, path)
    path.write_text(line(0))
    records.read_new()
    path.write_text(line(0) + line(1) + "{}\n" + line(3))
    for _ in range(2):
        with pytest.raises(RunFolderError, match=r"history\.jsonl line 3 is damaged"):
            records.read_new()
    path.write_text(line(0) + line(1) + line(2) + line(3))
    assert [entry.round for entry in records.read_new()] == [1, 2, 3]
