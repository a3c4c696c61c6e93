"""The model as the method sees it: named layers in one flat float32 vector."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from rsdgc.arrays import Bools, Float32, Int64, check_flat
from rsdgc.errors import SettingError

MAX_LAYER_SIZE = 2**31 - 1
"""Most elements that a layer may have: neighborhood ids are stored in 32 bits."""


BRANCHES = "branches"
"""The submodule of a fusion network that holds a branch for each modality."""


@cache  # asked for every entry of a model, and the answer needs a module
def branch_key(modality: str) -> str:
    """Return the name of a modality's branch: the modality's own wherever PyTorch allows it.

    PyTorch allows neither a dot nor the name of a module's attribute. These names are
    percent-encoded, as in a URL: :func:`urllib.parse.unquote` returns the modality's name.

    >>> [branch_key(name) for name in ("sar", "s2.60m", "type", "100%")]
    ['sar', 's2%2E60m', '%74ype', '100%25']

    Raises
    ------
    SettingError
        The name is empty.
    """
    from torch import nn  # noqa: PLC0415  # the method itself does without PyTorch

    if not modality:
        raise SettingError("a modality has no name: ingest it with --modality NAME=GLOB")
    key = modality.replace("%", "%25").replace(".", "%2E")
    return f"%{ord(key[0]):02X}{key[1:]}" if hasattr(nn.ModuleDict(), key) else key


def in_branch(name: str, modalities: Collection[str]) -> bool:
    """Return whether an entry of a model belongs to the branch of one of these modalities."""
    return name.startswith(tuple(f"{BRANCHES}.{branch_key(modality)}." for modality in modalities))


def without_branches(
    arrays: Mapping[str, Float32], modalities: Collection[str]
) -> dict[str, Float32]:
    """Return the entries of a model that are not part of the branches of these modalities."""
    return {name: array for name, array in arrays.items() if not in_branch(name, modalities)}


@dataclass(frozen=True)
class Layer:
    """One named tensor of a model.

    Parameters
    ----------
    name : str
        Unique in its model.
    shape : tuple of int
        Output channels (rows) first; ``()`` is a single number.
    """

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements; 1 for a 0-d layer."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class ModelSpec:
    """The layers of a model, in the order in which its flat vector holds them.

    ::

        spec = ModelSpec.from_shapes({"conv.weight": (32, 4, 3, 3), "conv.bias": (32,)})
        conv, bias = spec.views(flat)

    Raises
    ------
    SettingError
        There is no layer, a name is repeated, or a layer has no elements or too many.
    """

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise SettingError("the model has no layers: pass at least one")
        if len({layer.name for layer in self.layers}) != len(self.layers):
            raise SettingError("a layer name is repeated: give every layer its own name")
        for layer in self.layers:
            if min(layer.shape, default=1) < 1 or layer.size > MAX_LAYER_SIZE:
                msg = f"layer {layer.name!r} has shape {layer.shape}"
                raise SettingError(f"{msg}: a layer needs 1 to {MAX_LAYER_SIZE} elements")

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, Sequence[int]]) -> ModelSpec:
        """Build a specification from ``{name: shape}``, in the order of the mapping."""
        return cls(tuple(Layer(name, tuple(map(int, dims))) for name, dims in shapes.items()))

    @cached_property
    def size(self) -> int:
        """Number of elements of the whole model."""
        return sum(layer.size for layer in self.layers)

    @property
    def dense_bytes(self) -> int:
        """Bytes of the whole model as float32."""
        return 4 * self.size

    @cached_property
    def offsets(self) -> Int64:
        """Start of each layer in the flat vector, and the end; int64 [num_layers + 1]."""
        sizes = [layer.size for layer in self.layers]
        return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)

    @cached_property
    def signature(self) -> bytes:
        """Eight bytes that identify the model: a BLAKE2b hash of all names and shapes."""
        # Every length goes before what it measures, so different layers never hash equal bytes.
        digest = hashlib.blake2b(digest_size=8)
        for layer in self.layers:
            name = layer.name.encode()
            for number in (len(name), len(layer.shape), *layer.shape):
                digest.update(number.to_bytes(8, "little"))
            digest.update(name)
        return digest.digest()

    def present_layers(self, lacking: Collection[str]) -> Bools:
        """Return which layers a site has that lacks these modalities, bool [num_layers]."""
        return np.array([not in_branch(layer.name, lacking) for layer in self.layers], np.bool_)

    def views(self, flat: Float32) -> list[Float32]:
        """Split a flat vector into one 1-D view for each layer, which share its memory.

        Raises
        ------
        SettingError
            ``flat`` is not a contiguous float32 vector of this model's size.
        """
        check_flat(flat, self.size, "the model vector")
        ends = self.offsets
        return [flat[ends[i] : ends[i + 1]] for i in range(len(self.layers))]
