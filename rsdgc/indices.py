"""Ids of the kept neighborhoods of sparse layers: codes, counts, and the ids themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rsdgc.errors import SettingError, WireError
from rsdgc.kept import Coded, Kept, all_ids
from rsdgc.rice import MAX_RICE, RiceWriter, best_rice, gaps_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rsdgc.arrays import Float64, Int64
    from rsdgc.neighborhoods import Neighborhoods
    from rsdgc.reader import Reader
    from rsdgc.rice import RiceReader
    from rsdgc.scheme import IndexKind

WHOLE = 255
"""Code of a layer that is sent whole."""
ALL = 254
"""Code of a sparse layer all of whose neighborhoods are kept; others have a Rice parameter."""


def check_ids(ids: Int64, count: int) -> None:
    """Refuse ids that do not increase strictly from 0 to ``count - 1``.

    Raises
    ------
    SettingError
        If they do not.
    """
    if ids.size and (ids[0] < 0 or ids[-1] >= count or (np.diff(ids) <= 0).any()):
        msg = f"ids must increase strictly within 0 to {count - 1}: sort and deduplicate them"
        raise SettingError(msg)


class CodedIds(NamedTuple):
    """Ids of all sparse layers, coded.

    Attributes
    ----------
    codes : list of int
        A byte a layer.
    bits : float64 [num_layers]
        That the ids take.
    raw : bytes
        The ids as plain integers, if they are not in the streams.
    """

    codes: list[int]
    bits: Float64
    raw: bytes = b""


def code_ids(layers: Sequence[Kept], indices: IndexKind) -> Coded:
    """Code the ids of all sparse layers, whose values are coded elsewhere."""
    writer = RiceWriter()
    codes, bits, raw = write_ids(layers, indices, writer)
    return Coded(list(layers), codes, *writer.finish(), bits, raw_ids=raw)


def write_ids(layers: Sequence[Kept], indices: IndexKind, writer: RiceWriter) -> CodedIds:
    """Code the ids of all layers, into the streams unless they are plain integers."""
    codes: list[int] = []
    if indices == "int32":
        codes += [ALL if layer.ids.size == layer.hoods.count else 0 for layer in layers]
        raw = [
            b"" if code == ALL else layer.ids.astype("<u4").tobytes()
            for code, layer in zip(codes, layers, strict=True)
        ]
        return CodedIds(codes, np.array([8.0 * len(ids) for ids in raw]), b"".join(raw))
    marks = [writer.num_bits]
    for layer in layers:
        codes.append(_write(layer.ids, layer.hoods.count, writer))
        marks.append(writer.num_bits)
    return CodedIds(codes, np.diff(np.array(marks, dtype=np.float64)))


def read_counts(codes: Sequence[int], layers: Sequence[Neighborhoods], reader: Reader) -> list[int]:
    """Read how many neighborhoods of each sparse layer a peer claims to send.

    Raises
    ------
    WireError
        If there are no counts, or one is more than the layer has.
    """
    counts = []
    for code, hoods in zip(codes, layers, strict=True):
        count = hoods.count if code == ALL else reader.count()
        if (code != ALL and (code > MAX_RICE or count >= hoods.count)) or (code and not count):
            msg = f"{count} neighborhoods of {hoods.count} are claimed in code {code}"
            raise WireError(f"{msg}: refuse the upload")
        counts.append(count)
    return counts


def read_ids(
    codes: Sequence[int],
    counts: Sequence[int],
    layers: Sequence[Neighborhoods],
    streams: RiceReader,
) -> tuple[list[Int64 | None], Float64]:
    """Take the ids of all sparse layers off the streams that a peer sent.

    Returns
    -------
    ids : list of (int64 [k] or None)
        What :func:`rsdgc.kept.all_ids` returns where all neighborhoods are kept.
    bits : float64 [num_layers]
        That the ids took.

    Raises
    ------
    WireError
        If the streams do not hold them.
    """
    ids: list[Int64 | None] = []
    marks = [streams.num_bits]
    for code, count, hoods in zip(codes, counts, layers, strict=True):
        ids.append(all_ids(hoods) if code == ALL else streams.ids(count, code, hoods.count))
        marks.append(streams.num_bits)
    return ids, np.diff(np.array(marks, dtype=np.float64))


def read_raw_ids(
    codes: Sequence[int], counts: Sequence[int], layers: Sequence[Neighborhoods], reader: Reader
) -> tuple[list[Int64 | None], Float64]:
    """Take int32 ids off a buffer that a peer sent; otherwise as :func:`read_ids`."""
    if set(codes) - {0, ALL}:
        msg = f"layers of plain ids have the codes {sorted(set(codes))}: refuse the upload"
        raise WireError(msg)
    ids: list[Int64 | None] = []
    for code, count, hoods in zip(codes, counts, layers, strict=True):
        if code == ALL:
            ids.append(all_ids(hoods))
            continue
        raw = np.frombuffer(reader.take(4 * count, "the ids"), dtype="<u4").astype(np.int64)
        try:
            check_ids(raw, hoods.count)
        except SettingError as error:
            raise WireError(str(error)) from None
        ids.append(raw)
    bits = [0.0 if code == ALL else 32.0 * count for code, count in zip(codes, counts, strict=True)]
    return ids, np.array(bits)


def _write(ids: Int64, count: int, writer: RiceWriter) -> int:
    if ids.size == count:
        return ALL
    if not ids.size:
        return 0
    gaps = gaps_of(ids)
    rice = best_rice(gaps)
    writer.numbers(gaps, rice)
    return rice
