"""The transform of convolutions to the principal axes of their input channels.

The changes of a convolution during training have most of their energy in few principal axes of its
input channels, and these axes change slowly. In their basis, an update of the same size captures
much more of the change (a Karhunen–Loève transform). The basis must be the same at both ends, and
it must not cost bytes. So it is computed from what both have bit for bit: the *progress* of the
published model, its weights minus those before training (the *reference*). With A the progress of a
layer as a matrix [in, out·k·k], the basis consists of the eigenvectors of A·Aᵀ in descending order
of their eigenvalues.

Eigensolvers and sums of floating-point products differ between machines. Replicas must not, so:

- A, the basis and every vector that is transformed back are rounded to integers so small that
  float64 holds every sum of their products exactly, in whatever order it is formed.
- The eigenvectors come from orthogonal iteration with modified Gram–Schmidt, which uses only
  operations that IEEE 754 rounds correctly, in a fixed order. They are approximate. That is
  enough: any orthogonal basis is correct, and a good one saves bytes.

If a machine differs nevertheless, its replica does not match the fingerprint, and it is sent the
whole model.

The transform is linear and orthogonal. So updates can be added up and averaged in the basis, and
their norms are the same there.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from xxhash import xxh3_128

from rsdgc.arrays import Float32, Float64, Int64
from rsdgc.errors import SettingError
from rsdgc.spec import Layer, ModelSpec
from rsdgc.update import SparseUpdate

MIN_CHANNELS = 8
"""Convolutions with fewer input channels stay as they are; depthwise ones have one."""
MAX_CHANNELS = 512
"""Largest basis of a model in which no transformed layer has more input channels."""
WIDE_MODEL_CHANNELS = 256
"""Largest basis of all other models. Their layers are transformed in blocks of channels: the time
for a basis grows with the cube of its size, and the change that it captures hardly does."""
ITERATIONS = 2
"""Orthogonal iterations. With more, runs do not get better."""

# Bits of the rounded operands. A sum of n products of a bits and b bits is exact in float64 if
# a + b + log2(n) is at most 53.
_PROGRESS_BITS = 20  # n: out·k·k of a layer, up to 2^13; a longer sum takes fewer bits
_GRAM_BITS = 21  # n: up to MAX_CHANNELS
_VECTOR_BITS = 21
_VALUE_BITS = 23
_HALF_BITS = 15  # a basis is the sum of two parts, so that it is orthogonal to float32's precision
_CHUNK = 1 << 20
_COLUMNS = 128
_PER_LINE = 8  # float64 numbers in a cache line
_MOST_USED = 0.8  # with more columns of values than this, leaving out the others takes longer


@dataclass(frozen=True, eq=False)
class _Block:
    """The basis of some input channels of a layer; ``fine`` and ``coarse`` are integers [n, n]."""

    start: int
    stop: int
    basis: Float32  #: [n, n], a column for each axis
    coarse: Float64  #: basis · 2^15, rounded
    fine: Float64  #: what the rounding left out, times 2^30, rounded


class ChannelTransform:
    """An orthogonal transform of a model's vectors, of the convolutions' input channels.

    :func:`find_transform` returns the one of a published model without computing it again.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    published : float32 [spec.size]
        The published model, finite; not kept.
    reference : float32 [n]
        The transformed layers of the model before training (:func:`transformed_part`). A layer
        that does not differ from it stays as it is.

    Raises
    ------
    SettingError
        The reference is of another model.
    """

    def __init__(self, spec: ModelSpec, published: Float32, reference: Float32) -> None:
        self._spec = spec
        self._blocks: list[list[_Block]] = []
        size = transformed_size(spec)
        if reference.shape != (size,):
            raise SettingError(f"the reference has {reference.size} elements, not {size}")
        start, limit = 0, block_limit(spec)
        for layer, view in zip(spec.layers, spec.views(published), strict=True):
            if is_transformed(layer):
                progress = view - reference[start : start + layer.size]
                start += layer.size
                self._blocks.append(list(_blocks(layer, progress, limit)))
            else:
                self._blocks.append([])

    def forward(self, vector: Float32) -> None:
        """Transform a model's vector, float32 [spec.size], to the basis, in place."""
        for channels, block in self._parts(vector):
            for part in _chunks(channels):
                rows = part.transpose(1, 0, 2)
                turned = block.basis.T @ rows.reshape(len(rows), -1)
                part[:] = turned.reshape(rows.shape).transpose(1, 0, 2)

    def inverse(self, vector: Float32) -> None:
        """Transform a model's vector, float32 [spec.size], back from the basis, in place.

        The same bits on every machine. Values are rounded to 2^-23 of the largest of their layer.
        """
        for channels, block in self._parts(vector):
            _turn_back(channels, block)

    def add_to(self, update: SparseUpdate, target: Float32, weight: float = 1.0) -> None:
        """Add ``weight`` times an update in the basis to a whole model, in place.

        ``target`` is float32 [spec.size]. The same bits on every machine.
        """
        views = self._spec.views(target)
        for layer, view, part, blocks in zip(
            self._spec.layers, views, update.layers, self._blocks, strict=True
        ):
            if not blocks:
                part.add_to(view, weight)
                continue
            values = np.zeros(layer.size, np.float32)
            part.add_to(values)
            channels = _as_channels(layer, values)
            for block in blocks:
                _turn_back(channels[:, block.start : block.stop], block)
            values *= np.float32(weight)
            np.add(view, values, out=view)

    def _parts(self, vector: Float32) -> Iterator[tuple[Float32, _Block]]:
        """Yield each block with its channels of a vector, a view [out, n, k·k]."""
        views = self._spec.views(vector)
        for layer, view, blocks in zip(self._spec.layers, views, self._blocks, strict=True):
            for block in blocks:
                yield _as_channels(layer, view)[:, block.start : block.stop], block


def is_transformed(layer: Layer) -> bool:
    """Return whether a layer is a convolution with enough input channels."""
    return len(layer.shape) == 4 and layer.shape[1] >= MIN_CHANNELS


def transformed_size(spec: ModelSpec) -> int:
    """Return the number of elements of all transformed layers."""
    return sum(layer.size for layer in spec.layers if is_transformed(layer))


def block_limit(spec: ModelSpec) -> int:
    """Return the most channels that a basis of a model has; the wire format states it."""
    widest = max((layer.shape[1] for layer in spec.layers if is_transformed(layer)), default=0)
    return WIDE_MODEL_CHANNELS if widest > MAX_CHANNELS else MAX_CHANNELS


def transformed_part(spec: ModelSpec, vector: Float32) -> Float32:
    """Return the transformed layers of a model's vector, joined; a new float32 vector."""
    views = _transformed_views(spec, vector)
    return np.concatenate(views) if views else np.zeros(0, np.float32)


def replace_transformed_part(spec: ModelSpec, vector: Float32, part: Float32) -> None:
    """Replace the transformed layers of a model's vector by those of :func:`transformed_part`."""
    start = 0
    for view in _transformed_views(spec, vector):
        view[:] = part[start : start + view.size]
        start += view.size


def _transformed_views(spec: ModelSpec, vector: Float32) -> list[Float32]:
    layers = zip(spec.layers, spec.views(vector), strict=True)
    return [view for layer, view in layers if is_transformed(layer)]


_RECENT = 2  # the one that a patch starts from, and the one that uploads start from
_recent: OrderedDict[bytes, ChannelTransform] = OrderedDict()


def find_transform(spec: ModelSpec, published: Float32, reference: Float32) -> ChannelTransform:
    """Return the transform of a published model; the last ones are kept.

    The arguments and errors are those of :class:`ChannelTransform`.
    """
    digest = xxh3_128(spec.signature)  # a key in this process's memory, computed in every round
    for values in (*_transformed_views(spec, published), reference):
        digest.update(np.ascontiguousarray(values, np.float32).data)
    key = digest.digest()
    transform = _recent.get(key)
    if transform is None:
        _recent[key] = transform = ChannelTransform(spec, published, reference)
        while len(_recent) > _RECENT:
            _recent.popitem(last=False)
    return transform


def _turn_back(channels: Float32, block: _Block) -> None:
    """Transform some channels of a layer, float32 [out, n, k·k], back from the basis, in place."""
    exponent = _exponent(channels, _VALUE_BITS)
    if exponent is None:
        return
    for part in _chunks(channels):
        rows = part.transpose(1, 0, 2)
        values = rows.reshape(len(rows), -1)
        # Of a sparse update many axes and many columns are zero. They add nothing to exact sums.
        nonzero = values != 0
        axes, used = (np.flatnonzero(nonzero.any(axis=axis)) for axis in (1, 0))
        turned = np.zeros(values.shape, np.float32)
        if axes.size <= _MOST_USED * len(values) or used.size <= _MOST_USED * values.shape[1]:
            turned[:, used] = _times_basis(values[np.ix_(axes, used)], block, axes, exponent)
        elif axes.size:
            turned = _times_basis(values, block, slice(None), exponent)
        part[:] = turned.reshape(rows.shape).transpose(1, 0, 2)


def _times_basis(values: Float32, block: _Block, axes: Int64 | slice, exponent: int) -> Float32:
    """Return some axes of the basis times values [k, m], rounded to ``2^-exponent``."""
    # Products with powers of two are exact, and quicker than ldexp.
    whole = np.multiply(values, math.ldexp(1.0, exponent), dtype=np.float64)
    np.rint(whole, out=whole)
    turned = block.coarse[:, axes] @ whole
    turned *= 1 << _HALF_BITS
    turned += block.fine[:, axes] @ whole
    turned *= math.ldexp(1.0, -exponent - 2 * _HALF_BITS)
    return turned.astype(np.float32)


def _as_channels(layer: Layer, view: Float32) -> Float32:
    return view.reshape(*layer.shape[:2], -1)


def _blocks(layer: Layer, progress: Float32, limit: int) -> Iterator[_Block]:
    channels = _as_channels(layer, progress)
    count = layer.shape[1]
    num_blocks = -(-count // limit)
    ends = [count * i // num_blocks for i in range(num_blocks + 1)]
    for start, stop in pairwise(ends):
        part = channels[:, start:stop]
        length = part.shape[0] * part.shape[2]
        bits = min(_PROGRESS_BITS, (53 - length.bit_length()) // 2)
        exponent = _exponent(part, bits)
        if exponent is None:
            continue
        rows = part.transpose(1, 0, 2).reshape(stop - start, -1).astype(np.float64)
        whole = np.rint(np.ldexp(rows, exponent))
        gram = whole @ whole.T
        if gram.any():
            yield _block(start, stop, _principal_axes(gram))


def _block(start: int, stop: int, basis: Float64) -> _Block:
    coarse = np.rint(np.ldexp(basis, _HALF_BITS))
    fine = np.rint(np.ldexp(basis - np.ldexp(coarse, -_HALF_BITS), 2 * _HALF_BITS))
    return _Block(start, stop, basis.astype(np.float32), coarse, fine)


def _exponent(values: Float32, bits: int) -> int | None:
    """Return the exponent of the power of two that scales values to ``bits``; None if all are 0."""
    peak = float(np.abs(values).max())
    return None if peak == 0 else bits - math.frexp(peak)[1]


def _chunks(channels: Float32) -> Iterator[Float32]:
    """Yield parts [m, n, k·k] along the output channels, of bounded size."""
    step = max(1, _CHUNK // (channels.shape[1] * channels.shape[2]))
    for start in range(0, len(channels), step):
        yield channels[start : start + step]


def _principal_axes(gram: Float64) -> Float64:
    """Return approximate eigenvectors of a matrix of integers, columns by descending eigenvalue."""
    diagonal = gram.diagonal()
    scaled = np.rint(np.ldexp(gram, _GRAM_BITS - math.frexp(float(diagonal.max()))[1]))
    # A small multiple of the identity changes no eigenvector, and makes the matrix regular.
    scaled[np.diag_indices_from(scaled)] += max(1.0, math.floor(np.trace(scaled) / len(gram) / 512))
    basis = np.eye(len(gram))[:, np.argsort(-diagonal, kind="stable")]
    for _ in range(ITERATIONS):
        basis = _orthonormal(scaled @ np.rint(np.ldexp(basis, _VECTOR_BITS)))
    return basis


def _orthonormal(columns: Float64) -> Float64:
    """Orthonormalize the columns of a square matrix in place, by modified Gram–Schmidt."""
    # Some columns at a time, which stay in a core's cache while all earlier ones are subtracted.
    # Which columns are together changes no bit: each is computed by itself.
    count = len(columns)
    finished = np.empty((count, count, 1))
    memory, products = (_aligned(count * min(count, _COLUMNS)) for _ in range(2))
    with np.errstate():  # restores the size of the buffers, too
        # NumPy copies what it repeats along rows that are shorter than its buffers, 8192 elements.
        np.setbufsize(_COLUMNS)
        for start in range(0, count, _COLUMNS):
            width = min(_COLUMNS, count - start)
            panel = memory[: count * width].reshape(count, width)
            np.copyto(panel, columns[:, start : start + width])
            for k in range(start + width):
                if k >= start:
                    column = panel[:, k - start]
                    # accumulate, because its order of summation is part of its definition.
                    column /= math.sqrt(np.add.accumulate(column**2)[-1])
                    finished[k, :, 0] = columns[:, k] = column
                first = max(0, k - start + 1)  # of the panel's columns that column k goes before
                if k == count - 2:
                    _subtract_projection(panel[:, first:], finished[k], products, is_last=True)
                elif first < width:
                    # From a cache line on. Finished columns may change: they are copied already.
                    rest = panel[:, first // _PER_LINE * _PER_LINE :]
                    _subtract_projection(rest, finished[k], products)
    return columns


def _subtract_projection(
    columns: Float64, onto: Float64, memory: Float64, *, is_last: bool = False
) -> None:
    """Subtract the projection onto the vector ``onto``, [n, 1], from columns, [n, m], in place."""
    products = np.multiply(columns, onto, out=memory[: columns.size].reshape(columns.shape))
    # The sums of several columns add up row by row. That of a single column would be pairwise, as
    # it has always been for the last one of a basis, and must be for no other.
    if columns.shape[1] == 1 and not is_last:
        lengths = np.add.accumulate(products, axis=0)[-1]
    else:
        lengths = np.add.reduce(products, axis=0)
    columns -= np.multiply(onto, lengths, out=products)


def _aligned(size: int) -> Float64:
    """Return memory that starts at a cache line, where no load of a full register needs two."""
    memory = np.empty(size + _PER_LINE)
    start = -memory.ctypes.data % (8 * _PER_LINE) // 8
    return memory[start : start + size]
