"""One node of the experiment: its share of the images, and its training over all steps."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812  # the name everyone knows it by
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.reproduce.experiments import Experiment
from benchmarks.reproduce.gradient_methods import compression, find_method
from clients.augment import flips_and_quarter_turns
from clients.evaluation import score_model
from clients.loader import Chips, SplitLoader
from clients.memory_format import format_chips, place_model
from data_prep.dataset import Dataset, open_data
from data_prep.ingest.class_folders import ingest_class_folders
from fl_app.data_loaders import normalizations
from fl_app.models import build_model
from rsdgc.errors import RsdgcError, RunError, SettingError
from rsdgc.torch import NsiState, nsi_hook


def open_images(data: Path, px: int, test_share: float, store: Path) -> Dataset:
    """Open a store, a partition, or class folders, which are ingested into ``store`` once."""
    if any((data / name).exists() for name in ("meta.json", "partition.json")):
        return open_data(data)
    if not (store / "meta.json").exists():
        ingest_class_folders(data, store, chip_px=px, test_share=test_share)
    return open_data(store)


class Resized(nn.Module):
    """A network whose images are resized first, by the mean of the pixels where they shrink."""

    def __init__(self, network: nn.Module, px: int) -> None:
        super().__init__()
        self.network = network
        self._px = px

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (n, K)."""
        if images.shape[-1] > self._px:
            images = F.interpolate(images, size=(self._px, self._px), mode="area")
        elif images.shape[-1] < self._px:
            images = F.interpolate(images, size=(self._px, self._px), mode="bilinear")
        logits: Tensor = self.network(images)
        return logits


class Node:
    """A process of the group, with its share of the training split.

    Parameters
    ----------
    dataset : Dataset
        All images; their split is that of the store.
    device : torch.device
        Where this node trains.
    """

    def __init__(self, dataset: Dataset, device: torch.device) -> None:
        self.rank, self.nodes = dist.get_rank(), dist.get_world_size()
        self.device = device
        self._store = dataset.store
        self._dataset = dataset

    def run(self, method: str, times: float, seed: int, experiment: Experiment) -> dict[str, Any]:
        """Train with a method from a seed, and return the figures; the same on all nodes."""
        start = time.monotonic()
        train = self._split("train", seed)
        if len(train) < experiment.batch_size:
            raise SettingError(
                f"a node has {len(train)} training images and batch_size={experiment.batch_size}: "
                "set a smaller batch_size, or fewer nodes"
            )
        classes, bands = len(self._store.classes), self._store.num_bands
        network = build_model(experiment.model, bands, classes, experiment.px, seed)
        model = place_model(Resized(network, experiment.px), self.device)
        parallel = DistributedDataParallel(model)
        steps = max(1, round(experiment.epochs * (len(train) // experiment.batch_size)))
        state, momentum = self._register(parallel, method, times, seed, experiment, steps)
        decay = experiment.weight_decay
        if not momentum:
            decay /= 1 - experiment.momentum  # momentum would multiply the decay's steps, too
        optimizer = torch.optim.SGD(
            model.parameters(), experiment.learning_rate, momentum, weight_decay=decay
        )
        losses = []
        try:
            for step, (images, y) in enumerate(self._batches(train, experiment, seed, steps)):
                for group in optimizer.param_groups:
                    group["lr"] = _rate(experiment.learning_rate, step, steps)
                optimizer.zero_grad()
                loss = F.cross_entropy(parallel(*format_chips(images, model)), y)
                loss.backward()  # type: ignore[no-untyped-call]
                if state is None and experiment.clip_norm:
                    nn.utils.clip_grad_norm_(model.parameters(), experiment.clip_norm)
                optimizer.step()
                losses.append(loss.detach())
        except RsdgcError as error:  # all nodes raise it, so they go on together
            return {"failed": str(error)}
        self._check_equal(model)
        dense_bytes = 4 * steps * sum(p.numel() for p in model.parameters())
        last = torch.stack(losses[-max(1, steps // 10) :]).mean()
        dist.all_reduce(last)
        score = score_model(model, self._split("test"), classes) if self.rank == 0 else None
        figures: dict[str, Any] = {
            "steps": steps,
            "train_loss": round(float(last) / self.nodes, 4),
            "bytes_sent": dense_bytes if state is None else state.bytes_sent,
            "dense_bytes": dense_bytes,
            "seconds": round(time.monotonic() - start, 1),
        }
        if score is not None:
            right = float(np.trace(score.confusion)) / score.samples
            figures |= {"accuracy": right, "test_loss": round(score.loss, 4)}
        return figures

    def _register(
        self,
        parallel: DistributedDataParallel,
        method: str,
        times: float,
        seed: int,
        experiment: Experiment,
        steps: int,
    ) -> tuple[NsiState | None, float]:
        """Register a method's hook; return its state and the optimizer's momentum."""
        chosen = find_method(method)
        if chosen is None:
            return None, experiment.momentum
        dense_bytes = 4 * sum(p.numel() for p in parallel.parameters())
        settings = compression(
            *(chosen, experiment),
            times=times,
            steps=steps,
            dense_bytes=dense_bytes,
            # Nodes draw different random elements, so that they send more of them together.
            seed=seed * self.nodes + self.rank,
        )
        state = NsiState(parallel, settings)
        parallel.register_comm_hook(state, nsi_hook)
        return state, 0.0 if chosen.momentum == "correction" else experiment.momentum

    def _split(self, name: str, seed: int | None = None) -> SplitLoader:
        """Return a split; with a seed this node's share of it, which is as large as the others'."""
        parts = [self._dataset.site(site).split(name) for site in self._dataset.sites]
        chips = np.concatenate([chips for chips, _ in parts])
        labels = np.concatenate([labels for _, labels in parts])
        if seed is not None:
            order: NDArray[np.int64] = np.random.default_rng(seed).permutation(len(chips))
            own = order[self.rank :: self.nodes][: len(chips) // self.nodes]
            chips, labels = chips[own], labels[own]
        by_modality = normalizations(self._store.meta.modalities)
        return SplitLoader(self._store, chips, labels, by_modality, self.device)

    def _batches(
        self, split: SplitLoader, experiment: Experiment, seed: int, steps: int
    ) -> Iterator[tuple[Chips, Tensor]]:
        generator = torch.Generator().manual_seed(seed * self.nodes + self.rank)
        epoch = done = 0
        while done < steps:
            order = (seed * 10_000 + epoch) * self.nodes + self.rank
            for images, y in split.batches(experiment.batch_size, order):
                if len(y) < experiment.batch_size or done == steps:
                    break  # all nodes take the same number of steps
                yield (
                    flips_and_quarter_turns(images, generator) if experiment.augment else images,
                    y,
                )
                done += 1
            epoch += 1

    def _check_equal(self, model: nn.Module) -> None:
        """Raise :class:`RunError` unless all nodes hold the same weights to the bit."""
        digest = hashlib.sha256()
        for parameter in model.parameters():
            digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
        digests: list[str] = [""] * self.nodes
        dist.all_gather_object(digests, digest.hexdigest())
        if len(set(digests)) > 1:
            raise RunError("the nodes' weights differ after training: this is a fault of the hook")


def _rate(largest: float, step: int, steps: int) -> float:
    return largest * 0.5 * (1 + math.cos(math.pi * step / steps))
