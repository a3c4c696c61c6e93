"""Methods as published: in rounds of one step they are the published algorithms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import MessageType
from torch import nn
from torch.nn import functional

from clients.memory_format import format_chips
from clients.model_parts import ModelParts
from data_prep.dataset import open_data
from fl_app.data_loaders import load_split
from fl_app.methods import METHODS
from fl_app.models import build_model
from fl_app.settings import Settings
from rsdgc import ModelSpec
from rsdgc.arrays import Float32, Float64
from rsdgc.indicators import L1, NSI
from rsdgc.scheme import Scheme
from strategies import messages
from tests.federation import make_data, run, settings
from tests.fl_app.test_server_app import model_of

RATE = 0.02
ONE_STEP: dict[str, Any] = {
    "local_steps": 1,
    "batch_size": 64,  # more than a site has: each gradient is that of all its chips
    "learning_rate": RATE,
    "lr_schedule": "constant",
    "weight_decay": 0,
    "augment": False,
    "clip_updates": 0,
    "rounds": 4,
}


@pytest.fixture(scope="module")
def two_sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("two"), sites=2)


class Reference:
    """The gradients of the sites at any weights, by PyTorch alone."""

    def __init__(self, data: Path) -> None:
        dataset = open_data(data)
        store = dataset.store
        self.model = build_model("small-cnn", store.num_bands, 3, store.chip_px, 0)
        self.parts = ModelParts(self.model)
        self.spec: ModelSpec = self.parts.spec
        cpu = torch.device("cpu")
        self.splits = [load_split(dataset, site, "train", cpu) for site in dataset.sites]
        chips = [len(split) for split in self.splits if split]
        self.shares = np.array(chips) / sum(chips)
        self.weights: Float32 = self.parts.vector()

    def gradient(self, index: int, clip_norm: float) -> Float32:
        self.parts.load_vector(self.weights)
        self.model.train()
        self.model.zero_grad()
        split = self.splits[index]
        assert split is not None
        ((chips, y),) = split.batches(64, 0)
        functional.cross_entropy(self.model(*format_chips(chips, self.model)), y).backward()
        if clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), clip_norm)
        grads = [p.grad.reshape(-1) for p in self.model.parameters() if p.grad is not None]
        return torch.cat(grads).numpy()


def published_algorithm(
    data: Path, method: str, all_ratios: list[Float64], clip_norm: float, momentum: float
) -> tuple[Float32, Float32]:
    """Algorithm 1 of Deep Gradient Compression, and the same with NSI of p×p tiles.

    Returns the weights before and after the rounds.
    """
    reference = Reference(data)
    spec, start = reference.spec, reference.weights.copy()
    scheme = Scheme("element" if method == "dgc" else "tile", values="float32")
    indicator = L1() if method == "dgc" else NSI()
    velocities = [np.zeros(spec.size, np.float32) for _ in reference.splits]
    residuals = [np.zeros(spec.size, np.float32) for _ in reference.splits]
    for ratios in all_ratios:
        step = np.zeros(spec.size, np.float32)
        for index, share in enumerate(reference.shares):
            velocity, residual = velocities[index], residuals[index]
            velocity *= momentum
            velocity -= np.float32(RATE) * reference.gradient(index, clip_norm)
            residual += velocity
            views = (spec.views(v) for v in (residual, velocity, step))
            for layer, ratio, of_residual, of_velocity, of_step in zip(
                spec.layers, ratios, *views, strict=True
            ):
                cut = scheme.cut(layer.shape)
                kept = max(1, round(ratio * cut.count))
                best = np.argsort(-indicator.score(of_residual, cut), kind="stable")[:kept]
                mask = np.zeros(layer.size, bool)
                mask[cut.elements(np.sort(best))] = True
                of_step[mask] += np.float32(share) * of_residual[mask]
                of_residual[mask] = 0  # what is left
                of_velocity[mask] = 0  # factor masking
        reference.weights += step
    return start, reference.weights


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dgc", "rs-dgc-paper", "rs-dgc-static"])
def test_rounds_of_one_step_are_the_published_algorithm(
    two_sites: Path, tmp_path: Path, method: str
) -> None:
    """Momentum correction, factor masking and clipping, beside an implementation of ten lines."""
    clip_norm = 0.5  # below the gradients' norms, so that it matters
    chosen = settings(
        two_sites, tmp_path / "run", method=method, budget="20x", clip_norm=clip_norm, **ONE_STEP
    )
    grid = run(chosen, nodes=2)
    ratios = {}
    for message in grid.seen:
        task = message.content.config_records[messages.TASK]
        if message.metadata.message_type == MessageType.TRAIN:
            ratios[task[messages.ROUND]] = np.array(task[messages.RATIOS])
            scale = task.get(messages.CLIP_SCALE, 1.0)
            assert scale == pytest.approx(0.5**0.5 if method == "dgc" else 1)
    assert len(ratios) == 4
    assert ratios[1].mean() > ratios[4].mean()  # warm-up
    start, expected = published_algorithm(
        two_sites, method, list(ratios.values()), clip_norm * scale, 0.9
    )
    trained = model_of(tmp_path / "run")
    spec = Reference(two_sites).spec
    actual = np.concatenate([trained[layer.name].reshape(-1) for layer in spec.layers])
    distance = np.linalg.norm(expected - start)
    assert distance > 0.01
    # Sums in another order choose another one of two neighborhoods that are equally large.
    assert np.linalg.norm(actual - expected) < 0.01 * distance


def test_server_momentum_makes_dense_rounds_of_one_step_sgd_with_momentum(
    two_sites: Path, tmp_path: Path
) -> None:
    """The remedy of the warning that a new optimizer in each round has no momentum."""
    chosen = settings(
        *(two_sites, tmp_path / "run"),
        **{"method": "fedavg", "momentum": 0, "server_momentum": 0.9, "clip_norm": 0, **ONE_STEP},
    )
    run(chosen, nodes=2)
    reference = Reference(two_sites)
    weights = torch.nn.Parameter(torch.from_numpy(reference.weights))
    optimizer = torch.optim.SGD([weights], lr=RATE, momentum=0.9)
    for _ in range(4):
        gradients = [reference.gradient(i, 0) for i in range(len(reference.splits))]
        weights.grad = torch.from_numpy(
            np.sum([share * g for share, g in zip(reference.shares, gradients, strict=True)], 0)
        ).float()
        optimizer.step()
    trained = model_of(tmp_path / "run")
    actual = np.concatenate([trained[x.name].reshape(-1) for x in reference.spec.layers])
    np.testing.assert_allclose(actual, weights.detach().numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_momentum_of_the_optimizer_and_of_the_correction_are_never_both_on(name: str) -> None:
    chosen = Settings.from_mapping({"method": name})
    assert (chosen.resolved("momentum") > 0) != (chosen.resolved("momentum_correction") > 0)


@pytest.mark.parametrize(
    ("given", "momentum"),
    [
        ({"method": "topk", "momentum-correction": 0.5}, 0.0),
        ({"method": "topk", "momentum-correction": 0.5, "momentum": 0.3}, 0.3),
        ({"method": "dgc", "momentum-correction": 0}, 0.9),
        ({"method": "dgc", "optimizer": "adamw"}, 0.9),
        ({"method": "fedavg", "momentum-correction": 0.5}, 0.9),  # it has no correction
        ({"momentum": "0.7"}, 0.7),
    ],
)
def test_momentum_correction_takes_the_place_of_the_optimizers_momentum(
    given: dict[str, Any], momentum: float
) -> None:
    assert Settings.from_mapping(given).resolved("momentum") == momentum


@pytest.mark.parametrize(
    ("method", "down", "final"),
    [("rs-dgc", "67x", "10x"), ("topk", "67x", "10x"), ("dgc", "1x", "1x")],
)
def test_methods_as_published_compress_the_upload_alone(method: str, down: str, final: str) -> None:
    chosen = Settings.from_mapping({"method": method})
    assert (chosen.resolved("budget_down"), chosen.resolved("budget_final")) == (down, final)
    asked = Settings.from_mapping({"method": method, "budget-down": "50x", "budget-final": "5x"})
    assert (asked.resolved("budget_down"), asked.resolved("budget_final")) == ("50x", "5x")
