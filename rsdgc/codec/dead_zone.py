"""The dead-zone coding: values as levels of one step for the whole update, inside a byte budget.

Neighborhoods that lie in the dead zone completely are not sent. So each one that is sent has at
least a sign bit, and no buffer can claim more neighborhoods than it has bits.

Beside the ids and what :mod:`rsdgc.codec.bit_planes` puts into the streams, the coding writes a
table: the step (float32) and its three offsets (a signed byte each), then for each group of layers
the codes of its three planes, each followed by the number of its ids (varint) unless it is
:data:`~rsdgc.codec.bit_planes.RAW_FLAGS`, and the Rice parameter of its large levels, a byte. An
update that keeps nothing has an empty table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from rsdgc.arrays import Bools, Float32, Float64, check_finite, extract, max_magnitude
from rsdgc.codec.bit_planes import PLANES, RAW_FLAGS, Levels, PlaneCode
from rsdgc.codec.byte_stream import ByteReader, encode_varint
from rsdgc.codec.golomb_rice import RiceReader, RiceWriter
from rsdgc.codec.indices import EncodedLayers, IndexKind, KeptNeighborhoods, write_ids
from rsdgc.codec.quantizer import Quantizer
from rsdgc.codec.step_search import StepSearch
from rsdgc.codec.values import VALUE_CODINGS, JointCoding
from rsdgc.errors import SettingError

MIN_GROUP_VALUES = 1024
"""A group of layers is closed when it has this many kept values.

Its table row takes about eight bytes: next to nothing beside the 250 bytes that a thousand values
of two bits take. Larger groups would mix layers whose levels are distributed differently.
"""
MAX_OVERRUN = 0.01
"""Share by which an update may exceed its budget."""
_MAX_SHORTFALL = 0.01
_ENCODING_TRIALS = 6
"""Each costs a pass over the values. The second one usually hits; the others are for updates of
which a neighborhood more or less is a large part of the budget."""


@VALUE_CODINGS.register("deadzone")
class DeadZone(JointCoding):
    """Levels of one step, entropy coded; see the module."""

    code = 4
    always_finite = True
    bits_per_value = 2.0
    """What ratios allow for; the step makes up for what values really take. With fewer bits the
    budget carries more neighborhoods of coarser values: on real updates 2.0 captures the most
    energy at 50× to 1000× (docs/experiments.md)."""

    def encode(
        self, layers: Sequence[KeptNeighborhoods], room_bytes: float, indices: IndexKind
    ) -> EncodedLayers:
        """Encode with the step at which the code takes the given bytes within 1 %.

        It takes less only where even the finest step does. See :meth:`JointCoding.encode`.
        """
        peaks = [layer.grid.peaks(layer.values, layer.ids) for layer in layers]
        for layer_peaks in peaks:
            check_finite(max_magnitude(layer_peaks))
        # First what always fits if anything does: an update of which nothing is outside.
        quantizer = Quantizer(1.0)
        outside = [np.zeros(layer.ids.size, np.bool_) for layer in layers]
        best = _encode_levels(layers, outside, quantizer, indices)
        if best.size > (1 + MAX_OVERRUN) * room_bytes:
            left = max(0.0, room_bytes)  # beside the header and what is sent whole
            msg = f"the budget leaves {left:.0f} bytes for the values, which is too few: allow more"
            raise SettingError(msg)
        filled = [index for index, layer in enumerate(layers) if layer.ids.size]
        if not filled:
            return replace(best, kept=list(layers))
        search = StepSearch(
            [layers[index].values for index in filled],
            [peaks[index] for index in filled],
            [layers[index].grid.count for index in filled],
            raw_ids=indices == "int32",
        )
        # The expected size is near the real one but not equal to it. So the target moves by what
        # the last trial missed, until the real size is right.
        target_bits, tried = 8 * room_bytes, set[float]()
        while len(tried) < _ENCODING_TRIALS:
            step = search.step(target_bits)
            if step in tried:  # the finest or the coarsest step: the target is out of reach
                break
            tried.add(step)
            trial_quantizer = search.quantizer(step)
            trial_outside = [trial_quantizer.is_outside(layer_peaks) for layer_peaks in peaks]
            trial = _encode_levels(layers, trial_outside, trial_quantizer, indices)
            if best.size < trial.size <= (1 + MAX_OVERRUN) * room_bytes:
                best, quantizer, outside = trial, trial_quantizer, trial_outside
                if trial.size >= (1 - _MAX_SHORTFALL) * room_bytes:
                    break
            target_bits += 8 * (room_bytes - trial.size)
        # Only now are the values overwritten by what they decode to: a trial needs the originals.
        kept = []
        for layer, flags in zip(layers, outside, strict=True):
            pieces = layer.grid.select(layer.values, layer.ids, flags)
            values = quantizer.reconstruct(pieces, out=layer.values)
            kept.append(KeptNeighborhoods(layer.grid, extract(layer.ids, flags), values))
        return replace(best, kept=kept)

    def decode(
        self, sizes: Sequence[int], table: ByteReader, streams: RiceReader
    ) -> tuple[list[Float32], Float64]:
        """Decode group by group; the bits of a group are shared out by size."""
        values: list[Float32] = []
        bits = np.zeros(len(sizes))
        if not any(sizes):
            return [np.empty(0, dtype=np.float32) for _ in sizes], bits
        quantizer = Quantizer.unpack(table.take(Quantizer.NUM_BYTES, "the quantizer"))
        for group in group_layers(sizes):
            start = streams.num_bits
            total = sum(sizes[group])
            levels = Levels.read(_read_codes(table), total, streams)
            bits[group] = np.array(sizes[group]) * ((streams.num_bits - start) / total)
            values += np.split(quantizer.dequantize(levels), np.cumsum(sizes[group])[:-1])
        return values + [np.empty(0, dtype=np.float32)] * (len(sizes) - len(values)), bits


def group_layers(sizes: Sequence[int]) -> Iterator[slice]:
    """Yield which consecutive layers, of these numbers of kept values, make up each group.

    Small layers share a group, and so the few bytes that say how its planes are coded.
    """
    start = total = 0
    for index, size in enumerate(sizes):
        total += size
        if total >= MIN_GROUP_VALUES:
            yield slice(start, index + 1)
            start, total = index + 1, 0
    if total:
        yield slice(start, len(sizes))


def _encode_levels(
    layers: Sequence[KeptNeighborhoods],
    outside: Sequence[Bools],
    quantizer: Quantizer,
    indices: IndexKind,
) -> EncodedLayers:
    """Code the neighborhoods outside the dead zone; the result does not say what is kept."""
    writer = RiceWriter()
    sizes: list[int] = []

    def sent() -> Iterator[KeptNeighborhoods]:
        # One layer at a time: the ids of all would take the memory of those offered once more.
        for layer, flags in zip(layers, outside, strict=True):
            ids = extract(layer.ids, flags)
            sizes.append(layer.grid.num_members(ids))
            yield KeptNeighborhoods(layer.grid, ids, np.empty(0, np.float32))

    codes, counts, bits, raw_ids = write_ids(sent(), indices, writer)
    table = bytearray(quantizer.pack() if any(sizes) else b"")
    for group in group_layers(sizes):
        start = writer.num_bits
        total = sum(sizes[group])
        pieces = (
            piece
            for layer, flags in zip(layers[group], outside[group], strict=True)
            for piece in layer.grid.select(layer.values, layer.ids, flags)
        )
        # The levels get no name: those of one group are freed before the next one's are made.
        table += _pack_codes(quantizer.quantize(pieces, total).write(writer))
        bits[group] += np.array(sizes[group]) * ((writer.num_bits - start) / total)
    return EncodedLayers([], codes, counts, *writer.finish(), bits, bytes(table), raw_ids)


def _pack_codes(codes: Sequence[PlaneCode]) -> bytes:
    packed = bytearray()
    for plane in codes[:-1]:
        packed.append(plane.code)
        packed += b"" if plane.code == RAW_FLAGS else encode_varint(plane.num_ids)
    packed.append(codes[-1].code)
    return bytes(packed)


def _read_codes(table: ByteReader) -> list[PlaneCode]:
    codes = []
    for _ in range(PLANES):
        code = table.read_byte()
        codes.append(PlaneCode(code, 0 if code == RAW_FLAGS else table.read_varint()))
    return [*codes, PlaneCode(table.read_byte())]
