"""The change from one state of a model to the next, as bytes: named arrays in, named arrays out.

For code that has two states of a model and nothing else, such as two state dicts. An entry is coded
by its kind, as in the app:

========== ====================================== =================================================
kind       entries                                coded
========== ====================================== =================================================
compressed floating point                         inside the budget, with error feedback
running    running statistics of normalization,   whole, in float16, if they have changed
           or as the caller names them            (:mod:`rsdgc.statistics_codec`)
whole      integers, flags, empty arrays,         as they are, if they have changed
           or as the caller names them
========== ====================================== =================================================

The buffer says the kinds, so the receiver needs it and the model before the change. All numbers are
little-endian; arrays stand in the order of the model's entries.

====== ===== ============ ==========================================================================
offset bytes field        meaning
====== ===== ============ ==========================================================================
0      4     magic        ``RSDC``
4      1     version      1
5      4     checksum     CRC-32 of all that follows
9      8     layout       BLAKE2b of the names, shapes and dtypes of all entries
17     4     entries      u32, N
21     4     update       u32, bytes of the update
25     4     statistics   u32, bytes of the running statistics
29     N     kinds        0 compressed, 1 running, 2 whole and changed, 3 whole and unchanged
29+N         update       of the compressed entries (:mod:`rsdgc.codec.wire`)
…            statistics   of the running ones; empty if nothing has changed
…            whole        of the changed ones
====== ===== ============ ==========================================================================
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsdgc.arguments import BytesLike, payload_bytes
from rsdgc.arrays import Float32
from rsdgc.budget_compressor import BudgetCompressor
from rsdgc.codec.wire import decode
from rsdgc.compression import Compression
from rsdgc.errors import RsdgcError, SettingError, WireError
from rsdgc.spec import ModelSpec
from rsdgc.statistics_codec import decode_statistics, encode_statistics

AnyArray: TypeAlias = NDArray[Any]

MAGIC = b"RSDC"
VERSION = 1
RUNNING_NAMES = ("running_mean", "running_var", "num_batches_tracked")
"""What PyTorch calls the running statistics of a normalization layer.

The last is an integer, and of floating point after it has been averaged.
"""
_COMPRESSED, _RUNNING, _CHANGED, _UNCHANGED = range(4)
_HEAD = struct.Struct("<4sBI")
_FIELDS = struct.Struct("<8sIII")


class ChangeCompressor:
    """Compresses a model's changes, one after another, with error feedback.

    ::

        compressor = ChangeCompressor(before, Compression("100x"))
        payload = compressor.compress(before, after)
        after = apply_change(before, payload)  # anywhere else

    Parameters
    ----------
    model : mapping of str to array
        The model's entries; only their names, shapes and dtypes count.
    compression : Compression, optional
        How much of the compressed entries is sent, and in which form; 100× by default. Running
        statistics and whole entries come on top of its budget.
    running : collection of str, optional
        Entries that are running statistics; by default those named as PyTorch names them.
    whole : collection of str
        Other entries of floating point that are sent whole, such as the mean of an integer.

    Raises
    ------
    SettingError
        No entry is of floating point, one is complex, or the budget is too small.
    """

    def __init__(
        self,
        model: Mapping[str, AnyArray],
        compression: Compression | None = None,
        running: Collection[str] | None = None,
        whole: Collection[str] = (),
    ) -> None:
        self._layout = layout_of(model)
        self._kinds = {name: _kind(name, array, running, whole) for name, array in model.items()}
        self.compressor = BudgetCompressor(_spec(model, self._kinds), compression)

    def compress(self, before: Mapping[str, AnyArray], after: Mapping[str, AnyArray]) -> bytes:
        """Return what changes one state into the next, and keep what the bytes leave out.

        Parameters
        ----------
        before, after : mapping of str to array
            The model's entries, not changed.

        Raises
        ------
        SettingError
            Names, shapes or dtypes are not the model's.
        RsdgcError
            A value is NaN or infinite. The message names the entry.
        """
        for state in (before, after):
            _check_layout(state, self._layout)
        compressed = [name for name, kind in self._kinds.items() if kind == _COMPRESSED]
        running = [name for name, kind in self._kinds.items() if kind == _RUNNING]
        statistics = encode_statistics(
            {name: _floats(after[name]) for name in running},
            {name: _floats(before[name]) for name in running},
        )
        with np.errstate(over="ignore", invalid="ignore"):  # reported by the compressor
            changes = [(after[n] - before[n]).astype(np.float32).reshape(-1) for n in compressed]

        def weights() -> Float32:
            return np.concatenate([_floats(before[name]).reshape(-1) for name in compressed])

        kinds, whole = bytearray(), []
        for name, kind in self._kinds.items():
            if kind == _CHANGED and np.array_equal(before[name], after[name]):
                kind = _UNCHANGED  # noqa: PLW2901
            elif kind == _CHANGED:
                array = after[name]
                if not _is_finite(array):
                    raise RsdgcError(f"entry {name!r}: it holds NaN or infinity")
                whole.append(array.astype(array.dtype.newbyteorder("<")).tobytes())
            kinds.append(kind)
        update = self.compressor.compress(changes, weights).payload  # the last that may raise
        fields = _FIELDS.pack(self._layout, len(kinds), len(update), len(statistics))
        body = b"".join([fields, kinds, update, statistics, *whole])
        return _HEAD.pack(MAGIC, VERSION, zlib.crc32(body)) + body

    def roll_back(self, payload: BytesLike) -> None:
        """Keep what a payload held, too, because it did not arrive.

        Raises
        ------
        WireError
            The payload is not a change of this model.
        """
        # Its layout may have other dtypes, if the model's have changed since. What counts are the
        # compressed entries, and the update has their signature.
        _, update, _, _ = _split(payload_bytes(payload))
        self.compressor.roll_back(decode(update, self.compressor.spec))


def apply_change(before: Mapping[str, AnyArray], payload: BytesLike) -> dict[str, AnyArray]:
    """Return the model after a change that :meth:`ChangeCompressor.compress` encoded.

    Parameters
    ----------
    before : mapping of str to array
        The model before the change; not changed.
    payload : bytes-like
        What arrived. Nothing in it is trusted.

    Returns
    -------
    dict of str to array
        New arrays with the names, order, shapes and dtypes of ``before``.

    Raises
    ------
    WireError
        The payload is not a change of this model.
    """
    kinds, update, statistics, whole = _split(payload_bytes(payload), before)
    by_name = dict(zip(before, kinds, strict=True))
    for name, kind in by_name.items():
        if kind > _UNCHANGED or (kind in (_COMPRESSED, _RUNNING) and not _is_float(before[name])):
            raise WireError(f"entry {name!r} of type {before[name].dtype} has the kind {kind}")
    if _COMPRESSED not in kinds:
        raise WireError("the change has no compressed entry")
    after = {name: np.array(array) for name, array in before.items()}
    spec = _spec(before, by_name)
    decoded = decode(update, spec)
    for layer, part in zip(spec.layers, decoded.layers, strict=True):
        change = np.zeros(layer.size, np.float32)
        part.add_to(change)
        array = after[layer.name]
        # asarray, because the sum of arrays without dimensions is no array.
        after[layer.name] = np.asarray(array + change.reshape(layer.shape), array.dtype)
    reference = {n: _floats(before[n]) for n, kind in by_name.items() if kind == _RUNNING}
    if statistics:
        for name, array in decode_statistics(statistics, reference).items():
            after[name] = array.astype(before[name].dtype)
    changed = [name for name, kind in by_name.items() if kind == _CHANGED]
    return after | _read_whole({name: before[name] for name in changed}, whole)


def _read_whole(before: Mapping[str, AnyArray], buffer: bytes) -> dict[str, AnyArray]:
    """Return the entries of a buffer, as those before the change are shaped."""
    after: dict[str, AnyArray] = {}
    position = 0
    for name, array in before.items():
        wire = array.dtype.newbyteorder("<")
        if position + array.nbytes > len(buffer):
            raise WireError(f"entry {name!r} is cut short")
        values = np.frombuffer(buffer, wire, array.size, position).reshape(array.shape)
        if not _is_finite(values):
            raise WireError(f"entry {name!r} is not finite")
        after[name] = values.astype(array.dtype)
        position += array.nbytes
    if position != len(buffer):
        raise WireError(f"the change has {len(buffer) - position} bytes after its last entry")
    return after


def layout_of(model: Mapping[str, AnyArray]) -> bytes:
    """Return eight bytes that identify names, order, shapes and dtypes of a model's entries."""
    digest = hashlib.blake2b(digest_size=8)
    for name, array in model.items():
        digest.update(repr((name, array.shape, array.dtype.str.lstrip("<>=|"))).encode())
    return digest.digest()


def _split(
    payload: bytes, model: Mapping[str, AnyArray] | None = None
) -> tuple[bytes, bytes, bytes, bytes]:
    """Return kinds, update, statistics and whole entries of a payload, of a model if one is given.

    Raises :class:`WireError` if the payload is not valid.
    """
    head = _HEAD.size + _FIELDS.size
    if len(payload) < head or payload[: len(MAGIC)] != MAGIC:
        raise WireError(f"{len(payload)} bytes are not a model's change")
    _, version, checksum = _HEAD.unpack_from(payload)
    if version != VERSION:
        raise WireError(f"the change has version {version}: install the rsdgc that wrote it")
    body = payload[_HEAD.size :]
    if zlib.crc32(body) != checksum:
        raise WireError("the change arrived damaged: its checksum does not match")
    sent_layout, entries, update_bytes, statistics_bytes = _FIELDS.unpack_from(body)
    if model is not None and (sent_layout, entries) != (layout_of(model), len(model)):
        raise WireError(
            "the change is of a model with other names, shapes or dtypes: both ends must have the "
            "same model"
        )
    ends = np.cumsum([_FIELDS.size, entries, update_bytes, statistics_bytes]).tolist()
    if ends[-1] > len(body):
        raise WireError(f"the change needs {ends[-1]} bytes and {len(body)} arrived")
    return (
        body[ends[0] : ends[1]],
        body[ends[1] : ends[2]],
        body[ends[2] : ends[3]],
        body[ends[3] :],
    )


def _check_layout(state: Mapping[str, AnyArray], layout: bytes) -> None:
    if layout_of(state) != layout:
        raise SettingError(
            "the names, shapes or dtypes of the entries are not those of the model that the "
            "compressor was made for: make one for each model"
        )


def _kind(
    name: str, array: AnyArray, running: Collection[str] | None, whole: Collection[str]
) -> int:
    if array.dtype.kind not in "fiub":
        raise SettingError(f"entry {name!r} has the dtype {array.dtype}: pass real numbers")
    if not _is_float(array):
        return _CHANGED
    is_running = name.rpartition(".")[2] in RUNNING_NAMES if running is None else name in running
    if is_running:
        return _RUNNING
    return _CHANGED if name in whole else _COMPRESSED


def _is_finite(array: AnyArray) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _is_float(array: AnyArray) -> bool:
    return array.dtype.kind == "f" and array.size > 0


def _spec(model: Mapping[str, AnyArray], kinds: Mapping[str, int]) -> ModelSpec:
    shapes = {n: array.shape for n, array in model.items() if kinds[n] == _COMPRESSED}
    return ModelSpec.from_shapes(shapes)


def _floats(array: AnyArray) -> Float32:
    return array.astype(np.float32)
