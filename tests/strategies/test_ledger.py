import json
from pathlib import Path

from flwr.app import ConfigRecord, MetricRecord, RecordDict

from strategies.ledger import Ledger, SiteEntry, content_bytes, layer_group
from strategies.round_log import RoundLog, human_bytes


def entries(number: int) -> list[SiteEntry]:
    return [
        SiteEntry(number, "a", bytes_down=1000, bytes_up=10, accepted=True),
        SiteEntry(number, "b", bytes_down=1000, reason="no reply"),
    ]


def test_totals_compare_with_what_dense_fedavg_would_have_sent(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, dense_bytes=1000)
    for number in (1, 2):
        ledger.close_round(entries(number), {"layer": 0.123456789}, seconds=1.0)
        ledger.score_round(number, None)
    totals = ledger.totals()
    assert totals["bytes_up"] == 20
    assert totals["dense_bytes_up"] == 2000  # a site that sent nothing saved nothing
    assert totals["compression_up"] == 100.0
    assert totals["compression_down"] == 1.0
    assert totals["compression_total"] == round(6000 / 4020, 3)
    assert ledger.refusals == {"no reply": 2}
    assert len((tmp_path / "rounds.jsonl").read_text().splitlines()) == 4
    first = json.loads((tmp_path / "history.jsonl").read_text().splitlines()[0])
    assert first["ratios"] == {"layer": 0.12346}
    assert first["refused"] == 1


def test_a_round_has_the_accuracy_of_each_site_that_scored_its_model(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, dense_bytes=1000)
    scored = [SiteEntry(1, "b", accuracy=0.5), SiteEntry(1, "c"), SiteEntry(1, "a", accuracy=1 / 3)]
    ledger.score_round(0, None, None, scored)
    (line,) = (tmp_path / "history.jsonl").read_text().splitlines()
    assert json.loads(line)["by_site"] == {"a": 0.333333, "b": 0.5}


def test_a_content_is_its_records_and_their_names() -> None:
    content = RecordDict({"c": ConfigRecord({"ab": 1}), "mm": MetricRecord({"x": [1.0, 2.0]})})
    assert content_bytes(content) == 1 + (2 + 8) + 2 + (1 + 16)


def test_groups_are_the_parts_of_a_network() -> None:
    assert layer_group("layer1.0.conv1.weight") == "layer1"
    assert layer_group("classifier") == "classifier"


def test_the_line_of_a_round() -> None:
    ledger = Ledger(None, dense_bytes=1000)
    ledger.close_round(entries(1), {}, seconds=2.0)
    line = RoundLog().line(10, *ledger.rounds)
    assert "round  1/10 | 1 of 2 sites | accuracy   –   (after round 0)" in line
    assert "up 10 B (100.0×)" in line
    assert line.endswith("1 refused")


def test_figures_for_people() -> None:
    assert human_bytes(1_234_567) == "1.23 MB"
    assert human_bytes(999) == "999 B"
    assert human_bytes(999_900) == "1 MB"
