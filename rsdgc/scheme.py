"""What both ends must agree on to read an update; the wire header carries it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from rsdgc.arguments import check_whole
from rsdgc.codec.indices import INDEX_CODES, IndexKind
from rsdgc.codec.values import VALUE_CODINGS, Coding, LayerCoding, find_coding
from rsdgc.errors import SettingError
from rsdgc.neighborhoods import (
    MAX_TILE_PX,
    NEIGHBORHOOD_CODES,
    NeighborhoodKind,
    Neighborhoods,
    cut,
)

TransformKind = Literal["none", "channels"]


@dataclass(frozen=True)
class Scheme:
    """How layers are cut into neighborhoods, and how indices and values are coded.

    Parameters
    ----------
    neighborhood : {"kernel", "tile", "element"}
        The k×k kernel slices of convolutions and runs of about ``tile_px²`` elements elsewhere;
        ``tile_px × tile_px`` tiles of the layer as a matrix; or single elements.
    tile_px : int
        Edge of a tile, in elements; 1 to 64. Unused by ``"element"``.
    values : str
        Coding of the kept values of sparse layers: ``"deadzone"`` (levels of one step for the
        whole update, entropy coded), ``"int8"`` (with a scale per layer), ``"ternary"`` (signs
        and a magnitude per layer), ``"float16"``, ``"float32"``, or one from outside
        (:mod:`rsdgc.codec.values`), by its registered name or as ``package.module:Class``.
    dense_values : str
        Coding of layers that are sent whole: ``"float16"``, ``"float32"``, ``"int8"``, or one from
        outside that allows it.
    indices : {"rice", "int32"}
        Coding of the kept ids: the gaps in Golomb-Rice code, or plain integers (the usual naive
        coding, for comparisons).
    transform : {"none", "channels"}
        What was done to the update before it was encoded, and is undone after it is decoded:
        convolutions in the principal axes of their input channels
        (:mod:`rsdgc.channel_transform`). Compressor, encoder and decoder only pass it on.

    Raises
    ------
    SettingError
        A field has another value.
    """

    neighborhood: NeighborhoodKind = "kernel"
    tile_px: int = 3
    values: str = "deadzone"
    dense_values: str = "float16"
    indices: IndexKind = "rice"
    transform: TransformKind = "none"

    def __post_init__(self) -> None:
        _check("neighborhood", self.neighborhood, NEIGHBORHOOD_CODES)
        _check("indices", self.indices, INDEX_CODES)
        _check("transform", self.transform, get_args(TransformKind))
        check_whole("tile_px", self.tile_px, 1, MAX_TILE_PX)
        # A coding may be named in two ways; with one of them, equal schemes compare equal.
        for field, coding in (("values", self.value_coding), ("dense_values", self.dense_coding)):
            object.__setattr__(self, field, VALUE_CODINGS.name_of(type(coding)))

    @cached_property
    def value_coding(self) -> Coding:
        """Coding of the kept values of sparse layers."""
        return find_coding(self.values)

    @cached_property
    def dense_coding(self) -> LayerCoding:
        """Coding of layers that are sent whole."""
        coding = find_coding(self.dense_values)
        if isinstance(coding, LayerCoding) and coding.for_whole_layers:
            return coding
        names = [name for name in VALUE_CODINGS if VALUE_CODINGS[name].for_whole_layers]
        raise SettingError(f"dense_values is {self.dense_values!r}: choose {', '.join(names)}")

    def cut(self, shape: Sequence[int]) -> Neighborhoods:
        """Return the neighborhoods of a layer of the given shape (see :mod:`.neighborhoods`)."""
        return cut(shape, self.neighborhood, self.tile_px)


def _check(field: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise SettingError(f"{field} is {value!r}: choose one of {', '.join(allowed)}")
