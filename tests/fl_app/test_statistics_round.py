"""Sites of different sensors agree on one normalization and keep it, whatever fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from flwr.app import ConfigRecord, Message

import strategies.roll_call
from clients.site import Site
from data_prep.dataset import open_data
from data_prep.ingest.class_folders import ingest_class_folders
from fl_app import client_app
from fl_app.client_app import app
from fl_app.settings import Settings
from fl_app.statistics_round import FILE, run_statistics
from rsdgc.errors import RunError
from strategies import messages
from strategies.checkpoints import Checkpoint, Checkpoints
from tests.federation import count_bytes, run, serve, settings, write_class_folders, write_image
from tests.killed_process import run_until_killed
from tests.loopback import Fault, LoopbackGrid

pytestmark = pytest.mark.slow

SITES = ("bright", "dark", "noisy")


def write_site(root: Path, number: int) -> Path:
    """Write and ingest the images of a site whose sensor has a gain and an offset of its own."""
    write_class_folders(root / "images", per_class=8 + 2 * number, seed=number)
    for path in sorted((root / "images").rglob("*.tif")):
        with rasterio.open(path) as source:
            image = source.read().astype(float)
        write_image(path, (image / (number + 1) + 10 * number).clip(1, 255))
    ingest_class_folders(root / "images", root / "store", seed=number)
    return root / "store"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sensors")
    return {name: write_site(root / name, number) for number, name in enumerate(SITES)}


def chosen(out: Path, **changes: Any) -> Settings:
    given = {"normalization": "common", "state_dir": str(out / "state"), **changes}
    return settings(Path(), out, **given)


def federation(
    stores: dict[str, Path],
    out: Path,
    run_id: int = 7,
    fault: Fault = lambda message, reply: reply,
    **changes: Any,
) -> tuple[LoopbackGrid, Settings]:
    configs = [{"data-dir": str(path), "site-name": name} for name, path in stores.items()]
    asked = chosen(out, **changes)
    return LoopbackGrid(app, configs, asked.to_mapping(), run_id, fault), asked


def pooled(stores: dict[str, Path]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of the train pixels of some sites, read at once."""
    pixels = []
    for path in stores.values():
        data = open_data(path)
        chips, _ = data.site(0).split("train")
        (values,) = data.store.take(chips)
        pixels.append(np.moveaxis(values, 1, 0).reshape(values.shape[1], -1))
    together = np.concatenate(pixels, axis=1).astype(np.float64)
    return together.mean(axis=1), together.std(axis=1)


def assert_pooled(out: Path, stores: dict[str, Path]) -> None:
    statistics = run_statistics(out)
    assert statistics is not None
    (modality,) = statistics.modalities.values()
    mean, std = pooled(stores)
    np.testing.assert_allclose(modality.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(modality.std, std, rtol=1e-6)


def tasks(grid: LoopbackGrid, *kinds: str) -> list[ConfigRecord]:
    return [
        message.content.config_records[messages.TASK]
        for message in grid.seen
        if message.metadata.message_type in kinds
    ]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def model_of(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


@dataclass(frozen=True)
class WatchedRun:
    """An undisturbed run over all stores, with its report, what it sent and its open sites."""

    folder: Path
    grid: LoopbackGrid
    sent: Counter[str]
    sites: list[Site]


@pytest.fixture(scope="module")
def watched(stores: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> WatchedRun:
    sent: Counter[str] = Counter()
    folder = tmp_path_factory.mktemp("watched") / "run"
    client_app.opened_sites.clear()
    grid, asked = federation(stores, folder, fault=count_bytes(sent))
    serve(grid, asked, report=True)
    return WatchedRun(folder, grid, sent, list(client_app.opened_sites.values()))


def test_different_sensors_are_normalized_by_the_statistics_of_all_pixels(
    stores: dict[str, Path], watched: WatchedRun
) -> None:
    means = [open_data(path).store.meta.modalities[0].mean[0] for path in stores.values()]
    assert max(means) > 1.5 * min(means)  # the sensors do differ
    assert_pooled(watched.folder, stores)
    sent = {task[messages.NORMALIZATION] for task in tasks(watched.grid, "train", "evaluate")}
    assert len(sent) == 1
    assert len(sent.pop()) == 4 + 8 * 3
    mean, std = (values[:, None, None] for values in pooled(stores))
    assert {site.name for site in watched.sites} == set(SITES)
    for site in watched.sites:
        (values,) = open_data(stores[site.name]).store.take(site.train._positions)
        (x,), _ = next(site.train.batches(len(values), None))
        assert x is not None
        np.testing.assert_allclose(x.numpy(), (values - mean) / std, atol=1e-5)


def test_what_it_costs_is_in_the_ledger(watched: WatchedRun) -> None:
    visits = lines(watched.folder / "rounds.jsonl")
    statistics = visits[: len(SITES)]
    assert [(v["phase"], v["round"], v["site"]) for v in statistics] == [
        ("statistics", 0, name) for name in SITES
    ]
    assert all(v["accepted"] and 0 < v["bytes_up"] < 500 for v in statistics)
    assert all(0 < v["bytes_down"] < 50 for v in statistics)
    summary = json.loads((watched.folder / "summary.json").read_text())
    assert watched.sent == {"up": summary["bytes_up"], "down": summary["bytes_down"]}
    history = lines(watched.folder / "history.jsonl")
    assert history[0]["bytes_up"] == sum(v["bytes_up"] for v in statistics)
    assert (history[0]["dense_bytes_up"], history[0]["dense_bytes_down"]) == (0, 0)


def test_by_default_every_site_uses_its_own_statistics_and_is_not_asked(
    stores: dict[str, Path], tmp_path: Path
) -> None:
    grid, asked = federation(stores, tmp_path / "run", normalization="site")
    serve(grid, asked)
    assert not (tmp_path / "run" / FILE).exists()
    assert tasks(grid, "query.statistics") == []
    assert all(messages.NORMALIZATION not in task for task in tasks(grid, "train", "evaluate"))


def test_arrival_and_number_of_nodes_do_not_matter(data: Path, tmp_path: Path) -> None:
    for nodes in (1, 3):
        folder = tmp_path / str(nodes)
        run(settings(data, folder, normalization="common", rounds=2), nodes=nodes)
    one, two = tmp_path / "1", tmp_path / "3"
    assert (one / FILE).read_bytes() == (two / FILE).read_bytes()
    assert model_of(one) == model_of(two)


def test_a_site_that_joins_late_normalizes_as_the_others_do(
    stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, asked = federation(stores, tmp_path / "run")
    late = list(grid.contexts)[-1]
    grid.away = {late}
    poll = strategies.roll_call.SiteDiscovery.poll

    def come_back(self: Any, of: LoopbackGrid) -> set[int]:
        if any(task[messages.ROUND] == 2 for task in tasks(of, "train")):
            of.away = set()
        return poll(self, of)

    monkeypatch.setattr(strategies.roll_call.SiteDiscovery, "poll", come_back)
    serve(grid, asked)
    punctual = {name: stores[name] for name in SITES[:2]}
    assert_pooled(tmp_path / "run", punctual)
    sites = {task[messages.SITE] for task in tasks(grid, "train")}
    assert sites == set(SITES)
    sent = {task[messages.NORMALIZATION] for task in tasks(grid, "train", "evaluate")}
    assert len(sent) == 1
    visits = lines(tmp_path / "run" / "rounds.jsonl")
    assert all(v["accepted"] for v in visits)


def die_at(at_round: int, data: Path, out: Path, options: dict[str, Any]) -> None:
    """Run in this process, which dies by SIGKILL before the checkpoint of a round."""
    inner = Checkpoints.save

    def save(self: Checkpoints, checkpoint: Checkpoint) -> None:
        if checkpoint.round == at_round:
            os.kill(os.getpid(), signal.SIGKILL)
        inner(self, checkpoint)

    Checkpoints.save = save
    run(settings(data, out, **options))


CHECKPOINTED: dict[str, Any] = {"normalization": "common", "rounds": 4, "checkpoint_every": 1}


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(settings(data, folder, **CHECKPOINTED))
    return folder


@pytest.mark.parametrize("at_round", [1, 3], ids=["before any checkpoint", "after some"])
def test_a_resumed_run_keeps_the_normalization_that_was_agreed_on(
    data: Path, tmp_path: Path, whole: Path, at_round: int
) -> None:
    resumed = tmp_path / "run"
    run_until_killed(die_at, at_round, data, resumed, CHECKPOINTED)
    client_app.opened_sites.clear()
    grid = run(settings(data, resumed, **CHECKPOINTED, resume=True), run_id=8)
    # the sites are asked again only where the run starts over
    assert len(tasks(grid, "query.statistics")) == (3 if at_round == 1 else 0)
    assert model_of(whole) == model_of(resumed)
    assert (whole / FILE).read_bytes() == (resumed / FILE).read_bytes()
    for name in ("rounds.jsonl", "history.jsonl"):
        one, two = lines(whole / name), lines(resumed / name)
        for line in (*one, *two):
            for key in [key for key in line if "seconds" in key or key == "time"]:
                del line[key]
        assert one == two


def test_a_run_that_lost_what_was_agreed_on_is_not_resumed(
    data: Path, tmp_path: Path, whole: Path
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    for damage, message in (
        ((tmp_path / "run" / FILE).write_text, "is damaged"),
        (lambda _: (tmp_path / "run" / FILE).unlink(), "has lost its normalization.json"),
    ):
        damage("{")
        with pytest.raises(RunError, match=message):
            run(settings(data, tmp_path / "run", **CHECKPOINTED, resume=True), run_id=8)


def spoil(site: str, **changes: Any) -> Fault:
    """Return a fault that changes fields of a site's statistics; None drops the reply."""

    def fault(message: Message, reply: Message) -> Message | None:
        task = message.content.config_records[messages.TASK]
        if message.metadata.message_type != "query.statistics" or task[messages.SITE] != site:
            return reply
        if not changes:
            return None
        record = reply.content.config_records[messages.SUMS]
        for key, value in changes.items():
            record[key.replace("_", " ")] = value
        return reply

    return fault


HOSTILE = {
    "silent": (spoil("dark"), "no reply"),
    "no numbers": (spoil("dark", image_mean=[float("nan")] * 3), "not valid statistics"),
    "too many pixels": (spoil("dark", image_count=[1e12] * 3), "not valid statistics"),
    "too many samples": (spoil("dark", **{"class-counts": [9, 9, 99]}), "not valid statistics"),
    "beyond float32": (spoil("dark", image_mean=[1e39] * 3), "not valid statistics"),
    "beyond measurement": (spoil("dark", image_mean=[1.0, 1e38, 1.0]), "not valid statistics"),
    "far off the others": (spoil("dark", image_m2=[1.0, 1.0, 1e25]), "not valid statistics"),
    "a field more": (spoil("dark", more=[1.0]), "not valid statistics"),
    "infinite samples": (spoil("dark", **{"class-counts": [1e300] * 3}), "not valid statistics"),
    "empty values": (spoil("dark", image_bands=[], more=""), "not valid statistics"),
    "other bands": (spoil("dark", image_bands=["B1", "B2", "B3"]), "not valid statistics"),
    "fewer bands": (
        spoil("dark", **{f"image_{key}": [1.0] for key in ("bands", "count", "mean", "m2")}),
        "not valid statistics",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_unusable_statistics_are_refused_and_left_out(
    stores: dict[str, Path], tmp_path: Path, case: str
) -> None:
    fault, reason = HOSTILE[case]
    grid, asked = federation(stores, tmp_path / "run", fault=fault, join_timeout_s=0.5, rounds=1)
    serve(grid, asked)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["refused"] == {reason: 1}
    assert_pooled(tmp_path / "run", {name: stores[name] for name in ("bright", "noisy")})


def test_too_few_statistics_end_the_run_in_one_line(
    stores: dict[str, Path], tmp_path: Path
) -> None:
    fault, _ = HOSTILE["no numbers"]
    grid, asked = federation(stores, tmp_path / "run", fault=fault, min_sites=3)
    with pytest.raises(RunError, match="only 2 sites reported statistics, and min-sites is 3"):
        serve(grid, asked)
