"""The device that a setting names.

One round of local training: SGD with momentum, a fresh optimizer each round.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812  # the name everyone knows it by
from torch import nn
from torch.optim.sgd import sgd

from clients.augment import drop_bands, flips_and_quarter_turns, jitter
from rsdgc.errors import RunError, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from clients.loader import SplitLoader


DEVICES = ("auto", "cpu", "cuda")


def choose_device(name: str) -> torch.device:
    """Return the device to train on.

    Parameters
    ----------
    name : {"auto", "cpu", "cuda"}
        ``"auto"`` (CUDA where there is one, else the CPU), ``"cpu"`` or ``"cuda"``.

    Raises
    ------
    SettingError
        The name is unknown, or CUDA is asked for and absent.
    """
    if name not in DEVICES:
        raise SettingError(f"device {name!r} is unknown: choose one of {', '.join(DEVICES)}")
    if name == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if name == "cuda":
        raise SettingError("device 'cuda' is not available on this machine: set device to 'auto'")
    return torch.device("cpu")


@dataclass(frozen=True)
class TrainSettings:
    """How a site trains in one round.

    ::

        TrainSettings(lr=0.05)                          one epoch
        TrainSettings(lr=0.05, epochs=5)                five
        TrainSettings(lr=0.05, steps=20)                twenty batches, however many epochs that is
        TrainSettings(lr=0.05, clip_norm=5.0)           gradients clipped at an L2 norm of 5

    Parameters
    ----------
    lr : float
        Learning rate of this round; its schedule over the rounds is the server's.
    momentum, weight_decay : float
        Of SGD. The momentum starts from zero each round.
    batch_size : int
        Chips a step; the last batch of an epoch may have fewer.
    epochs : int
        Passes over the split.
    steps : int
        If above 0, that many steps instead of `epochs`.
    clip_norm : float
        Largest L2 norm of a step's gradient, over all parameters; 0 for no limit.
    augment : bool
        Flips and quarter turns.
    jitter, band_dropout : float
        Strength of the change of every band's gain and offset, and the probability that a band of
        a chip is left out; 0 for neither.
    amp : bool
        Mixed precision with bfloat16, on GPUs that have it; float32 elsewhere.

    Raises
    ------
    SettingError
        A value is out of range.
    """

    lr: float
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 32
    epochs: int = 1
    steps: int = 0
    clip_norm: float = 5.0
    augment: bool = True
    amp: bool = False
    jitter: float = 0.0
    band_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, value, fits, range_ in (
            ("lr", self.lr, 0 < self.lr < math.inf, "above 0"),
            ("momentum", self.momentum, 0 <= self.momentum < 1, "from 0 to below 1"),
            ("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "0 or above"),
            ("batch_size", self.batch_size, self.batch_size >= 1, "1 or above"),
            ("epochs", self.epochs, self.epochs >= 1 or self.steps > 0, "1 or above"),
            ("steps", self.steps, self.steps >= 0, "0 or above"),
            ("jitter", self.jitter, 0 <= self.jitter < math.inf, "0 or above"),
            ("band_dropout", self.band_dropout, 0 <= self.band_dropout < 1, "from 0 to below 1"),
            ("clip_norm", self.clip_norm, 0 <= self.clip_norm < math.inf, "0 or above"),
        ):
            if not fits:
                raise SettingError(f"{name} = {value} is out of range: it must be {range_}")


@dataclass(frozen=True)
class TrainReport:
    """What a round of training did.

    Parameters
    ----------
    loss : float
        Mean cross-entropy over the samples seen, in nats.
    samples, steps : int
        Seen and taken.
    seconds : float
        Wall clock.
    """

    loss: float
    samples: int
    steps: int
    seconds: float


def train(
    model: nn.Module, partition: SplitLoader, settings: TrainSettings, seed: int
) -> TrainReport:
    """Train the model in place on a split.

    Parameters
    ----------
    model : torch.nn.Module
        On the partition's device.
    partition : Partition
        The site's training split.
    settings : TrainSettings
        Of this round.
    seed : int
        Of order, augmentation and dropout: on the CPU, with one thread count, the same seed gives
        the same weights to the bit. The process's own random numbers are left as they were.

    Raises
    ------
    RunError
        The loss or the weights are no longer finite.
    """
    begin = time.perf_counter()
    model.train()
    step = _Step(model, partition.device, settings)
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros((), device=partition.device)
    samples = steps = 0
    with _seeded(partition.device, seed):
        for x, y in _batches(partition, settings, seed):
            x = _augmented(x, settings, generator)  # noqa: PLW2901  # a stage, not a new x
            total += step(x, y) * len(y)
            samples, steps = samples + len(y), steps + 1
    # Looked at once, at the end: asking a GPU for every step's loss would stall it.
    loss = float(total) / samples
    _check_finite(model, loss, settings.lr)
    return TrainReport(loss, samples, steps, time.perf_counter() - begin)


def _augmented(x: Tensor, settings: TrainSettings, generator: torch.Generator) -> Tensor:
    if settings.augment:
        x = flips_and_quarter_turns(x, generator)
    if settings.jitter:
        x = jitter(x, settings.jitter, generator)
    return drop_bands(x, settings.band_dropout, generator) if settings.band_dropout else x


class _Step:
    """Forward, backward, clip, update; in mixed precision where asked and possible.

    The update is :func:`torch.optim.sgd.sgd`, what ``torch.optim.SGD`` calls: making one of those
    imports PyTorch's compiler, longer than a small site trains, in every message's process.
    """

    def __init__(self, model: nn.Module, device: torch.device, settings: TrainSettings) -> None:
        self._model = model
        self._settings = settings
        self._parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self._momenta: list[Tensor | None] = [None] * len(self._parameters)
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        self._amp = settings.amp and has_bf16

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        with (
            _lone_chip(self._model, len(y)),
            torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=self._amp),
        ):
            loss = F.cross_entropy(self._model(x).float(), y)
        torch.autograd.backward(loss)
        if self._settings.clip_norm > 0:
            nn.utils.clip_grad_norm_(self._parameters, self._settings.clip_norm)
        self._update()
        return loss.detach()

    @torch.no_grad()
    def _update(self) -> None:
        sgd(
            self._parameters,
            [p.grad for p in self._parameters if p.grad is not None],  # each of them has one
            self._momenta,
            fused=True,
            lr=self._settings.lr,
            momentum=self._settings.momentum,
            weight_decay=self._settings.weight_decay,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        for parameter in self._parameters:
            parameter.grad = None


def _batches(
    partition: SplitLoader, settings: TrainSettings, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    left = settings.steps or settings.epochs * math.ceil(len(partition) / settings.batch_size)
    epoch = 0
    while left > 0:
        for batch in partition.batches(settings.batch_size, _mix(seed, epoch)):
            if left == 0:
                return
            yield batch
            left -= 1
        epoch += 1


def _mix(seed: int, epoch: int) -> int:
    return (seed + epoch * 0x9E3779B97F4A7C15) % 2**63


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed what layers such as dropout draw from, and put everything back after."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        yield


@contextmanager
def _lone_chip(model: nn.Module, batch_size: int) -> Iterator[None]:
    """Let a batch of one chip, which has no statistics of its own, use the running ones."""
    norms = [
        module
        for module in (model.modules() if batch_size == 1 else ())
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training  # noqa: SLF001
    ]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


def _check_finite(model: nn.Module, loss: float, lr: float) -> None:
    if not math.isfinite(loss):
        what = f"the training loss became {loss}"
    elif not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        what = "the weights became infinite"
    else:
        return
    raise RunError(f"{what} at a learning rate of {lr:g}: lower it, or clip the gradients")
