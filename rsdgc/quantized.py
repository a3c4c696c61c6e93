"""Updates whose kept values are levels of one step: choice of the step, coding, decoding.

Neighborhoods in which every value falls into the dead zone are not sent; so each one sent has at
least a sign bit, and no buffer can claim more neighborhoods than it has bits. Consecutive layers
are joined into groups of at least :data:`GROUP` kept values, so that small layers share the few
bytes that say how planes are coded (:mod:`rsdgc.levels`).

What is written, beside the ids: the step (float32) and its three offsets (a signed byte each);
then for each group the codes of its three planes, each followed by the number of ids (varint) if
it is not :data:`rsdgc.levels.RAW`, and the Rice parameter of its large levels, a byte. An update
that keeps nothing has neither step nor groups.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rsdgc.arrays import check_finite, peak, pick
from rsdgc.errors import SettingError
from rsdgc.indices import write_ids
from rsdgc.kept import Coded, Kept
from rsdgc.levels import PLANES, RAW, Levels, PlaneCode
from rsdgc.quantizer import Quantizer
from rsdgc.rate import StepSearch
from rsdgc.rice import RiceWriter
from rsdgc.varint import varint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rsdgc.arrays import Bools, Float32, Float64
    from rsdgc.reader import Reader
    from rsdgc.rice import RiceReader
    from rsdgc.scheme import IndexKind

GROUP = 1024
"""A group of layers is closed when it has this many kept values."""
OVERRUN = 0.01
"""Most by which an update may pass its budget."""
_SHORTFALL = 0.01
_TRIALS = 6


def quantize(layers: Sequence[Kept], room_bytes: float, indices: IndexKind) -> Coded:
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
    peaks = [layer.hoods.peaks(layer.values, layer.ids) for layer in layers]
    for some_peaks in peaks:
        check_finite(peak(some_peaks))
    some = [index for index, layer in enumerate(layers) if layer.ids.size]
    fitted, outside = Quantizer(1.0), [np.zeros(layer.ids.size, np.bool_) for layer in layers]
    best = _code(layers, outside, fitted, indices)
    if best.size > (1 + OVERRUN) * room_bytes:
        msg = f"a budget of {room_bytes:.0f} bytes does not hold the update: allow more"
        raise SettingError(msg)
    if not some:
        return replace(best, kept=list(layers))
    search = StepSearch(
        [layers[index].values for index in some],
        [peaks[index] for index in some],
        [layers[index].hoods.count for index in some],
        raw_ids=indices == "int32",
    )
    target, tried = 8 * room_bytes, set[float]()
    while len(tried) < _TRIALS:
        step = search.step(target)
        if step in tried:  # the finest or the coarsest
            break
        tried.add(step)
        quantizer = search.quantizer(step)
        chosen = [quantizer.is_outside(some_peaks) for some_peaks in peaks]
        found = _code(layers, chosen, quantizer, indices)
        if best.size < found.size <= (1 + OVERRUN) * room_bytes:
            best, fitted, outside = found, quantizer, chosen
        if best is found and found.size >= (1 - _SHORTFALL) * room_bytes:
            break
        target += 8 * (room_bytes - found.size)
    sent = []
    for layer, flags, ids in zip(layers, outside, best.kept, strict=True):
        pieces = layer.hoods.select(layer.values, layer.ids, flags)
        sent.append(replace(ids, values=fitted.round(pieces, out=layer.values)))
    return replace(best, kept=sent)


def dequantize(
    sizes: Sequence[int], table: Reader, streams: RiceReader
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
        values += _split(quantizer.values(levels), sizes[group])
    return values + [np.empty(0, dtype=np.float32)] * (len(sizes) - len(values)), bits


def groups_of(sizes: Sequence[int]) -> Iterator[slice]:
    """Yield which layers make up each group, given the kept values of each layer."""
    start = total = 0
    for index, size in enumerate(sizes):
        total += size
        if total >= GROUP:
            yield slice(start, index + 1)
            start, total = index + 1, 0
    if total:
        yield slice(start, len(sizes))


def _code(
    layers: Sequence[Kept], outside: Sequence[Bools], quantizer: Quantizer, indices: IndexKind
) -> Coded:
    """Code the neighborhoods that do not lie in the dead zone whole; what is kept has no values."""
    writer = RiceWriter()
    nothing = np.empty(0, dtype=np.float32)
    sent = [
        Kept(layer.hoods, pick(layer.ids, flags), nothing)
        for layer, flags in zip(layers, outside, strict=True)
    ]
    codes, bits, raw_ids = write_ids(sent, indices, writer)
    sizes = [layer.hoods.num_members(layer.ids) for layer in sent]
    table = bytearray(quantizer.pack() if any(sizes) else b"")
    for group in groups_of(sizes):
        begin = writer.num_bits
        total = sum(sizes[group])
        pieces = (
            piece
            for layer, flags in zip(layers[group], outside[group], strict=True)
            for piece in layer.hoods.select(layer.values, layer.ids, flags)
        )
        levels = quantizer.levels(pieces, total)
        table += _pack_codes(levels.write(writer))
        bits[group] += np.array(sizes[group]) * ((writer.num_bits - begin) / total)
    return Coded(sent, codes, *writer.finish(), bits, bytes(table), raw_ids)


def _split(values: Float32, sizes: Sequence[int]) -> list[Float32]:
    return np.split(values, np.cumsum(sizes)[:-1])


def _pack_codes(codes: Sequence[PlaneCode]) -> bytes:
    found = bytearray()
    for plane in codes[:-1]:
        found.append(plane.code)
        found += b"" if plane.code == RAW else varint(plane.num_ids)
    found.append(codes[-1].code)
    return bytes(found)


def _read_codes(table: Reader) -> list[PlaneCode]:
    codes = []
    for _ in range(PLANES):
        code = table.byte()
        codes.append(PlaneCode(code, 0 if code == RAW else table.count()))
    return [*codes, PlaneCode(table.byte())]
