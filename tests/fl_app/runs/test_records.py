import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from data_prep.dataset import open_data
from fl_app.report import write_report
from fl_app.runs.records import read_run
from fl_app.runs.resumption import read_settings
from rsdgc.errors import RunError
from tests.fl_app.report.fake_run import make_run

OLD_RUN = Path(__file__).parent / "old_run"
"""Written by the version of 2026-11-25: a folder that every later version must read."""
FILES = ["config.json", "history.jsonl", "rounds.jsonl", "summary.json"]


def test_all_files_are_read(run_folder: Path) -> None:
    run = read_run(run_folder)
    assert [line.round for line in run.history] == list(range(21))
    assert len(run.site_entries) == 80
    assert run.sites == ["site-00", "site-01", "site-02", "site-03"]
    assert run.synthetic
    assert run.config.settings["budget"] == "100x"
    assert run.config.layers[0].size == 32 * 5 * 9


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", "it has no config.json; name one that rsdgc simulate or"),
        ("summary.json", "is not complete: wait for its end, or continue it with rsdgc simulate"),
        ("history.jsonl", "history.jsonl is missing: restore it from a copy, or run again"),
        ("rounds.jsonl", "rounds.jsonl is missing: restore it from a copy, or run again"),
    ],
)
def test_a_missing_file_is_named(run_folder: Path, name: str, text: str) -> None:
    (run_folder / name).unlink()
    with pytest.raises(RunError, match=text):
        read_run(run_folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b'{"round": 1, "acc', b"[1, 2]", b"\xff\xfe\x00", b"{}", b"3"])
def test_a_damaged_file_is_named_in_one_line(run_folder: Path, name: str, content: bytes) -> None:
    (run_folder / name).write_bytes(content)
    with pytest.raises(RunError, match=name) as caught:
        read_run(run_folder)
    assert "\n" not in str(caught.value)


def test_a_damaged_line_is_numbered(run_folder: Path) -> None:
    path = run_folder / "history.jsonl"
    lines = path.read_text().splitlines()
    lines[4] = json.dumps({"round": 4, "accuracy": "high"})
    path.write_text("\n".join(lines))
    with pytest.raises(RunError, match=r"history\.jsonl line 5 is damaged: accuracy"):
        read_run(run_folder)


def test_a_field_of_the_wrong_type_is_named(run_folder: Path) -> None:
    summary = json.loads((run_folder / "summary.json").read_text())
    summary["bytes_up"] = None
    (run_folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(RunError, match=r"summary\.json is damaged: bytes_up"):
        read_run(run_folder)


def test_a_confusion_matrix_that_does_not_fit_is_refused(run_folder: Path) -> None:
    summary = json.loads((run_folder / "summary.json").read_text())
    summary["confusion"] = summary["confusion"][:-1]
    (run_folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(RunError, match="confusion matrix is not 10 × 10"):
        read_run(run_folder)


def test_no_round_at_all_is_refused(run_folder: Path) -> None:
    (run_folder / "history.jsonl").write_text("\n")
    with pytest.raises(RunError, match="is empty"):
        read_run(run_folder)


def test_something_else_than_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a folder; name one that rsdgc simulate or"):
        read_run(tmp_path / "nowhere")


def test_sites_that_only_the_ledger_names_are_kept(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", rounds=1)
    path = folder / "rounds.jsonl"
    stranger = {"round": 1, "site": "late", "accepted": True}
    path.write_text(path.read_text() + json.dumps(stranger) + "\n")
    assert read_run(folder).sites[-1] == "late"


def test_an_old_run_folder_is_read_and_reported(tmp_path: Path) -> None:
    folder = shutil.copytree(OLD_RUN, tmp_path / "old")
    run = read_run(folder)
    assert run.summary.accuracy == 1.0
    assert run.summary.bytes_up == sum(line.bytes_up for line in run.site_entries) == 150391
    assert [line.accuracy for line in run.history] == [pytest.approx(1 / 3), 1.0, 1.0]
    assert run.config.run_id == 7
    assert "images" in write_report(folder).read_text()
    assert read_settings(folder)[0].model == "small-cnn"


def test_records_are_written_as_they_were_read(tmp_path: Path) -> None:
    """Same keys, order and values as in the old folder, to the byte, but for what is new since."""
    run = read_run(OLD_RUN)
    run.config.write(tmp_path)
    run.summary.write(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["data"].pop("modalities") == []
    assert config["data"].pop("lacking") == {}
    assert config["data"].pop("digest") == ""
    assert config.pop("frozen") is None
    assert config.pop("code") == {}
    assert json.dumps(config, indent=1) == (OLD_RUN / "config.json").read_text()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary.pop("server_momentum") is None
    assert summary.pop("by_modalities") == []
    assert summary.pop("by_site") == []
    assert summary.pop("best") is None
    assert summary.pop("privacy") is None
    assert summary.pop("suspended") == {}
    assert summary.pop("left_out") == []
    assert summary.pop("clipped") == 0
    assert json.dumps(summary, indent=1) == (OLD_RUN / "summary.json").read_text()
    for name, records in (("history.jsonl", run.history), ("rounds.jsonl", run.site_entries)):
        lines = (OLD_RUN / name).read_text().splitlines()
        old = json.loads(lines[0])
        written = [
            {key: value for key, value in asdict(record).items() if key in old}
            for record in records
        ]
        assert sorted(map(json.dumps, written)) == sorted(lines)


def edit(folder: Path, name: str, **changes: object) -> None:
    """Change the values of a record, of the last line of a file of lines."""
    *before, last = (folder / name).read_text().splitlines() if name.endswith("l") else [""]
    values = json.loads(last or (folder / name).read_text())
    (folder / name).write_text("\n".join([*before, json.dumps(values | changes)]))


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("config.json", {"model": "\ud800"}, "not valid Unicode"),
        ("config.json", {"layers": [{"name": "a", "shape": [-1]}]}, "shape is -1"),
        ("config.json", {"layers": [{"name": "a", "shape": [2**63]}]}, "shape is"),
        ("config.json", {"run_id": 2**64}, "64 bits"),
        ("config.json", {"run_id": -1}, "run_id is -1"),
        ("config.json", {"data": {"name": "x", "classes": "abc"}}, "data.classes"),
        ("summary.json", {"accuracy": 62_500_000}, "accuracy is 62500000.0, not from"),
        ("summary.json", {"accuracy": float("nan")}, "is not a number of JSON"),
        ("summary.json", {"kappa": -1.5}, "kappa is -1.5, not from -1.0 to 1.0"),
        ("summary.json", {"bytes_up": 10**30}, "64 bits"),
        ("summary.json", {"bytes_up": -5}, "bytes_up is -5, not from 0"),
        ("summary.json", {"confusion": [[2**47] * 10] * 10}, "counts 14073748835532800"),
        ("history.jsonl", {"loss": float("inf")}, "line 21 is damaged: it holds inf"),
        ("history.jsonl", {"ratios": {"stem": 5.0}}, "line 21 is damaged: ratios is 5.0"),
        ("history.jsonl", {"ratios": {"\udfff": 0.5}}, "not valid Unicode"),
        ("rounds.jsonl", {"site": ["a"]}, "line 80 is damaged: site"),
        ("rounds.jsonl", {"train_loss": 1e300}, "train_loss is 1e"),
        ("rounds.jsonl", {"up_by_group": {"stem": "many"}}, "up_by_group.stem"),
    ],
)
def test_a_value_that_cannot_be_is_named(
    run_folder: Path, name: str, changes: dict[str, object], reason: str
) -> None:
    edit(run_folder, name, **changes)
    with pytest.raises(RunError, match=reason) as caught:
        read_run(run_folder)
    assert str(caught.value).isprintable()
    assert name in str(caught.value)


def test_the_losses_of_a_run_that_diverges_are_read(run_folder: Path) -> None:
    edit(run_folder, "history.jsonl", loss=3.4e38, val_loss=7e30)
    edit(run_folder, "rounds.jsonl", train_loss=2.5e20)
    run = read_run(run_folder)
    assert (run.history[-1].loss, run.history[-1].val_loss) == (3.4e38, 7e30)
    assert max(entry.train_loss or 0.0 for entry in run.site_entries) == 2.5e20


def test_nested_and_endless_files_are_refused(run_folder: Path) -> None:
    (run_folder / "config.json").write_text("[" * 10**6)
    with pytest.raises(RunError, match=r"config.json is damaged: it is nested too deeply"):
        read_run(run_folder)
    (run_folder / "config.json").unlink()
    (run_folder / "config.json").symlink_to("/dev/zero")
    with pytest.raises(RunError, match="not a regular file"):
        read_run(run_folder)


def test_a_ledger_may_be_long_but_not_a_line_of_it(run_folder: Path) -> None:
    with (run_folder / "rounds.jsonl").open("ab") as file:
        file.truncate(2**33)  # without content
    with pytest.raises(RunError, match=r"rounds.jsonl is damaged: a line has more than"):
        read_run(run_folder)


def test_texts_of_sites_are_one_printable_line(run_folder: Path) -> None:
    forged = "no reply\nINFO : \x1b[2Jdone \u202ewell"
    edit(run_folder, "rounds.jsonl", reason=forged, site="a\rb", accepted=False)
    run = read_run(run_folder)
    (entry,) = (entry for entry in run.site_entries if entry.site == "a b")
    assert entry.reason == "no reply INFO : \\x1b[2Jdone \\u202ewell"
    assert "\u202e" not in write_report(run_folder).read_text()


def test_a_report_takes_no_code_from_where_a_run_folder_says(run_folder: Path, data: Path) -> None:
    classes = open_data(data).store.classes
    edit(run_folder, "summary.json", classes=classes, confusion=[])
    (run_folder / "evil.py").write_text(f"open({str(run_folder / 'was-run')!r}, 'w')")
    edit(run_folder, "config.json", **{"model": "evil:build", "code-dir": str(run_folder)})
    (run_folder / "model.safetensors").write_bytes(b"")
    page = write_report(run_folder, data).read_text()
    assert "cannot be imported" in page
    assert not (run_folder / "was-run").exists()
