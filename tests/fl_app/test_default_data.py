from pathlib import Path

import pytest

from data_prep.dataset import open_data
from fl_app.default_data import SITES, default_data, default_folder

pytestmark = pytest.mark.slow


def test_the_built_in_data_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSDGC_HOME", str(tmp_path))
    folder = default_data()
    assert folder == default_folder()
    made = (folder / "partition.json").stat().st_mtime_ns
    assert default_data() == folder
    assert (folder / "partition.json").stat().st_mtime_ns == made
    dataset = open_data(folder)
    assert len(dataset.sites) == SITES
    assert dataset.store.meta.synthetic
    assert dataset.store.num_bands == 5
    assert dataset.store.chip_px == 64
    for site in dataset.sites:
        chips, labels = dataset.site(site).split("train")
        assert len(chips) > 200
        assert len(set(labels.tolist())) >= 5
    assert [path.name for path in folder.parent.parent.glob("generating-*")] == []
