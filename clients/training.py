"""One round of local training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  # the name everyone knows it by
from torch import Tensor, nn

from clients.acceleration import MixedPrecision, half_type
from clients.augment import crop, drop_bands, drop_modalities, flips_and_quarter_turns, jitter
from clients.loader import Chips, SplitLoader
from clients.memory_format import format_chips
from clients.micro_batch import MicroBatch, Part
from clients.model_parts import set_training_mode, single_chip
from clients.optimizers import OPTIMIZERS
from rsdgc.errors import RunError, SettingError

LARGEST_PULL = 2.0
"""Product of the learning rate and a pull on the weights beyond which gradient descent diverges."""
LARGEST_JITTER = 10.0
"""Jitter beyond which chips are far from what any network is trained on."""

DEVICES = ("auto", "cpu", "cuda")


def choose_device(name: str) -> torch.device:
    """Return the device to train on; ``"auto"`` is CUDA if the machine has it, else the CPU.

    Raises :class:`SettingError` if the name is unknown, or the machine has no such device.
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


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How a site trains in one round.

    The defaults and the ranges stand in :class:`fl_app.settings.Settings`; here every value must be
    given.
    """

    optimizer: str  #: a name of :data:`clients.optimizers.OPTIMIZERS`; new in each round
    lr: float  #: learning rate of this round; the server has its schedule over the rounds
    #: momentum, weight_decay: what :class:`clients.optimizers.Optimizer` makes of them
    momentum: float
    weight_decay: float
    batch_size: int  #: chips in a step; the last batch of an epoch may have fewer
    #: epochs, steps: passes over the split; if `steps` is above 0, that many steps instead
    epochs: int
    steps: int
    clip_norm: float  #: largest L2 norm of a step's gradient, over all parameters; 0 for no limit
    augment: bool  #: whether to flip and turn chips at random
    crop: float  #: smallest share of a chip's area that a random crop keeps; 1 for no crops
    amp: bool  #: mixed precision on GPUs (:mod:`clients.acceleration`); float32 elsewhere
    #: standard deviation of the random change of every band's gain and offset; 0 for none
    jitter: float
    band_dropout: float  #: probability that a band of a chip is left out; 0 for none
    modality_dropout: float  #: probability that a modality of a batch is left out; 0 for none
    label_smoothing: float  #: share of a label that is spread evenly over all classes
    #: whether each class of the split counts the same in the loss, however many chips it has
    balanced_loss: bool
    #: whether batches draw each class of the split with the same probability, with replacement
    balanced_batches: bool
    proximal: float  #: μ of FedProx; 0 for none


@dataclass(frozen=True)
class TrainReport:
    """Mean loss over the samples seen, in nats; samples, once per epoch; and steps.

    The loss is the cross-entropy as the settings have it, without FedProx's term.
    """

    loss: float
    samples: int
    steps: int


def train(
    model: nn.Module,
    split: SplitLoader,
    settings: TrainSettings,
    seed: int,
    micro_batch: MicroBatch | None = None,
) -> TrainReport:
    """Train the model in place on a split, on the split's device.

    The seed is that of order, augmentation and dropout. On the CPU, with one thread count, the same
    seed yields the same weights to the bit. The process's global random state is restored.

    ``micro_batch`` says how many chips go through the model at once, and learns it if memory runs
    out. The gradients of a batch's parts add up to the batch's own, but for networks with batch
    normalization, which then normalizes each part by the part's statistics.

    Raises
    ------
    RunError
        The loss or the weights are no longer finite, or one chip, or the optimizer's state, is too
        much for the memory.
    """
    set_training_mode(model)
    micro_batch = micro_batch or MicroBatch()
    with micro_batch.explaining(split.device):  # for FedProx's copy of the model
        step = _Step(model, split, settings, micro_batch)
    generator = torch.Generator().manual_seed(seed)
    loss_sum, counted = torch.zeros(2, device=split.device)
    samples = steps = 0
    with _seeded(split.device, seed), micro_batch.explaining(split.device):
        for chips, y in _batches(split, settings, seed):
            augmented = _augmented(chips, settings, generator, centered=split.centered)
            loss = step(augmented, y)
            if step.precision.may_skip:
                finite = torch.isfinite(loss)
                loss = torch.where(finite, loss, 0)
                counted += finite * len(y)
            loss_sum += loss * len(y)
            samples, steps = samples + len(y), steps + 1
    # Read once, at the end: reading every step's loss would stall a GPU.
    mean_loss = float(loss_sum / counted) if step.precision.may_skip else float(loss_sum) / samples
    if not math.isfinite(mean_loss):
        raise _diverged(f"the training loss became {mean_loss}", settings)
    if not bool(torch.stack([torch.isfinite(p).all() for p in model.parameters()]).all()):
        raise _diverged("the weights became infinite", settings)
    return TrainReport(mean_loss, samples, steps)


def _augmented(
    chips: Chips, settings: TrainSettings, generator: torch.Generator, *, centered: bool
) -> Chips:
    if settings.augment:
        chips = flips_and_quarter_turns(chips, generator)
    if settings.crop < 1:
        chips = crop(chips, settings.crop, generator, centered=centered)
    if settings.jitter:
        chips = jitter(chips, settings.jitter, generator)
    if settings.band_dropout:
        chips = drop_bands(chips, settings.band_dropout, generator)
    if settings.modality_dropout:
        chips = drop_modalities(chips, settings.modality_dropout, generator)
    return chips


class _Step:
    """Forward, backward, clip, update; in mixed precision if it is set and the device has it."""

    def __init__(
        self,
        model: nn.Module,
        split: SplitLoader,
        settings: TrainSettings,
        micro_batch: MicroBatch,
    ) -> None:
        self._model = model
        self._micro_batch = micro_batch
        self._settings = settings
        self._optimizer = OPTIMIZERS[settings.optimizer](
            model,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        self._class_weights = _balanced_weights(split) if settings.balanced_loss else None
        # The only copy of what training starts from: the received model, or a step ahead of it.
        self._start = [p.detach().clone() for p in self._parameters] if settings.proximal else []
        self.precision = MixedPrecision(
            split.device, half_type(split.device) if settings.amp else None
        )

    @property
    def _parameters(self) -> list[Tensor]:
        return self._optimizer.parameters

    def __call__(self, chips: Chips, y: Tensor) -> Tensor:
        loss = self._micro_batch.run(self._backward, chips, y)
        self._update()
        return loss

    def _backward(self, parts: list[Part]) -> Tensor:
        """Compute the gradients of a batch, part by part, and return its loss."""
        for parameter in self._parameters:
            parameter.grad = None  # of a try that ran out of memory
        losses = []
        for chips, y in parts:
            single = single_chip(self._model) if len(y) == 1 else nullcontext()
            with single:  # the way back, too, where activation checkpoints compute layers again
                with self.precision.forward():
                    # In float32: a softmax of bfloat16 logits has two or three digits.
                    logits = self._model(*format_chips(chips, self._model))
                    loss = self._loss(logits.float(), y)
                if len(parts) > 1:
                    loss = loss * (len(y) / sum(len(labels) for _, labels in parts))
                self.precision.backward(loss)
            losses.append(loss.detach())
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        smoothing = self._settings.label_smoothing
        if self._class_weights is None:
            return F.cross_entropy(logits, y, label_smoothing=smoothing)
        # Not divided by the sum of the weights in the batch, as PyTorch would do: a chip then
        # counts the same whatever comes with it.
        losses = F.cross_entropy(logits, y, label_smoothing=smoothing, reduction="none")
        return (losses * self._class_weights[y]).mean()

    def _update(self) -> None:
        """Change the parameters by the gradients of a batch."""
        self.precision.unscale(self._optimizer)
        for parameter, start in zip(self._parameters, self._start, strict=False):
            if parameter.grad is not None:  # the gradient of μ/2 · ‖w − w_start‖²
                difference = parameter.detach() - start
                parameter.grad.add_(difference, alpha=self._settings.proximal)
        if self._settings.clip_norm > 0:
            nn.utils.clip_grad_norm_(self._parameters, self._settings.clip_norm)
        self.precision.step(self._optimizer)


def _balanced_weights(split: SplitLoader) -> Tensor:
    """Return a weight for each class, in inverse proportion to its chips; the chips' mean is 1."""
    counts = split.class_counts().float()
    return len(split) / (counts * counts.count_nonzero()).clamp(min=1)


def _batches(
    split: SplitLoader, settings: TrainSettings, seed: int
) -> Iterator[tuple[Chips, Tensor]]:
    remaining = settings.steps or settings.epochs * math.ceil(len(split) / settings.batch_size)
    epoch = 0
    while remaining > 0:
        # Multiples of 2^64 / golden ratio: the epochs' seeds lie far apart, whatever the round's.
        epoch_seed = (seed + epoch * 0x9E3779B97F4A7C15) % 2**63
        for batch in split.batches(
            settings.batch_size, epoch_seed, balanced=settings.balanced_batches
        ):
            if remaining == 0:
                return
            yield batch
            remaining -= 1
        epoch += 1


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the generators that layers such as dropout draw from; restore them afterwards."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if cuda else []):
        # Not torch.manual_seed: it also seeds devices that fork_rng does not restore.
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        yield


def _diverged(problem: str, settings: TrainSettings) -> RunError:
    pulls = {"proximal": settings.proximal, "weight-decay": settings.weight_decay}
    pull = max(pulls, key=lambda name: pulls[name])
    # Each step goes past what it is pulled to. Of the two factors the larger is to blame.
    if settings.lr < pulls[pull] and settings.lr * pulls[pull] > LARGEST_PULL:
        limit = LARGEST_PULL / settings.lr
        remedy = f"with {pull}={pulls[pull]:g}: lower {pull} below {limit:.3g}, or the rate"
    elif settings.jitter > LARGEST_JITTER:
        remedy = f"with jitter={settings.jitter:g}, in standard deviations: lower jitter below 1"
    elif settings.clip_norm:
        remedy = f"and clip-norm={settings.clip_norm:g}: lower one of them"
    else:
        remedy = "without clip-norm: lower it, or set clip-norm=5"
    return RunError(f"{problem} at a learning rate of {settings.lr:g} {remedy}")
