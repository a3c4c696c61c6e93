"""A decoded update, layer by layer, and the stamp that says where it belongs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from rsdgc.arrays import CHUNK, Bools, Float32, Int64, check_flat, chunks, l2_norm
from rsdgc.errors import SettingError
from rsdgc.neighborhoods import Neighborhoods
from rsdgc.scheme import Scheme
from rsdgc.spec import ModelSpec

MAX_RUN = 2**64 - 1
MAX_ROUND = 2**32 - 1


@dataclass(frozen=True)
class Stamp:
    """Where an update belongs.

    Parameters
    ----------
    run : int
        Identifies the federated run; 0 to 2⁶⁴ - 1.
    round : int
        The round it was made for; 0 to 2³² - 1.
    base : int
        Version of the published model it was made from; 0 to 2³² - 1.
    """

    run: int = 0
    round: int = 0
    base: int = 0

    def __post_init__(self) -> None:
        for name, limit in (("run", MAX_RUN), ("round", MAX_ROUND), ("base", MAX_ROUND)):
            if not 0 <= getattr(self, name) <= limit:
                raise SettingError(f"{name} is {getattr(self, name)}: choose 0 to {limit}")


@dataclass(frozen=True, eq=False)
class LayerUpdate:
    """One layer of an update.

    Attributes
    ----------
    grid : Neighborhoods
        All neighborhoods of the layer.
    ids : int64 [k] or None
        Kept neighborhoods, strictly increasing. None if ``values`` is the layer as it is in
        memory: it was sent whole, or all its neighborhoods were and follow each other there.
    values : float32 [n]
        Members of the kept neighborhoods in id order, or the whole layer; read-only.
    num_bytes : int
        Bytes of indices and values in the buffer.
    """

    grid: Neighborhoods
    ids: Int64 | None
    values: Float32
    num_bytes: int

    @property
    def kept(self) -> int:
        """Number of neighborhoods that were sent."""
        return self.grid.count if self.ids is None else self.ids.size

    def add_to(self, target: Float32, weight: float = 1.0) -> None:
        """Add ``weight`` times this layer to the flat layer ``target``, in place."""
        if self.ids is not None:
            self.grid.add_at(target, self.ids, self.values, weight)
            return
        # One small buffer for the products, instead of a temporary of the layer's size.
        factor = np.float32(weight)
        buffer = np.empty(min(CHUNK, self.values.size), dtype=np.float32)
        for part in chunks(self.values.size):
            values = self.values[part]
            target[part] += np.multiply(values, factor, out=buffer[: values.size])

    def clear(self, target: Float32) -> None:
        """Set the members of the kept neighborhoods to zero in the flat layer ``target``."""
        if self.ids is None:
            target[:] = 0.0
        else:
            self.grid.clear_at(target, self.ids)


@dataclass(frozen=True, eq=False)
class SparseUpdate:
    """A decoded and checked update; :func:`rsdgc.decode` returns it.

    Attributes
    ----------
    payload : bytes
        The buffer it was decoded from; empty for one that was not sent in this format.
    stamp, scheme, spec
        Where it belongs, how the sender cut and coded it, and the model it is for.
    layers : tuple of LayerUpdate
        One for each layer, in the model's order.
    """

    payload: bytes
    stamp: Stamp
    scheme: Scheme
    spec: ModelSpec
    layers: tuple[LayerUpdate, ...]

    @classmethod
    def from_dense(cls, spec: ModelSpec, values: Float32) -> SparseUpdate:
        """Return a whole update, float32 [spec.size], as one; its memory is not copied."""
        check_flat(values, spec.size, "the update")
        scheme = Scheme()
        layers = tuple(
            LayerUpdate(scheme.cut(layer.shape), None, view, view.nbytes)
            for layer, view in zip(spec.layers, spec.views(values), strict=True)
        )
        return cls(b"", Stamp(), scheme, spec, layers)

    def scaled(self, factor: float) -> SparseUpdate:
        """Return the update times a factor, which is rounded to float32; the payload stays."""
        scale = np.float32(factor)
        layers = (replace(layer, values=layer.values * scale) for layer in self.layers)
        return replace(self, layers=tuple(layers))

    def restricted(self, present: Bools) -> SparseUpdate:
        """Return the update of the layers ``present``, bool [num_layers]; the payload stays."""
        nothing = np.zeros(0, np.int64), np.zeros(0, np.float32)
        layers = tuple(
            layer if counts else LayerUpdate(layer.grid, *nothing, layer.num_bytes)
            for layer, counts in zip(self.layers, present, strict=True)
        )
        return replace(self, layers=layers)

    def norm(self) -> float:
        """Return the Euclidean norm."""
        return math.hypot(*(l2_norm(layer.values) for layer in self.layers))

    @property
    def layer_bytes(self) -> Int64:
        """Bytes of indices and values of each layer, int64 [num_layers].

        With :attr:`header_bytes` they add up to ``len(payload)``. Layers share streams; the bits
        that each takes of them are rounded to bytes.
        """
        return np.array([layer.num_bytes for layer in self.layers], dtype=np.int64)

    @property
    def header_bytes(self) -> int:
        """Bytes of header, tables and padding."""
        return len(self.payload) - int(self.layer_bytes.sum())

    @property
    def memory_bytes(self) -> int:
        """Bytes of ids and values in memory."""
        ids = sum(layer.ids.nbytes for layer in self.layers if layer.ids is not None)
        return ids + sum(layer.values.nbytes for layer in self.layers)

    def add_to(self, target: Float32, weight: float = 1.0) -> None:
        """Add ``weight`` times this update to a whole model, in place.

        Parameters
        ----------
        target : float32 [spec.size]
            Changed in place. Every element is rounded once for the product with the weight
            (none if it is 1) and once for the sum.
        weight : float
            Rounded to float32 before it is used.
        """
        for view, layer in zip(self.spec.views(target), self.layers, strict=True):
            layer.add_to(view, weight)

    def to_dense(self) -> Float32:
        """Return the whole update, float32 [spec.size], zero where nothing was sent."""
        dense = np.zeros(self.spec.size, dtype=np.float32)
        self.add_to(dense)
        return dense
