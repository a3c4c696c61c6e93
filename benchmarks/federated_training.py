"""Federated training in one process, without Flower: the sites' changes, and a model's accuracy."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from clients.evaluation import score_model
from clients.model_parts import ModelParts
from clients.training import train
from data_prep.dataset import Dataset
from fl_app.client_app import train_settings
from fl_app.models import build_model
from fl_app.settings import Settings
from fl_app.site_data import load_split

Flat = NDArray[np.float32]
MODEL = "small-resnet"
ROUNDS = 60
"""Rounds of the learning rate's schedule."""


class Federation:
    """The sites of a partition and one model for all, on the CPU.

    Attributes
    ----------
    start : float32 [spec.size]
        The model before training.
    shares : list of float
        Weight of every site in the mean: its share of the training chips.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        store = dataset.store
        self._settings = Settings.from_mapping({"rounds": ROUNDS, "seed": seed})
        self._classes = len(store.classes)
        model = build_model(MODEL, store.num_bands, self._classes, store.chip_px, seed)
        self._model = model.to(memory_format=torch.channels_last)
        self._parts = ModelParts(self._model)
        self.spec = self._parts.spec
        self.start: Flat = self._parts.vector()
        device = torch.device("cpu")
        self._train, self._test = (
            [part for site in dataset.sites if (part := load_split(dataset, site, name, device))]
            for name in ("train", "test")
        )
        total = sum(len(part) for part in self._train)
        self.shares = [len(part) / total for part in self._train]

    def rate(self, number: int) -> float:
        """Return the learning rate of a round."""
        return self._settings.learning_rate_at(number)

    def changes(self, weights: Flat, number: int) -> tuple[list[Flat], float]:
        """Train every site from the same weights; return the changes and the mean loss."""
        changes, loss = [], 0.0
        for index, (part, share) in enumerate(zip(self._train, self.shares, strict=True)):
            self._parts.load_vector(weights)
            settings = train_settings(self._settings, self.rate(number))
            report = train(self._model, part, settings, seed=1000 * number + index)
            changes.append(self._parts.vector() - weights)
            loss += share * report.loss
        return changes, loss

    def mean(self, updates: list[Flat]) -> Flat:
        """Return the weighted mean of the sites' updates."""
        step = np.zeros_like(self.start)
        for share, update in zip(self.shares, updates, strict=True):
            step += update * np.float32(share)
        return step

    def accuracy(self, weights: Flat) -> float:
        """Score a model on the test chips of all sites."""
        self._parts.load_vector(weights)
        confusion = sum(
            score_model(self._model, part, self._classes).confusion for part in self._test
        )
        return float(np.trace(confusion) / np.sum(confusion))
