"""A network, tried on a few chips, so that a mistake is one line before the run.

It would otherwise be a failure at every site in the middle of the first round.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from clients.memory_format import format_chips, format_weights, keep_contiguous
from clients.model_parts import (
    has_statistics,
    is_batch_norm,
    set_training_mode,
    single_chip,
)
from fl_app.models.adapters import is_adapter
from rsdgc.errors import SettingError, describe_error

if TYPE_CHECKING:  # strategies imports Flower, which takes a second
    from strategies.sites import ModalityInfo

Shape = tuple[int, ...]


class NetworkError(SettingError):
    """The network raised an exception."""


def try_network(name: str, model: nn.Module, shapes: Sequence[Shape], num_classes: int) -> None:
    """Refuse a network that does not map chips to logits, or cannot be trained.

    Two chips of noise, as normalization makes chips, go through it in evaluation mode and, with
    their gradient, in training mode; then a single one of zeros in both, which may be the last of
    a split. The network is left as it was, but for
    lazy layers, which take their sizes from the first chips, and for its memory format
    (:mod:`clients.memory_format`).

    Parameters
    ----------
    name : str
        As the user wrote it, for errors.
    shapes : sequence of (C, H, W)
        Of a chip in each tensor that the network takes.

    Raises
    ------
    NetworkError
        It raised an exception.
    SettingError
        What it returns is not logits, or has no gradient.
    """
    with _unchanged(model) as buffers:
        try:
            _try_modes(name, model, shapes, num_classes, buffers)
        except NetworkError:
            keep_contiguous(model)
            _try_modes(name, model, shapes, num_classes, buffers)


def accepts_missing(model: nn.Module, modalities: Sequence[ModalityInfo]) -> bool:
    """Return whether a fusion network works with each modality missing, and with each alone."""
    shapes = [modality.shape for modality in modalities]
    with _unchanged(model):
        model.eval()
        try:
            for index in range(len(shapes)):
                for absent in ({index}, set(range(len(shapes))) - {index}):
                    if 0 < len(absent) < len(shapes):
                        with torch.no_grad():
                            _logits(model, 2, shapes, absent)
        except Exception:  # whatever a user's code raises
            return False
    return True


def changing_buffers(
    model: nn.Module, shapes: Sequence[Shape], names: Collection[str]
) -> frozenset[str]:
    """Return which buffers a step of training changes: by a trial on two chips of noise.

    Those of PyTorch's normalizations always count; without others there is no trial. If the network
    fails, all count. The network is left as it was.

    Parameters
    ----------
    names : collection of str
        The buffers in question.
    """
    statistics = {
        name
        for name in names
        if isinstance(model.get_submodule(name.rpartition(".")[0]), nn.modules.batchnorm._NormBase)  # noqa: SLF001
    }
    others = set(names) - statistics
    if not others:
        return frozenset(names)
    generator = torch.Generator().manual_seed(0)
    chips: list[Tensor | None] = [torch.randn(2, *shape, generator=generator) for shape in shapes]
    before = {key: (b, b._version, b.clone()) for key, b in _buffers(model)}  # noqa: SLF001
    with _unchanged(model), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        set_training_mode(model)
        try:
            logits = model(*format_chips(chips, model))
            torch.autograd.backward(logits.float().sum())
        except Exception:  # whatever a user's code raises
            return frozenset(names)
        after = dict(_buffers(model))

        def is_changed(key: str) -> bool:
            if key not in before or key not in after:
                return True
            buffer, writes, values = before[key]
            now = after[key]
            # A mean of weights, which starts as their copy, is written to and has the same values.
            return now is not buffer or now._version != writes or not torch.equal(now, values)  # noqa: SLF001

        changed = {key for key in others if is_changed(key)}
    return frozenset(changed | statistics)


def check_gradient(model: nn.Module, shapes: Sequence[Shape], setting: str) -> None:
    """Refuse a choice of what is trained, or of adapters, on which the logits do not depend.

    Single adapters may have no gradient here: a network may choose by a chip's values which of its
    layers it goes through.

    Raises :class:`SettingError`, which names the setting, and :class:`NetworkError` if the model
    fails.
    """
    adapters = [p for name, p in model.named_parameters() if is_adapter(name)]
    with _unchanged(model), _device_of(model), torch.enable_grad():
        model.eval()
        reached = False
        try:
            logits = _logits(model, 2, shapes)
            if adapters and isinstance(logits, Tensor) and logits.requires_grad:
                torch.autograd.backward(logits.float().sum())
                reached = any(factor.grad is not None for factor in adapters)
        except Exception as error:
            raise NetworkError(
                f"the model fails with {setting}: {_describe(error, model)}: choose other layers"
            ) from error
    if isinstance(logits, Tensor) and not logits.requires_grad:
        raise SettingError(
            f"{setting} trains nothing that the class scores depend on: name other layers, such as "
            "head"
        )
    if adapters and not reached:
        raise SettingError(
            f"{setting}: the class scores depend on no layer that has an adapter: name others in "
            "adapter-layers"
        )


def _try_modes(
    name: str,
    model: nn.Module,
    shapes: Sequence[Shape],
    num_classes: int,
    buffers: dict[str, Tensor],
) -> None:
    """Try a network in its memory format; add the buffers of its lazy layers to ``buffers``."""

    def attempt(chips: int, mode: str) -> Tensor:
        format_weights(model)
        model.train(mode == "training")
        inputs = " and ".join(str((chips, *shape)) for shape in shapes)
        fixed = {key: p for key, p in model.named_parameters() if not p.requires_grad}
        writes = {key: p._version for key, p in fixed.items()}  # noqa: SLF001
        try:
            # As a site does it.
            with single_chip(model) if chips == 1 else nullcontext():
                logits = _logits(model, chips, shapes, noise=chips > 1)
                if mode == "training" and isinstance(logits, Tensor) and logits.requires_grad:
                    torch.autograd.backward(logits.float().sum())
        except (Exception, SystemExit) as error:
            remedy = _single_chip_remedy(model) if chips == 1 else ""
            raise NetworkError(
                f"model {name!r} fails on chips {inputs} in {mode} mode: {_describe(error, model)}"
                f"{remedy}"
            ) from error
        if not isinstance(logits, Tensor) or logits.shape != (chips, num_classes):
            raise SettingError(
                f"model {name!r} maps chips {inputs} in {mode} mode to {_describe_output(logits)}: "
                f"return logits {(chips, num_classes)}"
            )
        for key, parameter in fixed.items():
            if parameter._version != writes[key]:  # noqa: SLF001
                raise SettingError(
                    f"model {name!r} changes layer {key!r} in {mode} mode, which has requires_grad "
                    "off and is never sent: register it as a buffer, which is averaged"
                )
        return logits

    with torch.no_grad():
        evaluated = attempt(2, "evaluation")
        for key, buffer in _buffers(model):  # those of lazy layers have values only now
            buffers.setdefault(key, buffer.clone())
    with torch.enable_grad():
        logits = attempt(2, "training")
        _check_gradients(name, model, logits)
        _check_values(name, evaluated, "evaluation")
        _check_values(name, logits, "training")
        _check_first_step(name, model)
    with torch.no_grad():
        attempt(1, "evaluation")
    with torch.enable_grad():
        attempt(1, "training")


def _check_values(name: str, logits: Tensor, mode: str) -> None:
    """Refuse what cannot be the logits of chips of noise."""
    if not logits.is_floating_point():
        kind = str(logits.dtype).removeprefix("torch.")
        raise SettingError(
            f"model {name!r} returns {kind} numbers in {mode} mode: return logits, which are of "
            "floating point"
        )
    if logits.is_meta:
        return
    values = logits.detach().float()
    if not bool(torch.isfinite(values).all()):
        raise SettingError(
            f"model {name!r} yields NaN or infinity in {mode} mode on chips of mean 0 and standard "
            "deviation 1, as all chips are: take no logarithm, root or quotient of what may be "
            "negative or 0"
        )
    sums = values.sum(1)
    if bool((values >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        raise SettingError(
            f"model {name!r} returns probabilities in {mode} mode: return logits, without a softmax"
        )


def _single_chip_remedy(model: nn.Module) -> str:
    """Return what to do with a network that takes two chips, and not a single one."""
    for key, module in model.named_modules():
        if is_batch_norm(module) and not has_statistics(module):
            return (
                f": the last batch of a split may have one chip; build {key!r} with "
                "track_running_stats=True, or as nn.GroupNorm"
            )
    return ""


def _check_gradients(name: str, model: nn.Module, logits: Tensor) -> None:
    """Refuse a network that cannot be trained by what its logits' gradient is."""
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    if trained and not logits.requires_grad:
        raise SettingError(
            f"model {name!r} returns logits without a gradient in training mode: return what its "
            "last layer yields, without detach(), no_grad() or argmax()"
        )
    for layer, parameter in trained.items():
        if parameter.grad is not None and parameter.grad.is_sparse:
            raise SettingError(
                f"model {name!r}: layer {layer!r} has sparse gradients: build it with sparse=False"
            )
    for key, buffer in _buffers(model):
        if buffer.requires_grad:
            raise SettingError(
                f"model {name!r}: buffer {key!r} keeps the gradient of a step: detach() what "
                "changes it"
            )


def _check_first_step(name: str, model: nn.Module) -> None:
    """Refuse a network whose weights are NaN after a step, at any learning rate."""
    for layer, parameter in model.named_parameters():
        if parameter.grad is None or parameter.is_meta:
            continue
        if not bool(torch.isfinite(parameter.grad).all()):
            raise SettingError(
                f"model {name!r}: the gradient of layer {layer!r} is NaN or infinite before "
                "training: initialize the network otherwise, or take no root or quotient of 0 "
                "(torch.autograd.set_detect_anomaly(True) names the place)"
            )


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Restore modes, buffers, gradients and the weights' memory at the end; yield the buffers."""
    modes = {module: module.training for module in model.modules()}
    tensors = [t for t in (*model.parameters(), *model.buffers()) if not is_lazy(t)]
    memory = [(tensor, tensor.data) for tensor in tensors if tensor.dim() == 4]
    buffers = {key: buffer.clone() for key, buffer in _buffers(model)}
    try:
        yield buffers
    finally:
        for tensor, data in memory:
            tensor.data = data
        with torch.no_grad():
            for key, buffer in _buffers(model):  # normalization must not learn from the zeros
                if key in buffers and buffer.shape == buffers[key].shape:
                    buffer.copy_(buffers[key])
        for parameter in model.parameters():
            parameter.grad = None
        for module, training in modes.items():
            module.training = training


def _logits(
    model: nn.Module,
    chips: int,
    shapes: Sequence[Shape],
    absent: Collection[int] = (),
    *,
    noise: bool = False,
) -> object:
    """Return what a model makes of zeros of these shapes; None stands for those that are absent."""
    inputs = [None if i in absent else torch.zeros(chips, *s) for i, s in enumerate(shapes)]
    if noise:
        generator = torch.Generator("cpu").manual_seed(0)
        for x in inputs:
            if x is not None and not x.is_meta:
                x.copy_(torch.randn(x.shape, generator=generator, device="cpu"))
    logits: object = model(*format_chips(inputs, model))
    return logits


@contextmanager
def _device_of(model: nn.Module) -> Iterator[None]:
    with next(model.parameters()).device:
        yield


def _buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((key, buffer) for key, buffer in model.named_buffers() if not is_lazy(buffer))


def _describe(error: BaseException, model: nn.Module) -> str:
    """Return an error in one line, with the place in the network's code, not in PyTorch's."""
    names = {type(module).__module__ for module in model.modules()}
    modules = [sys.modules.get(name) for name in names if not name.startswith("torch.")]
    files = {getattr(module, "__file__", None) for module in modules}
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame.filename for frame in frames if frame.filename in files]
    return describe_error(error, own[-1] if own else None)


def _describe_output(output: object) -> str:
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    if isinstance(output, Mapping):
        return f"{type(output).__name__} with {', '.join(map(str, output))}"
    return type(output).__name__
