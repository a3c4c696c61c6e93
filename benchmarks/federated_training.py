"""Federated training in one process, without Flower: the sites' changes, and a model's accuracy."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from clients.evaluation import score_model
from clients.loader import SplitLoader
from clients.memory_format import place_model
from clients.model_parts import ModelParts
from clients.training import TrainReport, train
from data_prep.dataset import Dataset
from fl_app.data_loaders import load_split, normalizations
from fl_app.models import build_model
from fl_app.settings import Settings
from fl_app.task_records import train_settings

Flat = NDArray[np.float32]
MODEL = "small-resnet"
ROUNDS = 60
"""Rounds of the learning rate's schedule."""
DEVICE = torch.device("cpu")


class Federation:
    """The sites of a partition and one model for all, on the CPU.

    Parameters
    ----------
    dataset : Dataset
        The partition.
    seed : int
        Seed of the model.
    model : str
        Name of the model.
    rounds : int
        Rounds of the learning rate's schedule.
    epochs : int
        Local epochs a round.

    Attributes
    ----------
    names : list of str
        The sites that have training chips.
    start : float32 [spec.size]
        The model before training.
    chips : list of int
        Training chips of every site.
    shares : list of float
        Weight of every site in the mean: its share of the training chips.
    """

    def __init__(
        self,
        dataset: Dataset,
        seed: int,
        model: str = MODEL,
        rounds: int = ROUNDS,
        epochs: int = 1,
    ) -> None:
        store = dataset.store
        self._dataset = dataset
        self._settings = Settings.from_mapping(
            {"rounds": rounds, "seed": seed, "local-epochs": epochs}
        )
        self._classes = len(store.classes)
        built = build_model(model, store.num_bands, self._classes, store.chip_px, seed)
        self._model = place_model(built, DEVICE)
        self._parts = ModelParts(self._model)
        self.spec = self._parts.spec
        self.start: Flat = self._parts.vector()
        splits = {
            name: [(site, load_split(dataset, site, name, DEVICE)) for site in dataset.sites]
            for name in ("train", "test")
        }
        self.names = [site for site, part in splits["train"] if part]
        self._train = [part for _, part in splits["train"] if part]
        self._test = [part for _, part in splits["test"] if part]
        self.chips = [len(part) for part in self._train]
        self.shares = [chips / sum(self.chips) for chips in self.chips]

    def rate(self, number: int) -> float:
        """Return the learning rate of a round."""
        return self._settings.learning_rate_at(number)

    def changes(self, weights: Flat, number: int) -> tuple[list[Flat], float]:
        """Train every site from the same weights; return the changes and the mean loss."""
        changes, loss = [], 0.0
        for index, share in enumerate(self.shares):
            change, report = self.change(index, weights, number)
            changes.append(change)
            loss += share * report.loss
        return changes, loss

    def change(
        self, index: int, weights: Flat, number: int, split: SplitLoader | None = None
    ) -> tuple[Flat, TrainReport]:
        """Train one site from these weights, on its own split or another."""
        self._parts.load_vector(weights)
        settings = train_settings(self._settings, self.rate(number))
        part = split or self._train[index]
        report = train(self._model, part, settings, seed=1000 * number + index)
        return self._parts.vector() - weights, report

    def with_flipped_labels(self, index: int) -> SplitLoader:
        """Return a site's training split with the label K - 1 - y instead of y, of K classes."""
        view = self._dataset.site(self.names[index])
        chips, labels = view.split("train")
        return SplitLoader(
            view.store,
            chips,
            self._classes - 1 - labels,
            normalizations(view.store.meta.modalities),
            DEVICE,
        )

    def mean(self, updates: list[Flat]) -> Flat:
        """Return the weighted mean of the sites' updates."""
        step = np.zeros_like(self.start)
        for share, update in zip(self.shares, updates, strict=True):
            step += update * np.float32(share)
        return step

    def accuracy(self, weights: Flat) -> float:
        """Score a model on the test chips of all sites."""
        return self.score(weights)[0]

    def score(self, weights: Flat) -> tuple[float, float]:
        """Return accuracy and mean loss of a model on the test chips of all sites."""
        self._parts.load_vector(weights)
        scores = [score_model(self._model, part, self._classes) for part in self._test]
        confusion = np.sum([score.confusion for score in scores], axis=0)
        samples = sum(score.samples for score in scores)
        loss = sum(score.loss * score.samples for score in scores) / samples
        return float(np.trace(confusion) / samples), loss
