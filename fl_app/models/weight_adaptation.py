"""Adapt entries of a file of weights to a model's bands and chip size.

**Bands.** Where the file and the model name their bands, a band that both have keeps its filters;
other bands get the mean of the file's filters, also if there are as many of them. The branch of a
modality is compared with the file's bands of that modality. Where one side has no names, or only
``band1``, ``band2`` and so on, an equal number of bands is taken as the same bands; with another
number every band gets the mean. Filters are then multiplied by old bands / new bands, so that a
pixel of equal values in all bands yields what it did before.

**Position embeddings** (``pos_embed``, (1, tokens, channels)) are resampled bicubically if their
tokens are a square grid, with as many other tokens before it (of the class, of distillation,
registers) in the file as in the model. So are tables of relative positions
(``relative_position_bias_table``, (positions, heads)), which networks with windows have.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812  # the name everyone knows it by
from torch import Tensor

UNNAMED_BAND = re.compile("band[0-9]+")
"""What ingestion calls a band that its file does not name."""

PREFIX_TOKENS: Sequence[int] = (1, 0, 2, 5)
"""Numbers of tokens before those of a grid: the class, distillation, and four registers."""

CLASS_DISTANCES: Sequence[int] = (0, 3)
"""Rows after a table of relative positions: BEiT has those from and to the class token."""

Adaptation = Callable[[Tensor], Tensor]
Bands = Sequence[tuple[str, str]]
"""Modality and name of each band; the modality is empty where it is not known."""


def adapt_bands(
    shape: Sequence[int], source: Sequence[int], old: Bands, new: Bands
) -> tuple[str, Adaptation] | None:
    """Return how the first convolution takes other bands; None if it is not to be changed.

    Parameters
    ----------
    shape, source : sequence of int
        Shape of its weight (out, bands, k, k) in the model, and in the file.
    old, new : sequence of (str, str)
        Bands of the file and of the model; none where they are not known.

    Returns
    -------
    tuple of str and callable, or None
        What is done, in words; and a function from the file's weight to the model's.
    """
    if len(source) != len(shape) or [*source[:1], *source[2:]] != [*shape[:1], *shape[2:]]:
        return None
    known = [source[1], shape[1]] == [len(old), len(new)]
    places = _places(old, new) if known else [-1] * shape[1]
    kept = sum(place >= 0 for place in places)
    if kept == 0 and source[1] == shape[1] and not (known and _named(old) and _named(new)):
        return None  # without names the place is all that tells a band
    if places == list(range(source[1])) or source[1] == shape[1] == 1:
        return None
    how = f"{source[1]} to {shape[1]} bands, {kept} by name"
    return how, partial(_place_filters, places=places)


def _places(old: Bands, new: Bands) -> list[int]:
    """Return the place of each new band among the old ones; -1 if it is not there.

    Bands of several modalities may have one name. Then the modality tells them apart, or else
    their order.
    """
    named: dict[str, list[int]] = {}
    for place, (_, band) in enumerate(old):
        named.setdefault(band, []).append(place)
    exact = {pair: place for place, pair in enumerate(old) if pair[0]}
    places = []
    seen: Counter[str] = Counter()
    for modality, band in new:
        alike = named.get(band, [-1])
        places.append(exact.get((modality, band), alike[min(seen[band], len(alike) - 1)]))
        seen[band] += 1
    return places


def _named(bands: Bands) -> bool:
    return not all(UNNAMED_BAND.fullmatch(band) for _, band in bands)


def _place_filters(weight: Tensor, places: Sequence[int]) -> Tensor:
    """Return the filters of new bands; -1 stands for the mean of the file's filters."""
    mean = weight.mean(1)
    filters = torch.stack([mean if place < 0 else weight[:, place] for place in places], dim=1)
    return filters * (weight.shape[1] / len(places))


def adapt_positions(
    name: str, shape: Sequence[int], source: Sequence[int]
) -> tuple[str, Adaptation] | None:
    """Return how a position embedding is resampled; None if it is not one, or not a grid.

    ``shape`` and ``source`` are its shapes in the model and in the file. It returns what
    :func:`adapt_bands` does.
    """
    kind = name.rpartition(".")[2]
    before: Sequence[int] = (0,)
    after: Sequence[int] = (0,)
    if len(source) != len(shape):
        return None
    if kind in ("pos_embed", "pos_embedding") and len(shape) == 3 and source[0] == shape[0] == 1:
        before = PREFIX_TOKENS
    elif kind == "relative_position_bias_table" and len(shape) == 2:
        after = CLASS_DISTANCES
    else:
        return None
    sizes = (source[-2], shape[-2])
    if sizes[0] == sizes[1] or source[-1] != shape[-1]:
        return None
    for first in before:
        for last in after:
            sides = [_side(size - first - last) for size in sizes]
            if all(sides):
                how = f"{sides[0]}×{sides[0]} to {sides[1]}×{sides[1]} positions"
                return how, partial(_resample, first=first, last=last, sides=sides)
    return None


def _side(tokens: int) -> int:
    """Return the side of a square grid of so many tokens; 0 if it is not one."""
    side = math.isqrt(max(0, tokens))
    return side if side * side == tokens else 0


def _resample(embedding: Tensor, first: int, last: int, sides: Sequence[int]) -> Tensor:
    """Resample a grid between rows that stay: (1, tokens, channels), or (tokens, channels)."""
    rows = embedding.flatten(0, -2)
    end = len(rows) - last
    head, grid, tail = rows[:first], rows[first:end], rows[end:]
    square = grid.T.reshape(1, -1, sides[0], sides[0])
    resized = F.interpolate(square, (sides[1], sides[1]), mode="bicubic", antialias=True)
    rows = torch.cat([head, resized[0].flatten(1).T, tail])
    return rows.reshape(*embedding.shape[:-2], *rows.shape)
