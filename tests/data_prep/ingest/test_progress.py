from __future__ import annotations

from unittest import mock

import pytest

from data_prep.ingest.progress import LINE_SECONDS, reporting


def test_a_callback_gets_all_reports() -> None:
    reports: list[tuple[str, int, int]] = []
    with reporting(lambda *report: reports.append(report)) as report:
        report("reading", 1, 2)
    assert reports == [("reading", 1, 2)]


def test_without_a_terminal_there_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = [0.0, LINE_SECONDS / 2, LINE_SECONDS, LINE_SECONDS + 1]
    with mock.patch("time.monotonic", side_effect=clock), reporting(None) as report:
        for done in (20, 60, 70):
            report("reading", done * 10**6, 120 * 10**6)
    assert capsys.readouterr().err == "reading: 60 of 120 MB, 2.0/s, 30 s left\n"
