from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from data_prep.common_statistics import CommonStatistics, ModalityStatistics
from fl_app.models import build_model
from fl_app.report.prediction import predict
from fl_app.runs.records import read_run
from fl_app.statistics_round import FILE
from rsdgc.errors import RunError
from tests.data_prep.pictures.fake_store import CLASSES, FakeStore, folder_store
from tests.fl_app.report.fake_run import make_run


@pytest.fixture
def store() -> FakeStore:
    return folder_store(per_class=3, chip_px=16)


def save(folder: Path, model: torch.nn.Module, *, leave_out: str = "no such layer") -> None:
    state = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and name != leave_out
    }
    save_file(state, folder / "model.safetensors")


def test_the_saved_model_predicts(tmp_path: Path, store: FakeStore) -> None:
    run = read_run(make_run(tmp_path / "run", rounds=1))
    model = build_model("small-resnet", 3, len(CLASSES), 16, seed=3).eval()
    save(run.folder, model)
    chips = np.array([7, 0, 29, 3])
    found = predict(run, store, chips)

    mean, std = (torch.tensor(store.meta.modalities[0].__dict__[name]) for name in ("mean", "std"))
    pixels = torch.from_numpy(store.take(chips)[0].astype(np.float32))
    with torch.inference_mode():
        x = (pixels - mean[:, None, None]) / std[:, None, None]
        expected = model(x).argmax(1).numpy()
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)


def test_chips_are_normalized_as_the_run_s_sites_agreed_on(
    tmp_path: Path, store: FakeStore
) -> None:
    run = read_run(make_run(tmp_path / "run", rounds=1))
    model = build_model("small-resnet", 3, len(CLASSES), 16, seed=3).eval()
    save(run.folder, model)
    mean, std = np.array([10, 90, 50], np.float32), np.array([9, 30, 99], np.float32)
    bands = tuple(store.meta.modalities[0].bands)
    common = CommonStatistics({"modality-0": ModalityStatistics(bands, mean, std)})
    (run.folder / FILE).write_text(common.to_json())
    chips = np.arange(12)
    pixels = store.take(chips)[0].astype(np.float32)
    with torch.inference_mode():
        x = torch.from_numpy((pixels - mean[:, None, None]) / std[:, None, None])
        expected = model(x).argmax(1).numpy()
    np.testing.assert_array_equal(predict(run, store, chips), expected)


class Flat(torch.nn.Module):
    """A network whose ``view`` needs chips in the order of their dimensions."""

    def __init__(self, num_bands: int, num_classes: int, chip_px: int) -> None:
        super().__init__()
        self.head = torch.nn.Linear(num_bands * chip_px**2, num_classes)

    def forward(self, chips: torch.Tensor) -> torch.Tensor:
        return self.head(chips.view(chips.shape[0], -1))


def test_a_network_gets_chips_in_the_memory_format_that_it_takes(
    tmp_path: Path, store: FakeStore
) -> None:
    run = read_run(make_run(tmp_path / "run", rounds=1))
    run.config.settings["model"] = f"{__name__}:Flat"
    model = Flat(3, len(CLASSES), 16).eval()
    save(run.folder, model)
    chips = np.arange(9)
    mean, std = (torch.tensor(store.meta.modalities[0].__dict__[name]) for name in ("mean", "std"))
    pixels = torch.from_numpy(store.take(chips)[0].astype(np.float32))
    with torch.inference_mode():
        expected = model((pixels - mean[:, None, None]) / std[:, None, None]).argmax(1)
    np.testing.assert_array_equal(predict(run, store, chips), expected.numpy())


def test_a_missing_model_is_named(tmp_path: Path, store: FakeStore) -> None:
    run = read_run(make_run(tmp_path / "run", rounds=1))
    with pytest.raises(RunError, match=r"model\.safetensors is missing: restore it"):
        predict(run, store, np.arange(3))


def test_a_damaged_model_is_named(tmp_path: Path, store: FakeStore) -> None:
    run = read_run(make_run(tmp_path / "run", rounds=1))
    (run.folder / "model.safetensors").write_bytes(b"not a model")
    with pytest.raises(RunError, match=r"model\.safetensors is damaged: .* restore it") as caught:
        predict(run, store, np.arange(3))
    assert "\n" not in str(caught.value)


def test_a_model_that_diverged_is_refused(tmp_path: Path, store: FakeStore) -> None:
    run = read_run(make_run(tmp_path / "run", rounds=1))
    model = build_model("small-resnet", 3, len(CLASSES), 16)
    with torch.no_grad():
        next(model.parameters())[0] = torch.nan
    save(run.folder, model)
    with pytest.raises(RunError, match="holds NaN or infinity: the run diverged; train again"):
        predict(run, store, np.arange(3))


@pytest.mark.parametrize("bands", [3, 5])
def test_a_model_for_other_data_is_refused(tmp_path: Path, store: FakeStore, bands: int) -> None:
    run = read_run(make_run(tmp_path / "run", rounds=1))
    model = build_model("small-resnet", bands, len(CLASSES), 16)
    last = list(model.state_dict())[-1]
    save(run.folder, model, leave_out=last if bands == 3 else "")
    with pytest.raises(RunError, match="does not fit small-resnet") as caught:
        predict(run, store, np.arange(3))
    assert "\n" not in str(caught.value)


def test_data_with_other_classes_is_refused(tmp_path: Path, store: FakeStore) -> None:
    run = read_run(make_run(tmp_path / "run", rounds=1))
    (run.folder / "model.safetensors").write_bytes(b"")
    store.classes = CLASSES[:4]
    with pytest.raises(RunError, match="has 4 classes and the run 10"):
        predict(run, store, np.arange(3))


def test_data_with_the_classes_in_another_order_are_refused(
    tmp_path: Path, store: FakeStore
) -> None:
    run = read_run(make_run(tmp_path / "run", rounds=1))
    store.classes = [*CLASSES[:3], CLASSES[4], CLASSES[3], *CLASSES[5:]]
    with pytest.raises(RunError, match=f"the class {CLASSES[4]} where the run has {CLASSES[3]}"):
        predict(run, store, np.arange(3))
