"""A run goes on only with the code of the user's own that it was started with."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from fl_app.runs.own_code import SETTINGS, check_code, code_signatures
from fl_app.runs.records import RunConfig, RunData
from fl_app.settings import Settings, hyphenated
from rsdgc.errors import SettingError
from rsdgc.registry import add_code_dir

NAMED = {hyphenated(name): "ledge:Thing" for name in SETTINGS if name != "model"}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "code" / "ledge.py"
    path.parent.mkdir()
    path.write_text("Thing = 1\n")
    monkeypatch.syspath_prepend(str(path.parent))
    return path


@pytest.mark.parametrize("key", NAMED)
def test_code_that_has_changed_is_refused_with_its_setting(
    tmp_path: Path, module: Path, key: str
) -> None:
    settings = Settings.from_mapping({key: NAMED[key]})
    signatures = code_signatures(settings)
    assert list(signatures) == [key]
    config = RunConfig(settings=settings.to_mapping(), run_id=3, data=RunData(name="made up"))
    config.write(tmp_path)
    check_code(tmp_path, settings)  # an earlier version has recorded nothing
    RunConfig(**{**vars(config), "code": signatures}).write(tmp_path)
    check_code(tmp_path, settings)
    module.write_text("Thing = 2\n")
    with pytest.raises(SettingError, match=rf"^the code of {key}=ledge:Thing has changed .* inste"):
        check_code(tmp_path, settings)


def test_a_network_of_ones_own_counts_and_built_in_code_does_not(tmp_path: Path) -> None:
    (tmp_path / "ridgenet.py").write_text("def build(num_bands, num_classes, chip_px): ...\n")
    add_code_dir(tmp_path)
    importlib.invalidate_caches()
    own = Settings.from_mapping({"model": "ridgenet:build"})
    assert code_signatures(own)["model"].startswith("ridgenet ")
    names = {"model": "small-cnn", "aggregation": "rsdgc.aggregation:TrimmedMean"}
    assert code_signatures(Settings.from_mapping(names)) == {}
