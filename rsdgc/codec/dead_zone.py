"""Find the step at which a quantised update takes the budgeted bits.

The expected size at a step comes from samples of every layer's kept values and of their
neighborhoods' peaks, so a trial costs no more for a large model. It counts what the wire format
(:mod:`rsdgc.codec.dead_zone`) writes: ids of the neighborhoods that have a level outside the dead
zone, planes of flags, large levels, signs.

Updates whose kept values are levels of one step: choice of the step, coding, decoding.

Neighborhoods in which every value falls into the dead zone are not sent; so each one sent has at
least a sign bit, and no buffer can claim more neighborhoods than it has bits. Consecutive layers
are joined into groups of at least :data:`MIN_GROUP_VALUES` kept values, so that small layers share
the few bytes that say how planes are coded (:mod:`rsdgc.codec.bit_planes`).

What is written, beside the ids: the step (float32) and its three offsets (a signed byte each);
then for each group the codes of its three planes, each followed by the number of ids (varint) if
it is not :data:`rsdgc.codec.bit_planes.RAW_FLAGS`, and the Rice parameter of its large levels, a
byte. An update that keeps nothing has neither step nor groups.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rsdgc.arrays import check_finite, extract, max_magnitude
from rsdgc.codec.bit_planes import MAX_LEVEL, PLANES, RAW_FLAGS, Levels, PlaneCode
from rsdgc.codec.byte_stream import encode_varint
from rsdgc.codec.golomb_rice import RiceWriter
from rsdgc.codec.indices import EncodedLayers, KeptNeighborhoods, write_ids
from rsdgc.codec.quantizer import COARSEST_STEP, FINEST_STEP, Quantizer
from rsdgc.codec.sizes import RAW_ID_BITS, rice_bits
from rsdgc.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rsdgc.arrays import Bools, Float32, Float64
    from rsdgc.codec.byte_stream import ByteReader
    from rsdgc.codec.golomb_rice import RiceReader
    from rsdgc.scheme import IndexKind


SAMPLE_VALUES = 1 << 17
"""Most values looked at in all; as many of each layer, or all that it has."""
_LARGEST_RICE = 16
_TRIALS = 40
_CLOSE = 1e-3


class StepSearch:
    """Expected bits of a quantised update as a function of the step.

    Parameters
    ----------
    values : sequence of float32 [n]
        The kept values of each layer, none of them empty.
    peaks : sequence of float32 [k]
        The largest magnitude of each kept neighborhood, layer by layer.
    counts : sequence of int
        Neighborhoods of each layer, kept or not.
    raw_ids : bool
        Whether ids are plain integers.
    """

    def __init__(
        self,
        values: Sequence[Float32],
        peaks: Sequence[Float32],
        counts: Sequence[int],
        *,
        raw_ids: bool = False,
    ) -> None:
        self._sizes = np.array([part.size for part in values], dtype=np.float64)
        self._kept = np.array([part.size for part in peaks], dtype=np.float64)
        self._counts = np.array(counts, dtype=np.float64)
        self._raw_ids = raw_ids
        self._values = _Sample(values)
        self._peaks = _Sample(peaks)
        self._largest = max((float(part.max()) for part in peaks), default=0.0)

    def bits(self, step: float) -> float:
        """Return the expected bits of ids and levels at a step."""
        kept = self._peaks.num_above(0.5 * step)
        if self._raw_ids:
            total = float(RAW_ID_BITS * kept[kept < self._counts].sum())
        else:
            total = float(_flag_bits(kept, self._counts).sum())
        size = kept / self._kept * self._sizes
        for plane in range(PLANES):
            above = self._values.num_above((plane + 0.5) * step)
            total += float(np.minimum(_flag_bits(above, size), size).sum())
            total += float(above.sum()) if plane == 0 else 0.0  # signs
            size = above
        return total + self._large_bits(step)

    def step(self, bits: float) -> float:
        """Return the smallest step at which no more than the given bits are expected.

        At least what keeps the largest level within range, at most what leaves nothing outside
        the dead zone, and both within the range of steps.
        """
        low = max(self._largest / MAX_LEVEL, FINEST_STEP)
        high = min(max(2.1 * self._largest, low), COARSEST_STEP)
        if self.bits(low) <= bits:
            return low
        for _ in range(_TRIALS):
            middle = math.sqrt(low * high)
            expected = self.bits(middle)
            if expected > bits:
                low = middle
            else:
                high = middle
                if expected > (1 - _CLOSE) * bits:
                    break
        return high

    def quantizer(self, step: float) -> Quantizer:
        """Return the quantiser of a step, with the centroids of the sample."""
        return Quantizer.fit(step, self._values.magnitudes, self._values.weights)

    def _large_bits(self, step: float) -> float:
        large = self._values.magnitudes > min((PLANES - 0.5) * step, COARSEST_STEP)
        numbers = np.rint(self._values.magnitudes[large] / step) - PLANES
        weights = self._values.weights[large]
        fewest = math.inf
        for rice in range(_LARGEST_RICE):
            bits = float(weights @ (np.floor(numbers / 2**rice) + rice + 1))
            if bits >= fewest:
                break
            fewest = bits
        return fewest


class _Sample:
    """Magnitudes of several layers, as many of each or all that it has, with their weights."""

    def __init__(self, layers: Sequence[Float32]) -> None:
        share = max(1, SAMPLE_VALUES // max(1, len(layers)))
        rng = np.random.default_rng(len(layers))
        some = [
            part if part.size <= share else part[rng.integers(part.size, size=share)]
            for part in layers
        ]
        sizes = np.array([part.size for part in some], dtype=np.int64)
        self.magnitudes: Float32 = np.abs(np.concatenate(some))
        self._each = np.array([part.size for part in layers]) / sizes
        self.weights: Float64 = np.repeat(self._each, sizes)
        self._starts = np.cumsum(sizes) - sizes

    def num_above(self, limit: float) -> Float64:
        """Return the expected number of each layer's values above a limit."""
        if limit > COARSEST_STEP:
            return np.zeros(self._each.size)
        above = np.add.reduceat(self.magnitudes > limit, self._starts, dtype=np.int64)
        found: Float64 = above * self._each
        return found


def _flag_bits(ones: Float64, size: Float64) -> Float64:
    """Return the expected bits of flags as coded gaps of the fewer, ones or zeros."""
    with np.errstate(invalid="ignore", divide="ignore"):
        density = np.clip(np.nan_to_num(ones / size), 0.0, 1.0)
        both = [
            np.where(p > 0, p * rice_bits(np.maximum(p, 1e-12)), 0.0)
            for p in (density, 1 - density)
        ]
    bits: Float64 = size * np.minimum(*both)
    return bits


MIN_GROUP_VALUES = 1024
"""A group of layers is closed when it has this many kept values."""
MAX_OVERRUN = 0.01
"""Most by which an update may pass its budget."""
_SHORTFALL = 0.01
_ENCODING_TRIALS = 6


def quantize(
    layers: Sequence[KeptNeighborhoods], room_bytes: float, indices: IndexKind
) -> EncodedLayers:
    """Quantise kept values with the step at which their code takes the given bytes.

    Parameters
    ----------
    layers : sequence of Kept
        What may be sent of each layer; the memory of their values is used up.
    room_bytes : float
        For ids, levels and tables together.
    indices : {"rice", "int32"}
        Coding of the ids.

    Returns
    -------
    Coded
        Within 1 % of ``room_bytes``, or below it where even the finest step takes less.

    Raises
    ------
    SettingError
        If not even an update that says nothing fits.
    RsdgcError
        If a value is NaN or infinite.
    """
    peaks = [layer.grid.peaks(layer.values, layer.ids) for layer in layers]
    for some_peaks in peaks:
        check_finite(max_magnitude(some_peaks))
    some = [index for index, layer in enumerate(layers) if layer.ids.size]
    fitted, outside = Quantizer(1.0), [np.zeros(layer.ids.size, np.bool_) for layer in layers]
    best = _code(layers, outside, fitted, indices)
    if best.size > (1 + MAX_OVERRUN) * room_bytes:
        msg = f"a budget of {room_bytes:.0f} bytes does not hold the update: allow more"
        raise SettingError(msg)
    if not some:
        return replace(best, kept=list(layers))
    search = StepSearch(
        [layers[index].values for index in some],
        [peaks[index] for index in some],
        [layers[index].grid.count for index in some],
        raw_ids=indices == "int32",
    )
    target, tried = 8 * room_bytes, set[float]()
    while len(tried) < _ENCODING_TRIALS:
        step = search.step(target)
        if step in tried:  # the finest or the coarsest
            break
        tried.add(step)
        quantizer = search.quantizer(step)
        chosen = [quantizer.is_outside(some_peaks) for some_peaks in peaks]
        found = _code(layers, chosen, quantizer, indices)
        if best.size < found.size <= (1 + MAX_OVERRUN) * room_bytes:
            best, fitted, outside = found, quantizer, chosen
        if best is found and found.size >= (1 - _SHORTFALL) * room_bytes:
            break
        target += 8 * (room_bytes - found.size)
    sent = []
    for layer, flags, ids in zip(layers, outside, best.kept, strict=True):
        pieces = layer.grid.select(layer.values, layer.ids, flags)
        sent.append(replace(ids, values=fitted.reconstruct(pieces, out=layer.values)))
    return replace(best, kept=sent)


def dequantize(
    sizes: Sequence[int], table: ByteReader, streams: RiceReader
) -> tuple[list[Float32], Float64]:
    """Take the values of all layers off a buffer that a peer sent.

    Parameters
    ----------
    sizes : sequence of int
        Kept values of each layer.
    table : Reader
        Stands before quantiser and groups, and is moved behind them.
    streams : RiceReader
        Stands behind the ids.

    Returns
    -------
    values : list of float32 [n]
        Of each layer.
    bits : float64 [num_layers]
        That its levels took; those of a group are shared out by size.

    Raises
    ------
    WireError
        If buffer and streams do not hold them.
    """
    values: list[Float32] = []
    bits = np.zeros(len(sizes))
    if not any(sizes):
        return [np.empty(0, dtype=np.float32) for _ in sizes], bits
    quantizer = Quantizer.unpack(table.take(Quantizer.NUM_BYTES, "the quantiser"))
    for group in groups_of(sizes):
        begin = streams.num_bits
        total = sum(sizes[group])
        levels = Levels.read(_read_codes(table), total, streams)
        bits[group] = np.array(sizes[group]) * ((streams.num_bits - begin) / total)
        values += _split(quantizer.dequantize(levels), sizes[group])
    return values + [np.empty(0, dtype=np.float32)] * (len(sizes) - len(values)), bits


def groups_of(sizes: Sequence[int]) -> Iterator[slice]:
    """Yield which layers make up each group, given the kept values of each layer."""
    start = total = 0
    for index, size in enumerate(sizes):
        total += size
        if total >= MIN_GROUP_VALUES:
            yield slice(start, index + 1)
            start, total = index + 1, 0
    if total:
        yield slice(start, len(sizes))


def _code(
    layers: Sequence[KeptNeighborhoods],
    outside: Sequence[Bools],
    quantizer: Quantizer,
    indices: IndexKind,
) -> EncodedLayers:
    """Code the neighborhoods that do not lie in the dead zone whole; what is kept has no values."""
    writer = RiceWriter()
    nothing = np.empty(0, dtype=np.float32)
    sent = [
        KeptNeighborhoods(layer.grid, extract(layer.ids, flags), nothing)
        for layer, flags in zip(layers, outside, strict=True)
    ]
    codes, bits, raw_ids = write_ids(sent, indices, writer)
    sizes = [layer.grid.num_members(layer.ids) for layer in sent]
    table = bytearray(quantizer.pack() if any(sizes) else b"")
    for group in groups_of(sizes):
        begin = writer.num_bits
        total = sum(sizes[group])
        pieces = (
            piece
            for layer, flags in zip(layers[group], outside[group], strict=True)
            for piece in layer.grid.select(layer.values, layer.ids, flags)
        )
        levels = quantizer.quantize(pieces, total)
        table += _pack_codes(levels.write(writer))
        bits[group] += np.array(sizes[group]) * ((writer.num_bits - begin) / total)
    return EncodedLayers(sent, codes, *writer.finish(), bits, bytes(table), raw_ids)


def _split(values: Float32, sizes: Sequence[int]) -> list[Float32]:
    return np.split(values, np.cumsum(sizes)[:-1])


def _pack_codes(codes: Sequence[PlaneCode]) -> bytes:
    found = bytearray()
    for plane in codes[:-1]:
        found.append(plane.code)
        found += b"" if plane.code == RAW_FLAGS else encode_varint(plane.num_ids)
    found.append(codes[-1].code)
    return bytes(found)


def _read_codes(table: ByteReader) -> list[PlaneCode]:
    codes = []
    for _ in range(PLANES):
        code = table.read_byte()
        codes.append(PlaneCode(code, 0 if code == RAW_FLAGS else table.read_varint()))
    return [*codes, PlaneCode(table.read_byte())]
