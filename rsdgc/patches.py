"""Patches of the published model: packing, checking, applying, and the model's fingerprint.

A patch is one encoded update (:mod:`rsdgc.codec.wire`) whose stamp holds the run, the version it
leads to (``round``) and the one it starts from (``base``, one less). Any number of successive
patches travel in one buffer, all numbers little-endian:

====== ===== ========= =====================================================
offset bytes field     meaning
====== ===== ========= =====================================================
0      4     magic     ``RSDP``
4      4     count     u32, N
8      8·N   lengths   u64 each
8+8·N        patches   one after another, nothing between or after them
====== ===== ========= =====================================================

Every patch carries its own checksum and model signature. A replica that applies all patches in
order on the CPU equals the published model bit for bit: a patch decodes to the same float32 values
everywhere, and each value is added once. The fingerprint, sixteen bytes, lets both ends check it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

import numpy as np

from rsdgc.arrays import Float32
from rsdgc.channel_transform import find_transform
from rsdgc.codec.wire import decode
from rsdgc.errors import WireError
from rsdgc.spec import ModelSpec
from rsdgc.update import SparseUpdate

MAGIC = b"RSDP"
FINGERPRINT_BYTES = 16
_HEAD = struct.Struct("<4sI")
_LENGTH = struct.Struct("<Q")


def pack_patches(patches: Sequence[bytes]) -> bytes:
    """Pack encoded patches, oldest first, into one buffer."""
    lengths = b"".join(_LENGTH.pack(len(patch)) for patch in patches)
    return b"".join([_HEAD.pack(MAGIC, len(patches)), lengths, *patches])


def unpack_patches(buffer: bytes) -> list[bytes]:
    """Split a buffer of packed patches; the patches themselves are not checked.

    Raises
    ------
    WireError
        It is not such a buffer, or its lengths do not add up to what arrived.
    """
    if len(buffer) < _HEAD.size:
        msg = f"the patches of {len(buffer)} bytes are shorter than their header: resend them"
        raise WireError(msg)
    magic, count = _HEAD.unpack_from(buffer)
    start = _HEAD.size + count * _LENGTH.size
    # Before the lengths are read: a false count must not make them run past the end.
    if magic != MAGIC or start > len(buffer):
        msg = f"the buffer starts with {magic!r} and claims {count} patches: it is not valid"
        raise WireError(f"{msg}, resend it")
    patches = []
    for (length,) in _LENGTH.iter_unpack(buffer[_HEAD.size : start]):
        patches.append(buffer[start : start + length])
        start += length
    if start != len(buffer):
        raise WireError(f"the patches need {start} bytes and {len(buffer)} arrived: resend them")
    return patches


def read_patch(payload: bytes, spec: ModelSpec, run: int) -> SparseUpdate:
    """Decode a patch and check that it belongs to the run and leads to the next version.

    Raises
    ------
    WireError
        It does not, or it is not a valid update of this model.
    """
    update = decode(payload, spec)
    stamp = update.stamp
    if stamp.run != run or stamp.round != stamp.base + 1:
        raise WireError(
            f"the patch leads from version {stamp.base} to {stamp.round} of run {stamp.run}: "
            f"a patch to the next version of run {run} is needed"
        )
    return update


def apply_patches(
    target: Float32,
    version: int,
    patches: Sequence[bytes],
    spec: ModelSpec,
    run: int,
    reference: Float32 | None = None,
) -> int:
    """Bring a replica up to date, in place, and return the version reached.

    Parameters
    ----------
    target : float32 [spec.size]
        The published model at ``version``. After an error it may be changed in part.
    version : int
        Version of the replica. Patches up to it are skipped, because they are in it already.
    patches : sequence of bytes
        Successive patches.
    spec, run
        The model and the run that they must belong to.
    reference : float32 [n], optional
        The reference of the channel transform (:func:`rsdgc.channel_transform.transformed_part`);
        needed for patches that are transformed.

    Raises
    ------
    WireError
        A patch is not valid, or does not start from the version reached, or the reference is
        missing.
    """
    for payload in patches:
        update = read_patch(payload, spec, run)
        # The replica may be newer than the server knows, if its last reply was lost.
        if update.stamp.round <= version:
            continue
        if update.stamp.base != version:
            msg = f"a patch from version {update.stamp.base} does not fit version {version}"
            raise WireError(f"{msg}: send the patches between them, or the model")
        _apply_patch(update, target, reference)
        version = update.stamp.round
    return version


def _apply_patch(update: SparseUpdate, target: Float32, reference: Float32 | None) -> None:
    """Add a patch to the version of the published model that it starts from, in place."""
    if update.scheme.transform == "none":
        update.add_to(target)
    elif reference is None:
        raise WireError("the patch is transformed, and the reference of the transform is missing")
    else:
        find_transform(update.spec, target, reference).add_to(update, target)


def fingerprint(weights: Float32) -> bytes:
    """Return the fingerprint of a model's weights, float32 [n].

    The first 16 bytes of SHA-256 over the values as little-endian float32. A zero and a negative
    zero differ, as they do in memory.
    """
    content = np.ascontiguousarray(weights, dtype="<f4").data.cast("B")
    return hashlib.sha256(content).digest()[:FINGERPRINT_BYTES]
