"""Running statistics of a model as bytes: those arrays that have changed, in float16.

Both ends know a *reference*: the arrays, by name, before the change. All numbers are
little-endian; arrays stand in the order of the reference.

=========  ==========  ===========================================================================
bytes      field       meaning
=========  ==========  ===========================================================================
4          magic       ``RSDB``
4          count       u32, arrays of the reference, N
⌈N/8⌉      present     bit i (least significant first) says whether array i follows
1 each     exponents   int8 of every array that follows: its values are multiplied by 2^exponent
2 each     values      float16 of all arrays that follow
=========  ==========  ===========================================================================

The exponent brings the largest magnitude of an array to float16's upper end. So variances of any
size fit, and a value keeps eleven significant bits down to 2⁻²⁹ of its array's largest.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np

from rsdgc.arrays import Float32
from rsdgc.errors import WireError

MAGIC = b"RSDB"
LARGEST_POWER = 15
"""float16 holds magnitudes below 2¹⁶; one power less leaves room for rounding."""
_HEAD = struct.Struct("<4sI")


def encode_statistics(arrays: Mapping[str, Float32], reference: Mapping[str, Float32]) -> bytes:
    """Encode the arrays that differ from the reference.

    Parameters
    ----------
    arrays, reference : mapping of str to float32 array
        The same names and shapes.

    Returns
    -------
    bytes
        Empty if nothing differs.

    Raises
    ------
    WireError
        A value is NaN or infinite.
    """
    present = [not np.array_equal(arrays[name], value) for name, value in reference.items()]
    if not any(present):
        return b""
    exponents, values = [], []
    for name, is_present in zip(reference, present, strict=True):
        if is_present:
            array = np.asarray(arrays[name], np.float32)
            largest = float(np.max(np.abs(array), initial=0.0))
            if not np.isfinite(largest):
                raise WireError(f"{name} is not finite: lower the learning rate")
            power = int(np.frexp(largest)[1]) if largest else LARGEST_POWER
            exponent = max(power - LARGEST_POWER, np.iinfo(np.int8).min)
            exponents.append(exponent)
            values.append(np.ldexp(array, -exponent).astype("<f2").tobytes())
    bits = np.packbits(np.array(present, np.uint8), bitorder="little").tobytes()
    head = _HEAD.pack(MAGIC, len(present))
    return b"".join([head, bits, np.array(exponents, np.int8).tobytes(), *values])


def decode_statistics(buffer: bytes, reference: Mapping[str, Float32]) -> dict[str, Float32]:
    """Decode the arrays that :func:`encode_statistics` encoded, without those that did not differ.

    Raises
    ------
    WireError
        It is not such a buffer, a value is not finite, or a variance is negative.
    """
    names = list(reference)
    bits_end = _HEAD.size + (len(names) + 7) // 8
    if len(buffer) < bits_end or _HEAD.unpack_from(buffer) != (MAGIC, len(names)):
        raise WireError(f"{len(buffer)} bytes are not the statistics of {len(names)} arrays")
    bits = np.unpackbits(np.frombuffer(buffer[_HEAD.size : bits_end], np.uint8), bitorder="little")
    if bits[len(names) :].any():
        raise WireError(f"the statistics name more than {len(names)} arrays")
    present = [name for name, bit in zip(names, bits, strict=False) if bit]
    sizes = [reference[name].size for name in present]
    start = bits_end + len(present)
    if len(buffer) != start + 2 * sum(sizes):
        raise WireError(
            f"statistics of {start + 2 * sum(sizes)} bytes are expected, and {len(buffer)} arrived"
        )
    exponents = np.frombuffer(buffer[bits_end:start], np.int8)
    arrays: dict[str, Float32] = {}
    for name, size, exponent in zip(present, sizes, exponents, strict=True):
        packed = np.frombuffer(buffer, "<f2", size, start).astype(np.float32)
        # NaN and infinity are refused below.
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.ldexp(packed, int(exponent)).astype(np.float32)
        if not np.isfinite(values).all():
            raise WireError(f"the statistics of {name} are not finite")
        if name.rpartition(".")[2] == "running_var" and (values < 0).any():
            raise WireError(f"a variance of {name} is negative")
        arrays[name] = values.reshape(reference[name].shape)
        start += 2 * size
    return arrays
