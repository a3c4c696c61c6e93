import json
import math
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clients.optimizers import OPTIMIZERS
from fl_app.cli import app
from fl_app.methods import METHODS, Method
from fl_app.settings import OPTIMIZER_DEFAULTS, Settings, merge_options, parse_overrides
from fl_app.settings_table import GROUPS, settings_by_group
from rsdgc import Scheme, make_indicator
from rsdgc.clipping import DEFAULT_MULTIPLE
from rsdgc.errors import SettingError

ROOT = Path(__file__).parents[2]


def test_the_app_config_holds_exactly_the_settings_and_their_defaults() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed, defaults = pyproject["tool"]["flwr"]["app"]["config"], Settings().to_mapping()
    differing = [key for key in {**defaults, **listed} if listed.get(key) != defaults.get(key)]
    wanted = [f"{key} = {json.dumps(defaults[key])}" for key in differing if key in defaults]
    extra = [key for key in differing if key not in defaults]
    assert not differing, f"[tool.flwr.app.config] lacks {wanted} and should not list {extra}"


def test_a_wrong_setting_is_refused_before_numpy_is_loaded() -> None:
    """Importing it takes as long as all the rest of the command."""
    code = (
        "import sys; from fl_app import cli; sys.argv = ['rsdgc', 'simulate', 'budgt=3'];\n"
        "try: cli.main()\n"
        "except SystemExit as stop: sys.exit(stop.code + 10 * ('numpy' in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert "did you mean 'budget'?" in done.stderr


def test_the_limit_of_clipping_is_that_of_the_clipping() -> None:
    assert Settings().clip_updates == DEFAULT_MULTIPLE


def test_every_setting_is_in_one_group() -> None:
    assert set(GROUPS) <= set(Settings.model_fields)
    by_group = settings_by_group()
    assert list(by_group) == list(GROUPS.values())
    assert [row["key"] for rows in by_group.values() for row in rows] == Settings.keys()


def printed(command: str) -> str:
    """What the command prints in a process of its own: other tests register names in this one."""
    words = [sys.executable, "-m", "fl_app.cli", command, "--markdown"]
    return subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("command", ["settings", "methods"])
def test_the_documented_table_is_the_one_that_is_printed(command: str) -> None:
    table = printed(command)
    assert table.count("\n") > 10
    assert table in (ROOT / "docs" / "configuration.md").read_text()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"buget": "10x"}, "unknown setting 'buget'; did you mean 'budget'?"),
        ({"zzz": 1}, "unknown setting 'zzz'; see docs/configuration.md"),
        ({"budget": "lots"}, "setting budget='lots': write a ratio such as '100x'"),
        ({"budget": "0.5x"}, "setting budget='0.5x': a ratio is at least '1x'"),
        ({"method": "zip"}, "setting method='zip': method 'zip' is unknown: choose one of rs-dgc,"),
        ({"method": "tpok"}, "setting method='tpok': method 'tpok' is unknown: did you mean"),
        ({"values": "int9"}, "setting values='int9': value coding 'int9' is unknown: did you mean"),
        ({"indicator": "none"}, "setting indicator='none': indicator 'none' is unknown"),
        ({"server-momentum": 1.0}, "setting server-momentum=1.0: write a number from 0 to below"),
        ({"server-momentum": "x"}, "setting server-momentum='x': write a number from 0 to below"),
        ({"rounds": 0}, "setting rounds=0"),
        ({"fraction": 1.5}, "setting fraction=1.5"),
        ({"learning-rate": 0}, "setting learning-rate=0: write a number above 0, or 'auto'"),
        ({"learning-rate": math.nan}, "setting learning-rate=nan: write a number above 0"),
        ({"weight-decay": -1e-9}, "setting weight-decay=-1e-09: write a number from 0, or"),
        ({"weight-decay": math.inf}, "setting weight-decay=inf: write a number from 0, or"),
        ({"optimizer": "adam"}, "setting optimizer='adam': input should be 'sgd'"),
        ({"lr-warm-up-rounds": 60}, "setting lr-warm-up-rounds=60: it must be below rounds"),
        ({"label-smoothing": 1.0}, "setting label-smoothing=1.0"),
        ({"proximal": -0.1}, "setting proximal=-0.1"),
        ({"dp-clip": 0}, "setting dp-clip=0"),
        ({"dp-delta": 1}, "setting dp-delta=1"),
        (
            {"dp-noise-multiplier": 1, "normalization": "common"},
            "setting normalization='common': differential privacy does not cover the sites'",
        ),
        (
            {"dp-noise-multiplier": 1, "aggregation": "my.module:Rule"},
            "setting dp-noise-multiplier=1: differential privacy has a mean of its own; set aggre",
        ),
        (
            {"class-weights": "balanced", "sampling": "balanced"},
            "setting sampling='balanced': class-weights are balanced already",
        ),
        *(
            ({key: value}, f"setting {key}={value!r}: write names or patterns with commas between")
            for key in ("freeze", "train-only", "adapter-layers")
            for value in (",", " , ,", " ")
        ),
        ({"adapter-rank": 2}, "setting adapter-rank=2: it is for adapters; set adapters=lora"),
        ({"adapter-alpha": 1.5}, "setting adapter-alpha=1.5: it is for adapters; set adapters="),
        ({"adapter-layers": "fc"}, "setting adapter-layers='fc': it is for adapters; set adapte"),
        ({"momentum": 1.0}, "setting momentum=1.0"),
        ({"batch-size": 0}, "setting batch-size=0"),
        ({"local-epochs": 0}, "setting local-epochs=0"),
        ({"local-steps": -1}, "setting local-steps=-1"),
        ({"clip-norm": math.inf}, "setting clip-norm=inf"),
        ({"jitter": -1.0}, "setting jitter=-1.0"),
        ({"band-dropout": 1.0}, "setting band-dropout=1.0"),
        ({"nsi-mean-weight": 0.0, "nsi-std-weight": 0.0}, "setting nsi-std-weight=0.0: one of"),
        ({"rounds": "many"}, "setting rounds='many'"),
        (
            {"aggregation": "meen"},
            "setting aggregation='meen': aggregation rule 'meen' is unknown: did you mean 'mean'?",
        ),
        ({"clip-updates": 0.5}, "setting clip-updates=0.5: write a number from 1, or 0 for no"),
        ({"clip-updates": -1}, "setting clip-updates=-1"),
        ({"indicator": "nsl"}, "setting indicator='nsl': indicator 'nsl' is unknown: did you mean"),
        ({"values": "int4"}, "setting values='int4': value coding 'int4' is unknown: did you mean"),
        (
            {"dense-values": "ternary"},
            "setting dense-values='ternary': choose",
        ),
    ],
)
def test_wrong_settings_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        Settings.from_mapping(values)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


SWITCHES = {key for key, value in Settings().to_mapping().items() if isinstance(value, bool)}


@pytest.mark.parametrize("key", sorted(set(Settings.keys()) - SWITCHES))
@pytest.mark.parametrize("value", [True, False])
def test_a_switchs_value_is_no_number(key: str, value: bool) -> None:
    """Python counts True as 1: `rounds = true` would be a run of one round."""
    with pytest.raises(SettingError, match=f"^setting {key}={value}: "):
        Settings.from_mapping({key: value})


@pytest.mark.parametrize("key", ["data-dir", "out", "state-dir", "code-dir", "init-weights"])
def test_a_path_may_begin_with_the_home_folder(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No shell expands the tilde of `state-dir=~/state`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_overrides([f"{key}=~/x"]) == {key: str(tmp_path / "x")}
    assert parse_overrides([f"{key}=x/~"]) == {key: "x/~"}
    with pytest.raises(SettingError, match=f"{key}='~nobody-here/x': its home folder is not known"):
        parse_overrides([f"{key}=~nobody-here/x"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rounds", 10**9),  # would take gigabytes
        ("warm-up-rounds", 1e308),  # no 64-bit integer, as Flower takes them
        ("checkpoint-keep", 10**18),  # every task lists the rounds that are kept
        ("threads", 100_000),  # ends the process
        ("dp-noise-multiplier", 1e-300),  # has no ε
        ("dp-noise-multiplier", 1e300),  # and these no finite model
        ("dp-clip", 1e300),
        ("sites-per-gpu", 20_000),  # Ray would give a site no share of the GPU
    ],
)
def test_numbers_that_no_run_can_have_are_refused(key: str, value: float) -> None:
    with pytest.raises(SettingError, match=f"^setting {key}="):
        Settings.from_mapping({key: value})


def test_a_setting_is_given_once() -> None:
    assert parse_overrides(["rounds=5", "rounds=5"]) == {"rounds": 5}
    with pytest.raises(SettingError, match=r"^'rounds' is given twice, as '5' and as '6'"):
        parse_overrides(["rounds=5", "seed=1", "rounds=6"])
    assert merge_options(["rounds=5"], {"rounds": 5, "seed": 1}) == {"rounds": 5, "seed": 1}
    with pytest.raises(SettingError, match=r"^'rounds' is given twice, as '5' and as '6'"):
        merge_options(["rounds=5"], {"rounds": 6})


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("simulate", ["--rounds", "2", "rounds=3"]),
        ("simulate", ["--data", "a", "data-dir=b"]),
        ("compare", ["data/", "--out", "runs", "--model", "small-cnn", "model=resnet18"]),
    ],
)
def test_an_option_and_a_word_do_not_replace_each_other(command: str, words: list[str]) -> None:
    result = CliRunner().invoke(app, [command, *words])
    assert "is given twice, as" in str(result.exception)


def test_adapters_may_have_settings_of_their_own() -> None:
    chosen = {"adapter-rank": 2, "adapter-alpha": 1.5, "adapter-layers": "fc"}
    assert Settings.from_mapping({**chosen, "adapters": "lora"}).adapter_rank == 2
    defaults = Settings().to_mapping()
    assert Settings.from_mapping(defaults) == Settings()


def test_what_a_setting_needs_may_come_from_elsewhere() -> None:
    words = ["adapter-rank=2", "lr-warm-up-rounds=70"]
    given = parse_overrides(words)
    assert given == {"adapter-rank": 2, "lr-warm-up-rounds": 70}
    with pytest.raises(SettingError, match="adapter-rank"):
        Settings.from_mapping(given)
    Settings.from_mapping({**given, "adapters": "lora", "rounds": 100})


def test_overrides_are_typed() -> None:
    assert parse_overrides(["rounds=3", "augment=false", "learning-rate=0.1"]) == {
        "rounds": 3,
        "augment": False,
        "learning-rate": 0.1,
    }


@pytest.mark.parametrize("key", ["server-momentum", "momentum-correction"])
def test_a_momentum_is_a_number_or_auto(key: str) -> None:
    assert Settings().to_mapping()[key] == "auto"
    assert parse_overrides([f"{key}=0.4"]) == {key: 0.4}
    assert parse_overrides([f"{key}=0"]) == {key: 0.0}
    for automatic in ("auto", "-1", "-1.0", -1, -1.0):  # -1 is in run folders of old
        assert Settings.from_mapping({key: automatic}).to_mapping()[key] == "auto"


def test_an_override_without_a_value_is_refused() -> None:
    with pytest.raises(SettingError, match="'rounds' is not key=value"):
        parse_overrides(["rounds"])


def test_the_learning_rate_follows_a_cosine() -> None:
    settings = Settings.from_mapping({"rounds": 10, "learning-rate": 1.0})
    rates = [settings.learning_rate_at(r) for r in range(1, 11)]
    assert rates[0] == 1.0
    assert rates[5] == pytest.approx(0.5)
    assert all(a > b > 0 for a, b in pairwise(rates))


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_learning_rate_warms_up_before_its_schedule(schedule: str) -> None:
    values = {"lr-schedule": schedule, "learning-rate": 1.0}
    warm = Settings.from_mapping(values | {"rounds": 13, "lr-warm-up-rounds": 3})
    plain = Settings.from_mapping(values | {"rounds": 10})
    rates = [warm.learning_rate_at(r) for r in range(1, 14)]
    assert rates[:3] == [0.25, 0.5, 0.75]
    assert rates[3:] == [plain.learning_rate_at(r) for r in range(1, 11)]


@pytest.mark.parametrize(
    ("given", "rate", "decay"),
    [
        ({}, 0.05, 1e-4),
        ({"optimizer": "adamw"}, 1e-3, 1e-2),
        ({"optimizer": "adamw", "learning-rate": "0.2", "weight-decay": 0}, 0.2, 0.0),
        ({"model": "vgg19"}, 0.01, 1e-4),
        ({"model": "vgg19-bn"}, 0.05, 1e-4),
        ({"model": "vgg16", "optimizer": "adamw"}, 1e-3, 1e-2),
        ({"model": "vgg16", "learning-rate": 0.2}, 0.2, 1e-4),
    ],
)
def test_optimizer_and_model_decide_what_is_left_at_auto(
    given: dict[str, object], rate: float, decay: float
) -> None:
    settings = Settings.from_mapping(given)
    assert (settings.learning_rate_at(1), settings.resolved("weight_decay")) == (rate, decay)


def test_settings_list_the_optimizers_there_are() -> None:
    """The settings name them themselves: importing PyTorch would slow every command down."""
    assert set(OPTIMIZER_DEFAULTS) == set(OPTIMIZERS)
    for name in OPTIMIZERS:
        assert Settings.from_mapping({"optimizer": name}).optimizer == name


def test_a_method_decides_what_is_left_at_auto() -> None:
    topk = Settings.from_mapping({"method": "topk"})
    assert topk.scheme() == Scheme("element", values="int8")
    assert topk.resolved("ratio_policy") == "uniform"
    naive = Settings.from_mapping({"method": "topk-naive", "values": "float16"})
    assert naive.scheme() == Scheme("element", values="float16", indices="int32")


@pytest.mark.parametrize(
    ("name", "method", "given", "expected"),
    [
        ("momentum_correction", "rs-dgc", {}, 0.0),
        ("momentum_correction", "dgc", {}, 0.9),
        ("momentum_correction", "stc", {"momentum-correction": 0.5}, 0.5),
        ("server_momentum", "rs-dgc", {}, 0.4),
        ("server_momentum", "topk", {}, 0.0),
        ("server_momentum", "fedavg", {"server-momentum": 0.5}, 0.5),
    ],
)
def test_momenta_are_the_methods_own_unless_given(
    name: str, method: str, given: dict[str, float], expected: float
) -> None:
    assert Settings.from_mapping({"method": method, **given}).resolved(name) == expected


def test_momentum_correction_needs_updates_as_they_are() -> None:
    given = {"method": "rs-dgc", "momentum-correction": 0.9}
    assert Settings.from_mapping(given).resolved("transform") == "none"
    assert Settings.from_mapping({"method": "rs-dgc"}).resolved("transform") == "channels"
    assert Settings.from_mapping({"method": "topk"}).resolved("transform") == "none"
    with pytest.raises(SettingError, match=r"momentum-correction=0.9: .* set transform to 'none'"):
        Settings.from_mapping({**given, "transform": "channels"})
    with pytest.raises(SettingError, match=r"it is 0.9 for dgc, .* or momentum-correction to 0"):
        Settings.from_mapping({"method": "dgc", "transform": "channels"})
    # The rest of the settings may set it to 0.
    assert parse_overrides(["method=dgc", "transform=channels"])["transform"] == "channels"
    allowed = {"method": "dgc", "transform": "channels", "momentum-correction": 0}
    assert Settings.from_mapping(allowed).resolved("transform") == "channels"


def test_indicators_and_codings_from_outside_are_named_by_their_path() -> None:
    path = "tests.rsdgc.codec.test_values:BFloat16"
    settings = Settings.from_mapping(
        {"values": path, "dense-values": path, "indicator": "tests.rsdgc.test_indicators:Noisy"}
    )
    assert settings.scheme() == Scheme(values=path, dense_values=path, transform="channels")
    assert make_indicator(settings.resolved("indicator"))


OWN_METHOD = Method("Own", "large elements as signs", neighborhood="element", values="ternary")


def test_a_method_from_outside_is_named_by_its_path() -> None:
    settings = Settings.from_mapping({"method": f"{__name__}:OWN_METHOD"})
    assert settings.scheme() == Scheme("element", values="ternary")
    assert settings.resolved("server_momentum") == 0.0


def test_what_is_not_a_method_is_refused_in_one_line() -> None:
    settings = Settings.from_mapping({"method": "math:pi"})
    with pytest.raises(SettingError, match=r"^method 'math:pi' is of type float: name a fl_app"):
        settings.scheme()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_resolves_to_a_scheme_and_an_indicator(name: str) -> None:
    settings = Settings.from_mapping({"method": name})
    assert settings.scheme().values
    assert make_indicator(settings.resolved("indicator"))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model": "\ud800"}, "not valid Unicode"),
        ({"\udfff": 1}, "not valid Unicode"),
        ({"rounds": 10**400}, "more than 64 bits"),
        ({"seed": float("nan")}, "setting seed=nan"),
        ({"budget": "9" * 400 + "x"}, "write a ratio"),
        ({"indicator": "x" * 10**6}, "unknown"),
        ({"lr-schedule": "\x1b[2J\u202e"}, r"lr-schedule='\\x1b\[2J\\u202e'"),
        ({"y" * 10**5: 1}, "unknown setting"),
        ({"model": [[[]]]}, "setting model="),
    ],
)
def test_values_of_others_are_refused_in_a_short_line(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingError, match=reason) as caught:
        Settings.from_mapping(values)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
