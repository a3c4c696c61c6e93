"""The entries of a model by what becomes of them in a federated run.

=======  ===========================================  ============================================
part     entries of the ``state_dict``                what becomes of them
=======  ===========================================  ============================================
shared   parameters that are trained                  one flat float32 vector, which the codec
                                                      compresses, with error feedback
running  floating-point buffers, such as the running  sent whole in float16 if they have changed,
         statistics of batch normalization            and averaged (:mod:`rsdgc.statistics_codec`)
local    those of batch normalization that the        stay at the site, in its durable state
         ``batch-norm`` setting keeps at the sites
frozen   parameters that are not trained, and the     never change
         statistics of frozen normalization
=======  ===========================================  ============================================

A running statistic relaxes toward a target. Error feedback would add up what an upload held back
of it, and overshoot: variances would become negative. So it never enters the shared vector.

All other buffers are constants. They start every round from the values that the model was built
with, so that a round does not depend on what the process did before: integers (batch
normalization's count of batches), masks with infinite values, and what is not in the
``state_dict``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from rsdgc.arrays import Float32, UInt8
from rsdgc.errors import RunError, SettingError
from rsdgc.frozen_part import FrozenPart
from rsdgc.spec import ModelSpec


class ModelParts:
    """A model and the parts of its state, which can be read and written one by one.

    Parameters
    ----------
    model : torch.nn.Module
        On any device; all its floating-point parameters are float32. Parameters are trained if
        they require a gradient.
    batch_norm : {"average", "local-statistics", "local", "group"}
        Whether batch normalization's statistics are averaged; stay at each site (SiloBN, Andreux
        et al. 2020); or stay there with scale and shift (FedBN, Li et al. 2021), also those of a
        layer that keeps no statistics. "group" is for the builder, which has left no batch
        normalization; statistics of other layers are averaged then.

    Attributes
    ----------
    spec : ModelSpec
        Layers of the shared vector, in the order of the ``state_dict``.
    running, local, frozen : tuple of str
        Names of the other entries.

    Raises
    ------
    SettingError
        No parameter is trained.
    """

    def __init__(self, model: nn.Module, batch_norm: str = "average") -> None:
        self.model = model
        keeps_statistics = batch_norm in ("local-statistics", "local")
        frozen_norms = set(_frozen_norms(model))
        shared: dict[str, tuple[int, ...]] = {}
        running, local, frozen = [], [], []
        # Once for tied parameters, which have two names and one value.
        parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
        for name, tensor in model.state_dict().items():
            prefix = name.rpartition(".")[0]
            module = model.get_submodule(prefix)
            in_norm = has_statistics(module) or is_batch_norm(module)
            if name in parameters:
                if not parameters[name].requires_grad:
                    frozen.append(name)
                elif in_norm and batch_norm == "local":
                    local.append(name)
                else:
                    shared[name] = tuple(tensor.shape)
            elif name in buffers and may_be_statistic(tensor):
                if prefix in frozen_norms:
                    frozen.append(name)
                elif in_norm and keeps_statistics:
                    local.append(name)
                else:
                    running.append(name)
        if not shared:
            raise SettingError("no parameter of the model is trained: freeze fewer layers")
        self.spec = ModelSpec.from_shapes(shared)
        self.running, self.local, self.frozen = tuple(running), tuple(local), tuple(frozen)
        sent_or_kept = {*running, *local, *frozen}
        self._constants = {n: b.clone() for n, b in buffers.items() if n not in sent_or_kept}

    def vector(self, out: Float32 | None = None) -> Float32:
        """Copy the shared part into a vector, float32 [spec.size]: into ``out``, or a new one."""
        flat = np.empty(self.spec.size, np.float32) if out is None else out
        _check_size(flat.size, self.spec)
        target = torch.from_numpy(flat)
        with torch.no_grad():
            for tensor, start, stop in self._shared():
                target[start:stop].view(tensor.shape).copy_(tensor)
        return flat

    def load_vector(self, flat: Float32) -> None:
        """Copy a vector, float32 [spec.size], into the shared part; it may be read-only.

        The other buffers return to the values that the model was built with.
        :class:`SettingError` is raised if the vector's size is not the model's.
        """
        _check_size(flat.size, self.spec)
        buffers = dict(self.model.named_buffers())
        with torch.no_grad():
            for tensor, start, stop in self._shared():
                tensor.copy_(_as_tensor(flat[start:stop]).view(tensor.shape))
            for name, value in self._constants.items():
                if name in buffers and buffers[name].shape == value.shape:
                    buffers[name].copy_(value)

    def add(self, flat: Float32, factor: float) -> None:
        """Add ``factor`` times a vector, float32 [spec.size], to the shared part."""
        _check_size(flat.size, self.spec)
        with torch.no_grad():
            for tensor, start, stop in self._shared():
                layer = _as_tensor(flat[start:stop]).view(tensor.shape)
                tensor.add_(layer.to(tensor.device), alpha=factor)

    def arrays(self, names: tuple[str, ...]) -> dict[str, Float32]:
        """Copy entries, as of :attr:`running` or :attr:`local`, into new float32 arrays."""
        state = self.model.state_dict()
        copies = {name: np.zeros(tuple(state[name].shape), np.float32) for name in names}
        for name, copy in copies.items():
            torch.from_numpy(copy).copy_(state[name].detach())
        return copies

    def load_arrays(self, arrays: Mapping[str, Float32]) -> None:
        """Copy arrays into the entries of their names.

        Raises :class:`RunError` if the model has no such entry of this shape.
        """
        state = self.model.state_dict()
        with torch.no_grad():
            for name, array in arrays.items():
                if name not in state or tuple(state[name].shape) != array.shape:
                    raise RunError(
                        f"the model has no entry {name!r} of shape {array.shape}: the server and "
                        "all sites must build the same model"
                    )
                state[name].copy_(torch.from_numpy(np.array(array, np.float32)))

    def frozen_part(self) -> FrozenPart:
        """Return what is never sent in a round, of a model on the CPU, without a copy.

        Those are the frozen entries, the running and local ones as they are now, and the constants,
        whose values are bytes (uint8 [..., size of a value]) because they may be of any type.
        """
        state = self.model.state_dict()
        names = (*self.frozen, *self.running, *self.local)
        floats = {name: state[name].detach().float().numpy() for name in names}
        return FrozenPart({**floats, **self._constant_bytes()})

    def load_frozen_part(self, part: FrozenPart) -> None:
        """Copy another end's frozen part, of the same names and shapes, into the model."""
        constants = self._constant_bytes()
        buffers = dict(self.model.named_buffers())
        for name in constants:
            own = self._constants[name]
            received = torch.from_numpy(np.array(part.arrays[name], np.uint8))
            own.copy_(received.view(own.dtype).reshape(own.shape))
            buffers[name].copy_(own)
        others = part.arrays.keys() - constants.keys()
        self.load_arrays({name: np.asarray(part.arrays[name], np.float32) for name in others})

    def _constant_bytes(self) -> dict[str, UInt8]:
        """Return the constants by name; not the counts of batches, which start from zero."""
        return {
            name: buffer.detach().contiguous().unsqueeze(-1).view(torch.uint8).numpy()
            for name, buffer in self._constants.items()
            if name.rpartition(".")[2] != "num_batches_tracked"
            and buffer.numel() > 0
            and buffer.layout == torch.strided
            and not buffer.is_quantized
        }

    def _shared(self) -> Iterator[tuple[Tensor, int, int]]:
        """Yield each tensor of the shared part with its place in the vector."""
        state = self.model.state_dict()
        for index, layer in enumerate(self.spec.layers):
            yield (
                state[layer.name],
                int(self.spec.offsets[index]),
                int(self.spec.offsets[index + 1]),
            )


def has_statistics(module: nn.Module) -> bool:
    """Return whether a module normalizes by running statistics, as batch normalization does."""
    return isinstance(dict(module.named_buffers(recurse=False)).get("running_mean"), Tensor)


def is_batch_norm(module: nn.Module) -> bool:
    """Return whether a module is PyTorch's batch normalization, with running statistics or not."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm)  # noqa: SLF001


def may_be_statistic(buffer: Tensor) -> bool:
    """Return whether a buffer can be averaged; of one on the meta device all values can."""
    if not buffer.is_floating_point():
        return False
    return buffer.is_meta or bool(torch.isfinite(buffer).all())


def set_training_mode(model: nn.Module) -> None:
    """Put the model into training mode, except for normalization layers that are frozen.

    Those normalize by their running statistics, which must not follow a site's data.
    """
    model.train()
    for name in _frozen_norms(model):
        model.get_submodule(name).eval()


def entries_of(model: nn.Module, wanted: Callable[[nn.Module], bool]) -> set[str]:
    """Return the names of the entries of a model's modules for which ``wanted`` is true."""
    return {name for name in model.state_dict() if wanted(model.get_submodule(_owner_name(name)))}


def _owner_name(entry: str) -> str:
    return entry.rpartition(".")[0]


@contextmanager
def single_chip(model: nn.Module) -> Iterator[None]:
    """Let batch normalization use its running statistics: a batch of one chip has no variance.

    One that keeps none cannot help it (:mod:`fl_app.models.network_trial` refuses such a network if
    a single chip is too little for it).
    """
    norms = [module for module in model.modules() if is_batch_norm(module) and module.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


def _frozen_norms(model: nn.Module) -> Iterator[str]:
    """Yield the names of the normalization layers with statistics none of whose weights is trained.

    One without weights is as the module around it.
    """
    for name, module in model.named_modules():
        if not has_statistics(module):
            continue
        parent, owner = name, module
        while parent and not list(owner.parameters()):
            parent = parent.rpartition(".")[0]
            owner = model.get_submodule(parent)
        if not any(parameter.requires_grad for parameter in owner.parameters()):
            yield name


def _as_tensor(layer: Float32) -> Tensor:
    # "W" copies what is read-only, for PyTorch warns of such memory. A replica is mapped copy on
    # write, and is not copied.
    return torch.from_numpy(np.require(layer, np.float32, ["C", "W"]))


def _check_size(size: int, spec: ModelSpec) -> None:
    if size != spec.size:
        raise SettingError(
            f"the vector has {size} values, and {spec.size} are expected: the server and all sites "
            "must build the same model, for the same bands and classes"
        )
