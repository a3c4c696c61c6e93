"""What both ends must agree on to read an update; the wire header carries it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from rsdgc.errors import SettingError

NeighborhoodKind: TypeAlias = Literal["kernel", "tile", "element"]
ValueKind: TypeAlias = Literal["float32", "float16", "int8", "ternary", "deadzone"]
DenseKind: TypeAlias = Literal["float32", "float16", "int8"]
IndexKind: TypeAlias = Literal["rice", "int32"]

MAX_TILE_PX = 64


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
    values : {"deadzone", "int8", "ternary", "float16", "float32"}
        Coding of the kept values of sparse layers: levels of one step for the whole update,
        entropy coded; int8 with a scale a layer; the sign and one magnitude a layer; or floats.
    dense_values : {"float16", "float32", "int8"}
        Coding of layers that are sent whole.
    indices : {"rice", "int32"}
        Coding of the kept ids: the gaps in Golomb-Rice code, or plain integers (the usual naive
        coding, for comparisons).

    Raises
    ------
    SettingError
        If a field has another value.
    """

    neighborhood: NeighborhoodKind = "kernel"
    tile_px: int = 3
    values: ValueKind = "deadzone"
    dense_values: DenseKind = "float16"
    indices: IndexKind = "rice"

    def __post_init__(self) -> None:
        _check("neighborhood", self.neighborhood, get_args(NeighborhoodKind))
        _check("values", self.values, get_args(ValueKind))
        _check("dense_values", self.dense_values, get_args(DenseKind))
        _check("indices", self.indices, get_args(IndexKind))
        if not 1 <= self.tile_px <= MAX_TILE_PX:
            msg = f"tile_px is {self.tile_px}: choose 1 to {MAX_TILE_PX}"
            raise SettingError(msg)


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        msg = f"{name} is {value!r}: choose one of {', '.join(allowed)}"
        raise SettingError(msg)
