"""Which runs a comparison consists of; a whole one over the loopback."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_prep.partition import partition
from fl_app import simulation
from fl_app.cli import app
from fl_app.compare import compare, trials_of
from fl_app.compare.trials import left_out, with_common, with_equal_momentum
from fl_app.runs.records import RunConfig, RunData, RunSummary
from fl_app.settings import Settings, parse_overrides
from rsdgc.errors import DataError, RunError, SettingError
from tests.federation import simulate_over_loopback

COMMON = {"model": "small-cnn", "rounds": 2, "batch-size": 8, "device": "cpu"}


def test_every_method_at_every_budget_with_every_seed() -> None:
    trials = trials_of(["rs-dgc", "topk"], ["100x", "300x"], [0, 1])
    assert len(trials) == 8
    assert [trial.folder for trial in trials[:2]] == ["rs-dgc_100x_seed0", "rs-dgc_300x_seed0"]
    assert trials[2].settings == {"method": "topk", "seed": 0, "budget": "100x"}


def test_methods_without_a_budget_are_run_once_a_seed() -> None:
    trials = trials_of(["fedavg", "int8"], ["100x", "300x"], [3])
    assert [trial.folder for trial in trials] == ["fedavg_seed3", "int8_seed3"]


def test_the_policy_decides_whether_a_variant_has_a_budget() -> None:
    methods = ["int8+ratio-policy=update", "topk+ratio-policy=whole"]
    trials = trials_of(methods, ["50x", "90x"], [0])
    assert [trial.settings.get("budget") for trial in trials] == ["50x", "90x", None]


def test_a_variant_carries_its_settings_and_its_own_budget() -> None:
    (trial,) = trials_of(["rs-dgc+ratio-policy=weight+budget=50x"], ["100x", "200x"], [0])
    assert trial.label == "rs-dgc+ratio-policy=weight"
    assert trial.budget == "50x"
    assert trial.settings["ratio-policy"] == "weight"
    assert trial.folder == "rs-dgc+ratio-policy-weight_50x_seed0"


@pytest.mark.parametrize("place", ["../../../w", "runs/../../w", "/srv/w", "w"])
def test_a_path_among_the_settings_leads_to_no_other_folder(tmp_path: Path, place: str) -> None:
    (trial,) = trials_of([f"rs-dgc+init-weights={place}.safetensors"], ["50x"], [0])
    assert (tmp_path / trial.folder).resolve().is_relative_to(tmp_path)
    assert trial.settings["init-weights"] == f"{place}.safetensors"


@pytest.mark.parametrize(
    ("methods", "common", "momenta"),
    [
        (["fedavg", "rs-dgc", "topk"], {}, [0.4, 0.4, 0.4]),
        (["fedavg", "topk"], {}, [0.0, 0.0]),
        (["fedavg", "rs-dgc"], {"server-momentum": 0}, [0.0, 0.0]),
        (["fedavg+server-momentum=0", "rs-dgc"], {}, [0.0, 0.4]),
        (["fedavg", "rs-dgc+server-momentum=0.7"], {}, [0.7, 0.7]),
        (["fedavg", "rs-dgc", "rs-dgc+server-momentum=0.9"], {}, [0.4, 0.4, 0.9]),
        (["fedavg", "dgc", "rs-dgc-paper"], {}, [0.0, 0.0, 0.0]),
        (["fedavg", "dgc", "rs-dgc"], {}, [0.4, 0.0, 0.4]),
        (["fedavg"], {}, [0.0]),
    ],
)
def test_methods_that_say_nothing_of_it_have_the_same_server_momentum(
    methods: list[str], common: dict[str, float], momenta: list[float]
) -> None:
    trials = trials_of(methods, ["100x"], [0])
    settings = {trial: Settings.from_mapping({**common, **trial.settings}) for trial in trials}
    equal = with_equal_momentum(settings)
    assert [equal[trial].resolved("server_momentum") for trial in trials] == momenta


def test_whole_uploads_have_the_momentum_of_the_others() -> None:
    """Of a method at a lossless budget the default is 0, so it must be named."""
    trials = trials_of(["fedavg", "rs-dgc"], ["1x", "200x"], [0])
    equal = with_equal_momentum({t: Settings.from_mapping(t.settings) for t in trials})
    assert [equal[t].effective_server_momentum(10_000) for t in trials] == [0.4, 0.4, 0.4]


def test_settings_for_adapters_are_for_the_trials_that_have_some() -> None:
    common = {"adapter-rank": 8, "adapter-layers": "stage*", "rounds": 3}
    methods = ["fedavg", "rs-dgc", "rs-dgc+adapters=lora", "topk+adapters=lora+adapter-rank=2"]
    trials = trials_of(methods, ["100x"], [0, 1])
    chosen = with_common(trials, common)
    ranks = [Settings.from_mapping(chosen[trial]).adapter_rank for trial in trials]
    assert ranks == [4, 4, 8, 2] * 2
    assert all(each["rounds"] == 3 for each in chosen.values())
    assert left_out(chosen, common) == [
        f"{setting} is for adapters, and not used in fedavg, rs-dgc"
        for setting in ("adapter-rank=8", "adapter-layers=stage*")
    ]
    # The other way round: all but one have adapters.
    trials = trials_of(["rs-dgc", "rs-dgc+adapters=none"], ["100x"], [0])
    chosen = with_common(trials, {"adapters": "lora", "adapter-rank": 8})
    assert [each.get("adapter-rank") for each in chosen.values()] == [8, None]


def test_settings_for_adapters_that_no_trial_has_are_refused(tmp_path: Path) -> None:
    refusal = "adapter-rank=8: it is for adapters; set adapters=lora, or leave it out"
    trials = trials_of(["rs-dgc", "topk"], ["100x"], [0])
    with pytest.raises(SettingError, match=refusal):
        compare(tmp_path / "data", tmp_path / "out", trials, {"adapter-rank": 8})
    # What a trial names itself is a mistake, whatever the others have.
    trials = trials_of(["rs-dgc+adapter-rank=8", "rs-dgc+adapters=lora"], ["100x"], [0])
    with pytest.raises(SettingError, match=refusal):
        compare(tmp_path / "data", tmp_path / "out", trials, {})


def test_what_is_not_used_in_a_trial_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = trials_of(["rs-dgc", "rs-dgc+adapters=lora"], ["100x"], [0])
    with pytest.raises(DataError):  # there is no data, which is looked at later
        compare(tmp_path / "data", tmp_path / "out", trials, {"adapter-rank": 8})
    note = "note: adapter-rank=8 is for adapters, and not used in rs-dgc\n"
    assert capsys.readouterr().out.startswith(note)


@pytest.mark.parametrize(
    ("methods", "says"),
    [
        (["sgd"], "method 'sgd' is unknown: choose one of rs-dgc"),
        (["rs-dgc+ratio=1"], "unknown setting 'ratio'"),
        (["rs-dgc+budget=0x"], "budget='0x'"),
        (["topk", "topk"], "listed twice: topk_100x_seed0"),
        (["rs-dgc+seed=3"], "rs-dgc+seed=3: seed is not a variant's own: name it by --seeds"),
        (["rs-dgc+method=topk"], "method is not a variant's own: name it by --methods"),
        (["topk+data-dir=b"], "data-dir is not a variant's own: name it by its first argument"),
        (["topk+rounds=2+out=b"], "out is not a variant's own: name it by --out"),
        (["fedavg+budget=9x"], "fedavg+budget=9x: its uploads are whole, whatever the budget"),
        (["int8+budget=9x"], "int8+budget=9x: its uploads are whole, whatever the budget"),
        (["topk+budget=9x+ratio-policy=whole"], "its uploads are whole, whatever the budget"),
    ],
)
def test_mistakes_are_named(methods: list[str], says: str) -> None:
    with pytest.raises(SettingError, match=re.escape(says)):
        trials_of(methods, ["100x"], [0])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("budget=50x", "budget=50x: a comparison does not take it as a setting of all runs: name"),
        ("seed=3", "name it by --seeds"),
        ("method=topk", "name it by --methods"),
        ("data-dir=other", "name it by its first argument"),
        ("out=other", "name it by --out"),
        ("resume=true", "a comparison continues where it stopped by itself"),
    ],
)
def test_what_a_comparison_sets_itself_is_refused_as_a_common_setting(
    tmp_path: Path, words: str, says: str
) -> None:
    """It would be replaced by the comparison's own, without a word."""
    common = parse_overrides([words])
    trials = trials_of(["rs-dgc"], ["100x"], [0])
    with pytest.raises(SettingError, match=re.escape(says)):
        compare(tmp_path / "data", tmp_path / "out", trials, common)
    command = ["compare", str(tmp_path / "data"), "--out", str(tmp_path / "out"), words]
    result = CliRunner().invoke(app, command)
    assert says in str(result.exception)


def test_a_complete_run_counts_wherever_the_comparison_is_started(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run keeps absolute paths of what the settings name relative to the current folder."""
    monkeypatch.chdir(tmp_path)
    out, common = tmp_path / "compare", {**COMMON, "init-weights": "w.safetensors"}
    (trial,) = trials_of(["rs-dgc"], ["10x"], [0])
    out.mkdir()
    run_folder.rename(out / trial.folder)
    record = RunSummary.read(out / trial.folder)
    replace(record, refused={}).write(out / trial.folder)
    kept = Settings.from_mapping({**common, **trial.settings}).to_mapping()
    kept |= {"code-dir": "/elsewhere", "init-weights": str(tmp_path / "w.safetensors")}
    RunConfig(settings=kept, run_id=7, data=RunData(name="squares")).write(out / trial.folder)
    assert compare(tmp_path / "data", out, [trial], common).exists()
    with pytest.raises(SettingError, match=r"holds a run with init-weights='.*w\.safetensors'"):
        compare(tmp_path / "data", out, [trial], {**common, "init-weights": "v.safetensors"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "budget", "kept", "momentum"),
    [
        ("topk", "10x", "auto", None),
        ("topk", "10x", 0, None),
        ("rs-dgc", "10x", "auto", None),
        ("rs-dgc", "1x", "auto", 0),
        ("topk", "10x", "auto", 0.4),
    ],
)
def test_a_complete_run_counts_if_its_server_momentum_was_the_same(
    run_folder: Path,
    tmp_path: Path,
    method: str,
    budget: str,
    kept: float | str,
    momentum: float | None,
) -> None:
    """Whether it was named, or left to the method; other methods may have changed it since."""
    out = tmp_path / "compare"
    (trial,) = trials_of([method], [budget], [0])
    out.mkdir()
    run_folder.rename(out / trial.folder)
    replace(RunSummary.read(out / trial.folder), refused={}).write(out / trial.folder)
    old = Settings.from_mapping({**COMMON, **trial.settings, "server-momentum": kept})
    config = RunConfig(settings=old.to_mapping(), run_id=7, data=RunData(name="squares"))
    config.write(out / trial.folder)
    common = COMMON if momentum is None else {**COMMON, "server-momentum": momentum}
    if momentum:
        with pytest.raises(
            SettingError, match=r"momentum=0\.0 instead of 0\.4; set server-.*=0 for"
        ):
            compare(tmp_path / "data", out, [trial], common)
    else:
        assert compare(tmp_path / "data", out, [trial], common).exists()


@pytest.mark.slow
def test_a_comparison_resumes_where_it_stopped(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(simulation, "simulate", simulate_over_loopback)
    out = tmp_path / "compare"
    compare(data, out, trials_of(["rs-dgc"], ["10x"], [0]), COMMON)
    assert "run 1 of 1: rs-dgc_10x_seed0\n" in capsys.readouterr().out
    both = trials_of(["rs-dgc", "stc"], ["10x"], [0])
    table = compare(data, out, both, COMMON)
    shown = capsys.readouterr().out
    assert "rs-dgc_10x_seed0\n" not in shown
    assert "run 2 of 2: stc_10x_seed0\n" in shown
    assert len(table.read_text().splitlines()) == 4
    assert len((out / "compare.csv").read_text().splitlines()) == 3
    assert (out / "compare.svg").exists()
    with pytest.raises(SettingError, match="holds a run with rounds=2 instead of 3"):
        compare(data, out, trials_of(["stc"], ["10x"], [0]), {**COMMON, "rounds": 3})
    other = tmp_path / "other"
    partition(data.parent / "store", other, sites=3, scheme="iid", seed=5)
    with pytest.raises(SettingError, match=r"rs-dgc_10x_seed0 holds a run on other data than .*/o"):
        compare(other, out, both, COMMON)
    summary = out / "stc_10x_seed0" / "summary.json"
    lost = {"error at the site": 3}
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "refused": lost}))
    with pytest.raises(RunError, match=r"stc_10x_seed0 lost 3 uploads .* error at the site \(3\)"):
        compare(data, out, both, COMMON)
