"""How a process divides its share of a GPU; on a fake one (:mod:`tests.clients.fake_cuda`)."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, RecordDict

from clients.device_memory import TrainingMemory
from clients.site import Site
from fl_app import client_app, gpu_memory
from fl_app.gpu_memory import plan_gpu
from fl_app.models import build_model
from fl_app.settings import Settings
from fl_app.simulation import _gpus_per_site, _sites_at_once
from rsdgc.errors import SettingError
from strategies import messages
from strategies.sites import ModalityInfo
from tests.clients.fake_cuda import GPU, fake_cuda, outside

MB = 10**6
OPTICAL = ModalityInfo("optical", ("red", "green", "blue"), 16)
RADAR = ModalityInfo("radar", ("vv", "vh"), 8)
SIMULATED = {"partition-id": 0, "num-partitions": 3}


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Run on a fake GPU of 160 MB, and list the shares of it that are set as limits."""
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    monkeypatch.setattr(client_app, "choose_device", lambda name: GPU)
    monkeypatch.setattr(client_app, "prepare_model", outside(client_app.prepare_model))
    monkeypatch.setattr(gpu_memory, "estimate_training", outside(gpu_memory.estimate_training))
    client_app.opened_sites.clear()
    client_app.micro_batches.clear()
    with fake_cuda():
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (160 * MB, 160 * MB))
        yield shares
    client_app.opened_sites.clear()
    client_app.micro_batches.clear()


def opened(data: Path, name: str, node: int, **config: Any) -> Site:
    context: Any = SimpleNamespace(
        run_id=1,
        node_config={**SIMULATED, "partition-id": node},
        run_config={"data-dir": str(data), "model": "small-cnn", **config},
    )
    task = RecordDict({messages.TASK: ConfigRecord({messages.SITE: name})})
    message: Any = SimpleNamespace(content=task)
    return client_app._site(context, message)


def test_sites_are_opened_within_their_share(limits: list[float], data: Path) -> None:
    sites = [opened(data, f"site-0{node}", node) for node in range(3)]
    assert limits == [0.25] * 3
    assert list(client_app.opened_sites.values()) == sites
    assert all(site.train.cached_bytes > 0 for site in sites)
    assert {tensor.device for site in sites for tensor in site.model.state_dict().values()} == {GPU}
    assert len({id(site._micro_batches) for site in sites}) == 1
    assert client_app.micro_batches[1].train.chips == 32


def test_where_memory_is_short_chips_are_streamed_and_sites_closed(
    limits: list[float], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = TrainingMemory(12 * MB, 2 * MB, 2 * MB, MB)
    monkeypatch.setattr(gpu_memory, "estimate_training", lambda *_, **__: memory)
    sites = [opened(data, f"site-0{node}", node) for node in range(3)]
    assert list(client_app.opened_sites.values()) == sites[-1:]
    assert client_app.micro_batches[1].train.chips == 20  # 36 MB − 12 − 4, 1 MB each


@pytest.mark.parametrize(
    ("config", "node", "share"),
    [
        ({}, SIMULATED, 0.25),
        ({"sites-per-gpu": 2, "gpu-share": 0.5}, SIMULATED, 0.25),
        ({"sites-per-gpu": 1}, SIMULATED, None),
        ({"gpu-share": 0.5}, {"data-dir": "/srv/data"}, 0.5),
        ({}, {"data-dir": "/srv/data"}, None),
        ({}, {"data-dir": "/srv/data", "gpu-share": 0.25}, 0.25),
        ({"gpu-share": 0.5}, {"data-dir": "/srv/data", "gpu-share": 1}, None),
        ({"sites-per-gpu": 2}, {**SIMULATED, "gpu-share": 0.5}, 0.25),
    ],
)
def test_the_share_of_a_process(
    limits: list[float], config: dict[str, Any], node: dict[str, Any], share: float | None
) -> None:
    model = outside(build_model)("small-cnn", 5, 3, 16)
    settings = Settings.from_mapping({"model": "small-cnn", **config})
    plan = plan_gpu(settings, node, model, [OPTICAL, RADAR], GPU, 16)
    assert limits == ([] if share is None else [share])
    assert plan.sites == (16 if "data-dir" in node else 3)


def test_a_model_that_does_not_fit_is_refused_before_anything_is_loaded(
    limits: list[float], data: Path
) -> None:
    with pytest.raises(SettingError, match=r"needs 0\.\d+ GB of GPU memory .*lower sites-per-gpu"):
        opened(data, "site-00", 0, model="convnext-tiny")


DEPLOYED = {"data-dir": "/srv/data"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "node", "remedy"),
    [
        ({}, SIMULATED, "lower sites-per-gpu, choose a smaller"),
        ({"gpu-share": 0.5}, SIMULATED, "lower sites-per-gpu, raise gpu-share, choose a smaller"),
        ({"sites-per-gpu": 1}, SIMULATED, "choose a smaller"),
        ({}, DEPLOYED, "choose a smaller"),
        ({"gpu-share": 0.5}, DEPLOYED, "raise gpu-share in site.toml, choose a smaller"),
        ({}, DEPLOYED | {"gpu-share": 0.5}, "raise gpu-share in site.toml, choose a smaller"),
    ],
)
def test_the_refusal_names_what_gives_this_process_more_memory(
    limits: list[float], config: dict[str, Any], node: dict[str, Any], remedy: str
) -> None:
    model = outside(build_model)("convnext-tiny", 5, 3, 16)
    settings = Settings.from_mapping({"model": "convnext-tiny", **config})
    with pytest.raises(SettingError, match=f"this site may take [^:]*: {remedy}"):
        plan_gpu(settings, node, model, [OPTICAL, RADAR], GPU, 16)


@pytest.mark.parametrize("share", [0, 1.5, -0.5, float("nan"), "half", True])
def test_a_share_of_a_node_that_is_none_is_refused(limits: list[float], share: object) -> None:
    model = outside(build_model)("small-cnn", 5, 3, 16)
    settings = Settings.from_mapping({"model": "small-cnn"})
    with pytest.raises(SettingError, match=f"this node's gpu-share is '{share}': .* such as 0.5"):
        plan_gpu(settings, DEPLOYED | {"gpu-share": share}, model, [OPTICAL], GPU, 16)


@pytest.mark.slow
def test_a_smaller_micro_batch_is_announced(
    limits: list[float], data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="flwr"):
        opened(data, "site-00", 0, model="resnet18", **{"sites-per-gpu": 1, "batch-size": 4096})
    lines = [record.getMessage() for record in caplog.records]
    assert any("training takes about" in line for line in lines)
    assert any("the gradients of batches of 4096 are added up" in line for line in lines)


def test_on_a_cpu_sites_are_closed_while_memory_is_short(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter([10**9, 0, 0, 10**9])  # for the second site, then for the third
    monkeypatch.setattr(client_app, "free_bytes", lambda device: next(free))
    client_app.opened_sites.clear()
    sites = [opened(data, f"site-0{node}", node, device="cpu") for node in range(2)]
    assert list(client_app.opened_sites.values()) == sites
    sites.append(opened(data, "site-02", 2, device="cpu"))
    client_app.opened_sites.clear()
    assert next(free) == 10**9  # there was nothing left to close
    assert len(sites) == 3


@pytest.mark.parametrize("sites_per_gpu", [1, 2, 3, 4, 7, 16])
def test_as_many_sites_as_asked_fit_on_a_gpu(sites_per_gpu: int) -> None:
    share = _gpus_per_site(sites_per_gpu)
    assert sites_per_gpu * share <= 1 < (sites_per_gpu + 1) * share


@pytest.mark.parametrize(
    ("num_sites", "cpus_per_site", "gpu_places", "at_once"),
    [(9, 1, 0, 8), (9, 2, 0, 4), (3, 2, 0, 3), (9, 16, 0, 1), (9, 1, 4, 4), (3, 1, 4, 3)],
)
def test_cpus_and_places_on_gpus_limit_how_many_sites_work_in_parallel(
    num_sites: int,
    cpus_per_site: int,
    gpu_places: int,
    at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert _sites_at_once(num_sites, cpus_per_site, gpu_places) == at_once
