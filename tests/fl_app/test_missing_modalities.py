"""Runs whose sites have different modalities, through the real apps."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message
from safetensors.numpy import load_file

from data_prep.dataset import open_data
from data_prep.store import Store
from fl_app.client_app import app as client_app
from fl_app.data_loaders import load_split
from fl_app.report.prediction import predict
from fl_app.runs.records import read_run
from fl_app.simulation import _check_feasible
from rsdgc.errors import DataError, RsdgcError, RunError
from strategies import messages
from tests import federation
from tests.loopback import LoopbackGrid
from tests.modalities import LACKING, make_data, make_store

pytestmark = pytest.mark.slow

FUSION = "tests.modalities:Branches"
QUICK: dict[str, Any] = {"rounds": 2, "budget": "4x", "budget_down": "4x", "min_sites": 3}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("modalities"))


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Callable[..., list[Message]]:
    """Run in ``tmp_path``, and return the messages to the sites."""

    def run(out: str = "run", **changes: Any) -> list[Message]:
        chosen = federation.settings(data, tmp_path / out, **{**QUICK, **changes})
        return federation.run(chosen).seen

    return run


@pytest.mark.parametrize(
    ("model", "method", "normalization"),
    [
        (FUSION, "rs-dgc", "site"),
        (FUSION, "fedavg", "common"),
        ("fusion-concat", "rs-dgc", "common"),
        ("fusion-attention", "fedavg", "site"),
    ],
)
def test_a_site_without_a_modality_takes_part_in_a_fusion_run(
    data: Path, tmp_path: Path, run: Callable[..., Any], model: str, method: str, normalization: str
) -> None:
    seen = run(model=model, method=method, normalization=normalization)
    finished = read_run(tmp_path / "run")
    assert finished.summary.refused == {}
    assert [m.name for m in finished.config.data.modalities] == ["optical", "elevation"]
    assert [m.px for m in finished.config.data.modalities] == [8, 4]
    assert finished.config.data.lacking == LACKING
    told = set()
    for message in seen:
        if message.metadata.message_type in ("train", "evaluate"):
            task = message.content.config_records[messages.TASK]
            if messages.MODALITIES in task:
                told.add(task[messages.SITE])
    assert told == {"site-01"}
    dataset = open_data(data)
    chips, _ = dataset.site("site-00").split("test")
    predicted = predict(finished, dataset.store, chips)
    assert set(predicted) <= {0, 1, 2}
    # the model works with what another store has
    predict(finished, dataset.store.with_modalities(["optical"]), chips)


def test_pictures_of_data_with_other_bands_are_refused(
    data: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
    """As for a run that recorded no modalities, whose saved weights tell it."""
    run(model=FUSION)
    finished, dataset = read_run(tmp_path / "run"), open_data(data)
    chips, _ = dataset.site("site-00").split("test")
    optical = dataset.store.meta.modalities[0]
    for other in (
        optical.model_copy(update={"bands": ["b1", "b2", "b4"]}),
        optical.model_copy(update={"name": "radar"}),
    ):
        meta = dataset.store.meta.model_copy(update={"modalities": [other]})
        store = Store(dataset.store.path, meta, dataset.store.manifest)
        with pytest.raises(RunError, match="name the data that the run was trained on"):
            predict(finished, store, chips)


def test_the_modalities_of_a_run_are_chosen_and_ordered(
    data: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
    run(model="small-cnn", modalities="optical")
    finished = read_run(tmp_path / "run")
    assert finished.summary.refused == {}
    assert (finished.config.data.num_bands, finished.config.data.lacking) == (3, {})
    dataset = open_data(data)
    chips, _ = dataset.site("site-00").split("test")
    assert len(predict(finished, dataset.store, chips)) == len(chips)
    with pytest.raises(RunError, match="lacks some of the run's modalities: optical"):
        predict(finished, dataset.store.with_modalities(["elevation"]), chips)


def test_the_setting_gives_the_order(tmp_path: Path, run: Callable[..., Any]) -> None:
    run(model=FUSION, modalities="elevation, optical")
    names = [m.name for m in read_run(tmp_path / "run").config.data.modalities]
    assert names == ["elevation", "optical"]


REFUSED = {
    "stacked": (
        {"model": "small-cnn"},
        "site site-01 lacks modality elevation, and model small-cnn takes all of them as one: "
        r"choose a fusion network \(rsdgc models\), or train with modalities=optical",
    ),
    "dropout of a stacked model": (
        {"model": "small-cnn", "modalities": "optical", "modality_dropout": 0.5},
        "modality-dropout=0.5 leaves modalities out, and model small-cnn takes all of them as one",
    ),
    "unknown": (
        {"model": FUSION, "modalities": "optical,sar"},
        "no site has modality sar; of those named in modalities, sites have optical",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_sites_cannot_do_is_said_in_one_line(
    data: Path, tmp_path: Path, run: Callable[..., Any], case: str
) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(RsdgcError, match=message):
        run(**changes)
    chosen = federation.settings(data, tmp_path / "run", **{**QUICK, **changes})
    with pytest.raises(RsdgcError, match=message):  # before a simulation starts, too
        _check_feasible(chosen, open_data(data, chosen.modality_names))


def test_a_fusion_model_that_needs_all_modalities_is_tried(run: Callable[..., Any]) -> None:
    with pytest.raises(RunError, match=r"site-01 lacks modality elevation, and model .* None inst"):
        run(model="tests.modalities:NeedsAll")


def test_a_site_with_none_of_the_modalities_says_so(data: Path, run: Callable[..., Any]) -> None:
    with pytest.raises(RunError, match="site site-01 has none of the modalities elevation"):
        run(model=FUSION, modalities="elevation", join_timeout_s=0.2)
    with pytest.raises(DataError, match="none of the modalities sar: name some of optical, elev"):
        open_data(data, ["sar"])


def test_common_statistics_are_those_of_the_sites_that_have_the_modality(
    data: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
    run(model=FUSION, normalization="common")
    written = json.loads((tmp_path / "run" / "normalization.json").read_text())
    assert list(written) == ["optical", "elevation"]
    dataset = open_data(data)
    for name, sites in (("elevation", ("site-00", "site-02")), ("optical", dataset.sites)):
        pixels = []
        for site in sites:
            view = dataset.site(site)
            chips, _ = view.split("train")
            pixels.append(view.store.with_modalities([name]).take(chips)[0])
        expected = np.concatenate(pixels).mean((0, 2, 3), dtype=np.float64)
        np.testing.assert_allclose(written[name]["mean"], expected, rtol=1e-5)


def test_a_run_is_resumed_with_the_modalities_that_it_was_started_with(
    data: Path, tmp_path: Path
) -> None:
    def stop(message: Message, reply: Message) -> Message:
        task = message.content.config_records[messages.TASK]
        if task.get(messages.ROUND) == 2:
            raise KeyboardInterrupt
        return reply

    changes = {**QUICK, "model": FUSION, "checkpoint_every": 1}
    chosen = federation.settings(data, tmp_path / "run", **changes)
    with pytest.raises(KeyboardInterrupt):
        federation.run(chosen, fault=stop)
    federation.run(federation.settings(data, tmp_path / "run", **changes, resume=True), run_id=8)
    finished = read_run(tmp_path / "run")
    assert finished.summary.rounds == 2
    assert finished.summary.refused == {}


def test_modalities_are_dropped_in_training(tmp_path: Path, run: Callable[..., Any]) -> None:
    """Twice the same run, to the bit; and another one without dropped modalities."""
    models = []
    for share in (0.5, 0.5, 0.0):
        out = tmp_path / f"run-{len(models)}"
        run(out.name, model=FUSION, rounds=1, modality_dropout=share)
        models.append((out / "model.safetensors").read_bytes())
        assert read_run(out).summary.refused == {}
    assert models[0] == models[1]
    assert models[0] != models[2]


def test_the_report_scores_by_the_modalities_that_sites_have(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = federation.settings(data, tmp_path / "run", **{**QUICK, "model": FUSION, "rounds": 3})
    federation.run(chosen, report=True)
    assert "sites without elevation: site-01" in caplog.text
    summary = read_run(tmp_path / "run").summary
    groups = [(group.modalities, group.sites) for group in summary.by_modalities]
    assert groups == [
        (["optical", "elevation"], ["site-00", "site-02"]),
        (["optical"], ["site-01"]),
    ]
    both, alone = summary.by_modalities
    assert both.num_test + alone.num_test == summary.num_test
    correct = both.accuracy * both.num_test + alone.accuracy * alone.num_test
    assert summary.accuracy == pytest.approx(correct / summary.num_test, abs=1e-5)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "By the modalities that sites have" in page
    assert "site-01: elevation" in page
    assert "optical (3 bands of 8 px), elevation (1 band of 4 px)" in page


LOSSLESS = {
    "budget": "1x",
    "budget_down": "1x",
    "budget_final": "1x",
    "values": "float32",
    "dense_values": "float32",
    "server_momentum": 0,
}


def test_without_loss_the_model_is_that_of_fedavg(tmp_path: Path, run: Callable[..., Any]) -> None:
    """Uploads that lack layers and replies that lack arrays have the same mean."""
    run("dense", model=FUSION, method="fedavg", server_momentum=0)
    run("sparse", model=FUSION, **LOSSLESS)
    dense, sparse = (load_file(tmp_path / out / "model.safetensors") for out in ("dense", "sparse"))
    for name, expected in dense.items():
        np.testing.assert_allclose(sparse[name], expected, rtol=1e-4, atol=1e-5)


def test_the_order_of_a_site_s_own_store_does_not_matter(data: Path) -> None:
    dataset = open_data(data)
    batches = []
    for order in (["optical", "elevation"], ["elevation", "optical"]):
        split = load_split(
            open_data(data, order),
            "site-00",
            "train",
            torch.device("cpu"),
            modalities=["elevation", "optical"],
        )
        assert split is not None
        (chips,), _ = next(split.batches(8, None))
        batches.append(chips)
    assert dataset.store.num_bands == 4
    assert torch.equal(*batches)
    assert batches[0].shape == (8, 4, 8, 8)  # the finest modality's size


@pytest.mark.parametrize("method", ["rs-dgc", "fedavg"])
def test_deployed_sites_have_stores_of_different_modalities(tmp_path: Path, method: str) -> None:
    """Only ``b`` has elevation; ``late`` joins when the run has begun."""
    stores = {
        name: make_store(tmp_path / name, elevation=elevation, seed=seed)
        for seed, (name, elevation) in enumerate({"a": False, "b": True, "late": False}.items())
    }
    changes = {**QUICK, "model": FUSION, "method": method, "normalization": "common"}
    chosen = federation.settings(tmp_path, tmp_path / "run", **{**changes, "min_sites": 2})
    configs = [{"data-dir": str(path), "site-name": name} for name, path in stores.items()]

    def arrive(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "train":
            grid.away.clear()
        return reply

    grid = LoopbackGrid(client_app, configs, chosen.to_mapping(), 7, arrive)
    grid.away = {103}
    federation.serve(grid, chosen)
    finished = read_run(tmp_path / "run")
    assert finished.summary.refused == {}
    assert [m.name for m in finished.config.data.modalities] == ["optical", "elevation"]
    assert finished.config.data.lacking == {"a": ["elevation"]}
    assert [group.sites for group in finished.summary.by_modalities] == [["b"], ["a", "late"]]
