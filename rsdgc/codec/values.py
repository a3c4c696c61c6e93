"""Value codings: how the values of the kept neighborhoods become bytes, and back.

A coding is a class. It is registered by a name, which settings use, and has a code, which the
header of an encoded update uses::

    @VALUE_CODINGS.register("bfloat16")
    class BFloat16(LayerCoding):
        code = 128
        bits_per_value = 16

        def encode(self, values):
            return [(values.view("<u4") >> 16).astype("<u2").tobytes()]

        def decode(self, buffer, count):
            return (np.frombuffer(buffer, "<u2").astype("<u4") << 16).view("<f4")

    Scheme(values="bfloat16")  # once the module is imported
    Scheme(values="my_package.my_module:BFloat16")  # imports the module; needs no registration

There are two kinds. A :class:`LayerCoding` codes the values of one layer, and their number alone
decides the size (:mod:`rsdgc.codec.layer_codings`). A :class:`JointCoding` codes all layers
together inside a byte budget, and chooses which of the offered neighborhoods to send
(:mod:`rsdgc.codec.dead_zone`).

All numbers on the wire are little-endian.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np

from rsdgc.arrays import Float32, Float64, check_finite, max_magnitude
from rsdgc.codec.byte_stream import ByteReader
from rsdgc.codec.golomb_rice import RiceReader
from rsdgc.codec.indices import EncodedLayers, IndexKind, KeptNeighborhoods
from rsdgc.errors import SettingError, WireError
from rsdgc.registry import Registry

Buffer: TypeAlias = bytes | memoryview

_CLASSES: dict[int, type[ValueCoding]] = {}
"""Every coding that was defined in this process, by its code."""


class ValueCoding(ABC):
    """What every value coding declares; subclass :class:`LayerCoding` or :class:`JointCoding`.

    A coding has no state and is made without arguments. Its decoder gets bytes that a peer sent: it
    must return values or raise only :class:`rsdgc.WireError`. The same bytes must decode
    to the same bits on every machine.

    Attributes
    ----------
    code : int
        The coding's number on the wire, 0 to 255. Numbers below 128 are the project's own. A
        number that has been used must never be used for another coding.
    bits_per_value : float
        Bits that a value takes; for a joint coding, what the ratios should allow for.
    overhead_bytes : int
        Bytes that a layer takes in addition, such as for a scale.
    for_whole_layers : bool
        Whether ``dense_values`` may name it, to code layers that are sent whole. That takes a
        :class:`LayerCoding`.
    always_finite : bool
        Whether decoding never returns NaN or infinity. If it may, the values are checked.
    """

    code: ClassVar[int]
    bits_per_value: ClassVar[float]
    overhead_bytes: ClassVar[int] = 0
    for_whole_layers: ClassVar[bool] = False
    always_finite: ClassVar[bool] = False

    def __init_subclass__(cls, **words: Any) -> None:
        """Claim the code of a new coding; :class:`SettingError` if it is taken or not a byte."""
        super().__init_subclass__(**words)
        if "code" not in vars(cls):
            return
        if not 0 <= cls.code <= 255:
            msg = f"value coding {cls.__name__} has the code {cls.code}: choose 128 to 255"
            raise SettingError(msg)
        # A module that is imported twice defines the same class again, which is not a conflict.
        owner = _CLASSES.get(cls.code, cls)
        if (owner.__module__, owner.__qualname__) != (cls.__module__, cls.__qualname__):
            msg = f"value codings {owner.__name__} and {cls.__name__} have the same code {cls.code}"
            raise SettingError(f"{msg}: choose another from 128 to 255")
        _CLASSES[cls.code] = cls


class LayerCoding(ValueCoding):
    """A coding of one layer's values, in a number of bytes that their number decides."""

    @abstractmethod
    def encode(self, values: Float32) -> Sequence[Buffer]:
        """Encode the values of one layer.

        Parameters
        ----------
        values : float32 [n]
            Finite, contiguous, at least one. Not to be changed.

        Returns
        -------
        sequence of bytes-like
            To be joined; together :meth:`num_bytes` long.
        """

    @abstractmethod
    def decode(self, buffer: memoryview, count: int) -> Float32:
        """Decode the values of one layer that a peer sent.

        Parameters
        ----------
        buffer : memoryview of bytes
            Exactly ``num_bytes(count)`` long.
        count : int
            Number of values; at least one.

        Returns
        -------
        float32 [count]
            May share the buffer's memory.

        Raises
        ------
        WireError
            The bytes are not what :meth:`encode` writes.
        """

    def num_bytes(self, count: int) -> int:
        """Return the encoded size of ``count`` values of one layer; 0 for none."""
        if not count:
            return 0
        return self.overhead_bytes + math.ceil(count * self.bits_per_value / 8)


class JointCoding(ValueCoding):
    """A coding of the values of all layers together, inside a byte budget.

    The layers share two bit streams with the ids (:mod:`rsdgc.codec.golomb_rice`). Every
    neighborhood that is sent must take at least one bit of the plain stream: the decoder relies on
    that to refuse a small buffer that claims many neighborhoods before it takes memory for them.
    """

    @abstractmethod
    def encode(
        self, layers: Sequence[KeptNeighborhoods], room_bytes: float, indices: IndexKind
    ) -> EncodedLayers:
        """Encode what fits of the kept neighborhoods of all layers, ids and values.

        Parameters
        ----------
        layers : sequence of KeptNeighborhoods
            What may be sent of each layer. The memory of the values may be reused.
        room_bytes : float
            Bytes for ids, values and tables together.
        indices : {"rice", "int32"}
            Coding of the ids.

        Returns
        -------
        EncodedLayers
            What is sent, with the values that a decoder finds.

        Raises
        ------
        SettingError
            The room does not hold an update that keeps nothing.
        RsdgcError
            A value is NaN or infinite.
        """

    @abstractmethod
    def decode(
        self, sizes: Sequence[int], table: ByteReader, streams: RiceReader
    ) -> tuple[list[Float32], Float64]:
        """Decode the values of all layers that a peer sent.

        Parameters
        ----------
        sizes : sequence of int
            Number of values of each layer.
        table : ByteReader
            At the coding's own bytes; moved behind them.
        streams : RiceReader
            Behind the ids.

        Returns
        -------
        values : list of float32 [n]
            Of each layer.
        bits : float64 [num_layers]
            Bits of the streams that each layer took.

        Raises
        ------
        WireError
            The table or the streams are not what :meth:`encode` writes.
        """


Coding: TypeAlias = LayerCoding | JointCoding
VALUE_CODINGS: Registry[type[ValueCoding]] = Registry("value coding")


def find_coding(name: str) -> Coding:
    """Return the coding of a registered name or a path; :class:`SettingError` if there is none."""
    item = VALUE_CODINGS[name]  # a path may lead to anything
    if item in _CLASSES.values() and issubclass(item, (LayerCoding, JointCoding)):
        return item()
    msg = f"{name!r} is not a value coding: choose a LayerCoding or JointCoding with a code"
    raise SettingError(msg)


def name_from_code(code: int) -> str:
    """Return the name of the coding that has a code on the wire.

    :class:`KeyError` if this process has imported none: a header never makes it import one.
    """
    return VALUE_CODINGS.name_of(_CLASSES[code])


def encode_values(values: Float32, coding: LayerCoding) -> bytes:
    """Encode the contiguous values of one layer, and check what the coding writes.

    Raises
    ------
    RsdgcError
        A value is NaN or infinite.
    SettingError
        The coding does not write as many bytes as it declares.
    """
    check_finite(max_magnitude(values))
    encoded = b"".join(coding.encode(values)) if values.size else b""
    if len(encoded) != coding.num_bytes(values.size):
        name, declared = VALUE_CODINGS.name_of(type(coding)), coding.num_bytes(values.size)
        msg = f"value coding {name!r} wrote {len(encoded)} bytes for {values.size} values"
        raise SettingError(f"{msg} and declares {declared}: fix its bits_per_value")
    return encoded


def decode_values(buffer: memoryview, count: int, coding: LayerCoding) -> Float32:
    """Decode the values of one layer that a peer sent; the inverse of :func:`encode_values`.

    They are finite. They may share the buffer's memory, read-only: copy before writing to them.

    Raises
    ------
    WireError
        The length is wrong, or a value is not valid.
    """
    if len(buffer) != coding.num_bytes(count):
        msg = f"{count} values need {coding.num_bytes(count)} bytes, not {len(buffer)}"
        raise WireError(msg)
    if count == 0:
        return np.empty(0, dtype=np.float32)
    values = coding.decode(buffer, count)
    check_decoded(values, coding)
    return values


def check_decoded(values: Float32, coding: Coding) -> None:
    """Raise :class:`WireError` if decoded values are NaN or infinite."""
    if not coding.always_finite and not math.isfinite(max_magnitude(values)):
        name = VALUE_CODINGS.name_of(type(coding))
        raise WireError(f"the upload holds {name} values that are NaN or infinite")
