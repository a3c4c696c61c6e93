import json
from dataclasses import asdict
from pathlib import Path

from fl_app.report import write_report
from fl_app.report.ledger_totals import (
    SiteTotal,
    refusals_by_reason,
    refusals_by_round,
    site_totals,
)
from fl_app.runs.records import read_run
from strategies.ledger import ROLL_CALL, SUSPENDED, SiteEntry
from tests.fl_app.report.fake_run import make_run


def test_sites_add_up_to_the_run(run_folder: Path) -> None:
    run = read_run(run_folder)
    totals = site_totals(run)
    assert sum(total.bytes_up for total in totals) == run.summary.bytes_up
    assert sum(total.bytes_down for total in totals) == run.summary.bytes_down
    for total in totals:
        assert sum(total.up_by_group.values()) == total.bytes_up
        assert total.accepted + total.refused + total.silent == run.summary.rounds
    assert (totals[1].refused, totals[1].silent) == (1, 0)
    assert (totals[2].refused, totals[2].silent) == (0, 1)
    assert list(totals[0].up_by_group)[:2] == ["header", "stem"]


def test_refusals_by_round_and_reason(run_folder: Path) -> None:
    run = read_run(run_folder)
    assert sorted(refusals_by_round(run)) == [3, 7]
    assert refusals_by_reason(run) == [("no reply", 1), ("not a valid upload", 1)]


def test_refusals_are_counted_from_the_ledger_when_the_summary_has_none(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))
    run.summary.refused.clear()
    assert dict(refusals_by_reason(run)) == {"no reply": 1, "not a valid upload": 1}


def test_a_site_never_asked_has_zeros(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", rounds=1))
    run.config.data.sites.append("site-99")
    assert site_totals(run)[-1].bytes_up == 0


def test_the_final_evaluation_and_late_replies_cost_bytes_and_are_no_visits() -> None:
    total = SiteTotal("a")
    for phase, accepted in (("train", True), ("train", False), ("late", False), ("evaluate", True)):
        total.add(SiteEntry(1, "a", 5, 10 * accepted, accepted, phase=phase))
    assert (total.accepted, total.silent, total.refused) == (1, 2, 0)
    assert (total.bytes_up, total.bytes_down) == (20, 20)
    assert not SiteEntry(1, "a", phase="evaluate").refused  # of a run of an earlier version
    assert SiteEntry(1, "a", phase="evaluate", reason="malformed report").refused


def test_nodes_left_out_and_sites_set_aside_are_no_visits(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    entries = [
        SiteEntry(0, "node 7", phase=ROLL_CALL, reason="other classes: town"),
        SiteEntry(9, "site-01", phase=SUSPENDED, reason="set aside for 2 rounds: no space"),
    ]
    with (folder / "rounds.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(entry)) + "\n" for entry in entries)
    summary = json.loads((folder / "summary.json").read_text())
    summary["suspended"] = {"site-01": 3}
    summary["left_out"] = [{"name": "node 7", "reason": "other classes", "detail": "<b>town</b>"}]
    (folder / "summary.json").write_text(json.dumps(summary))
    run = read_run(folder)
    assert "node 7" not in [total.site for total in site_totals(run)]
    assert sorted(refusals_by_round(run)) == [3, 7]
    page = write_report(folder).read_text()
    assert "Sites that were set aside" in page
    assert "&lt;b&gt;town&lt;/b&gt;" in page
