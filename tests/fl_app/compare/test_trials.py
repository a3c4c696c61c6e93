import pytest

from fl_app.compare import trials_of
from rsdgc.errors import SettingError


def test_every_method_at_every_budget_with_every_seed() -> None:
    trials = trials_of(["rs-dgc", "topk"], ["100x", "300x"], [0, 1])
    assert len(trials) == 8
    assert [trial.folder for trial in trials[:2]] == ["rs-dgc_100x_seed0", "rs-dgc_300x_seed0"]
    assert trials[2].settings == {"method": "topk", "seed": 0, "budget": "100x"}


def test_methods_without_a_budget_are_run_once_a_seed() -> None:
    trials = trials_of(["fedavg", "int8"], ["100x", "300x"], [3])
    assert [trial.folder for trial in trials] == ["fedavg_seed3", "int8_seed3"]


def test_a_variant_carries_its_settings_and_its_own_budget() -> None:
    (trial,) = trials_of(["rs-dgc+ratio-policy=weight+budget=50x"], ["100x", "200x"], [0])
    assert trial.label == "rs-dgc+ratio-policy=weight"
    assert trial.budget == "50x"
    assert trial.settings["ratio-policy"] == "weight"
    assert trial.folder == "rs-dgc+ratio-policy-weight_50x_seed0"


@pytest.mark.parametrize(
    ("methods", "says"),
    [
        (["sgd"], "unknown method 'sgd'; choose from rs-dgc"),
        (["rs-dgc+ratio=1"], "unknown setting 'ratio'"),
        (["rs-dgc+budget=0x"], "budget='0x'"),
        (["topk", "topk"], "asked for twice: topk_100x_seed0"),
    ],
)
def test_mistakes_are_named(methods: list[str], says: str) -> None:
    with pytest.raises(SettingError, match=says.replace("(", r"\(")):
        trials_of(methods, ["100x"], [0])
