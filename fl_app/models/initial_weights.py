"""Start a model from a file of weights: entries are matched by name and shape.

==========  =====================================================================================
entry       how the model gets it
==========  =====================================================================================
matched     same name and shape: as it is in the file
adapted     the first convolution takes another number of bands, or the same bands in another
            order; or a position embedding has another size
new         not in the file, or of another shape (a head with another number of classes, a stem of
            another kernel): left as the seed initialized it
unused      only in the file
==========  =====================================================================================

Names are compared after a common prefix is taken off, on either side: ``module.backbone.`` in the
file of a self-supervised method, ``encoder.`` in a model that wraps a backbone. The prefixes are
those under which most values match. Each branch of a fusion network (``branches.<modality>.``) is
matched for itself, unless the file has branches, too.

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

**Wrappers.** ``torch.compile``, FSDP and activation checkpointing put a module of their own around
parts of a network (``layer1._orig_mod.0.weight``). Names are compared without it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # the name everyone knows it by
from torch import Tensor, nn

from clients.model_parts import may_be_statistic
from fl_app.models.weight_file import FLOATING_POINT, WeightFile
from rsdgc.errors import SettingError
from rsdgc.spec import BRANCHES, branch_key
from strategies.sites import ModalityInfo

__all__ = ["WeightMatch", "load_weights", "match_weights"]

LEAST_SHARE = 0.1
"""Least share of the model's values that must come from the file."""

MOST_DIFFERING = 6
"""Entries whose shape may differ from the file's: of a head and a stem, each with a bias or a
normalization. More, beyond a share of those that fit, are the sign of another architecture."""

LARGEST_DIFFERING_SHARE = 0.1
"""Share of the entries that fit, beyond which entries of another shape are too many."""

NOT_IN_FILE = "not in the file"

LEAST_PREFIX_SHARE = 0.2
"""Least share of the names that begin with a prefix for it to be tried."""

MOMENTUM_COPIES = ("encoder_k.", "momentum", "target", "student")
"""Parts of prefixes that self-supervised methods give to the copy that is not the result."""

UNNAMED_BAND = re.compile("band[0-9]+")
"""What ingestion calls a band that its file does not name."""

PREFIX_TOKENS: Sequence[int] = (1, 0, 2, 5)
"""Numbers of tokens before those of a grid: the class, distillation, and four registers."""

CLASS_DISTANCES: Sequence[int] = (0, 3)
"""Rows after a table of relative positions: BEiT has those from and to the class token."""

WRAPPER = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
"""Modules in names that PyTorch puts around others."""

Adaptation = Callable[[Tensor], Tensor]
Bands = Sequence[tuple[str, str]]
"""Modality and name of each band; the modality is empty where it is not known."""


@dataclass(frozen=True)
class WeightMatch:
    """Which entries of a model come from which of a file."""

    #: from the model's name to the file's
    matched: dict[str, str]
    #: likewise; how each is adapted stands in ``reasons``
    adapted: dict[str, str]
    new: tuple[str, ...]  #: names in the model
    unused: tuple[str, ...]  #: names in the file
    reasons: dict[str, str]  #: by the model's name: why an entry is new, or how it is adapted
    share: float  #: part of the model's values that come from the file, 0 to 1
    adaptations: dict[str, Adaptation] = field(repr=False, compare=False)

    def summary(self) -> str:
        """Return the counts in one line."""
        return (
            f"{len(self.matched)} entries matched, {len(self.adapted)} adapted, "
            f"{len(self.new)} new, {len(self.unused)} in the file unused; "
            f"{self.share:.1%} of the values are the file's"
        )

    def restricted(self, places: Mapping[str, str], sizes: Mapping[str, int]) -> WeightMatch:
        """Return the match of a model from which entries were removed after the file was read.

        Parameters
        ----------
        places : mapping of str to str
            From the name of each entry that is left to its name now.
        sizes : mapping of str to int
            Values of each entry that is left, by its name now.
        """
        matched = {places[name]: file for name, file in self.matched.items() if name in places}
        adapted = {places[name]: file for name, file in self.adapted.items() if name in places}
        new = tuple(places[name] for name in self.new if name in places)
        taken = {*matched.values(), *adapted.values()}
        before = {**self.matched, **self.adapted}.values()
        loaded = sum(sizes[name] for name in (*matched, *adapted))
        total = loaded + sum(sizes[name] for name in new)
        return WeightMatch(
            matched,
            adapted,
            new,
            unused=(*self.unused, *(file for file in dict.fromkeys(before) if file not in taken)),
            reasons={places[name]: why for name, why in self.reasons.items() if name in places},
            share=loaded / max(1, total),
            adaptations={places[n]: how for n, how in self.adaptations.items() if n in places},
        )

    def to_mapping(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "share": round(self.share, 4),
            "matched": self.matched,
            "adapted": {
                name: {"from": source, "how": self.reasons[name]}
                for name, source in self.adapted.items()
            },
            "new": {name: self.reasons[name] for name in self.new},
            "unused": list(self.unused),
        }


def load_weights(
    model: nn.Module, file: WeightFile, modalities: Sequence[ModalityInfo] = ()
) -> WeightMatch:
    """Copy what fits from a file into a model; return which entries those were.

    Raises as :func:`match_weights` does, and :class:`SettingError` if a value that is to be used
    is not finite. The model may then have some of the file's weights.
    """
    match = match_weights(model, file, modalities)
    targets = model.state_dict()
    sources = match.matched | match.adapted
    by_source: dict[str, list[str]] = {}
    for name, source in sources.items():
        by_source.setdefault(source, []).append(name)
    with torch.no_grad():
        for source, tensor in file.read(list(by_source)):
            for name in by_source[source]:
                adapt = match.adaptations.get(name)
                targets[name].copy_(tensor if adapt is None else adapt(tensor))
    return match


def match_weights(
    model: nn.Module, file: WeightFile, modalities: Sequence[ModalityInfo] = ()
) -> WeightMatch:
    """Match a model's entries to those of a file, without reading values.

    Parameters
    ----------
    model : torch.nn.Module
        On any device, meta included. Parameters count, and buffers of finite numbers.
    file : WeightFile
        The weights.
    modalities : sequence of ModalityInfo
        What the model takes, for the names of its bands; empty if they are not known.

    Raises
    ------
    SettingError
        Less than :data:`LEAST_SHARE` of the model's values would come from the file, or more than
        a few entries have another shape there.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    entries = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name in parameters or may_be_statistic(tensor)
    }
    sources = {n: e.shape for n, e in file.entries.items() if e.dtype in FLOATING_POINT}
    matched: dict[str, str] = {}
    adapted: dict[str, str] = {}
    reasons: dict[str, str] = {}
    adaptations: dict[str, Adaptation] = {}
    branches = _by_branch(list(entries))
    bands = {
        _first_convolution(model, names): _model_bands(modalities, branch)
        for branch, names in branches.items()
        # Where every modality has its branch, what joins them takes no bands.
        if branch or not _all_have_branches(modalities, branches)
    }
    has_branches = any(source.startswith(f"{BRANCHES}.") for source in sources)
    for group in branches.values():
        shapes = {name: tuple(entries[name].shape) for name in group}
        if has_branches:
            pairs = {name: name for name in group if name in sources}
        else:
            pairs = _pair_names(shapes, sources)
        for name, source in pairs.items():
            if name in bands:
                old = _file_bands(file, source)
                adaptation = _adapt_bands(shapes[name], sources[source], old, bands[name])
            else:
                adaptation = _adapt_positions(name, shapes[name], sources[source])
            if adaptation is not None:
                adapted[name] = source
                reasons[name], adaptations[name] = adaptation
            elif shapes[name] == sources[source]:
                matched[name] = source
            else:
                reasons[name] = f"{_dims(sources[source])} in the file, {_dims(shapes[name])} here"
    new = tuple(name for name in entries if name not in matched and name not in adapted)
    for name in new:
        of_integers = name in file.entries and name not in sources
        reason = f"{file.entries[name].dtype} in the file" if of_integers else NOT_IN_FILE
        reasons.setdefault(name, reason)
    taken = {*matched.values(), *adapted.values()}
    total = sum(tensor.numel() for tensor in entries.values())
    loaded = sum(entries[name].numel() for name in (*matched, *adapted))
    match = WeightMatch(
        matched,
        adapted,
        new,
        # Integer entries, such as BatchNorm's count of batches, are not weights.
        unused=tuple(name for name in sources if name not in taken),
        reasons=reasons,
        share=loaded / max(1, total),
        adaptations=adaptations,
    )
    differing = [name for name in new if reasons[name] != NOT_IN_FILE]
    most = max(MOST_DIFFERING, LARGEST_DIFFERING_SHARE * (len(entries) - len(new)))
    if match.share < LEAST_SHARE or len(differing) > most:
        raise SettingError(_misfit(match, file, len(entries), differing))
    return match


def _misfit(
    match: WeightMatch, file: WeightFile, num_entries: int, differing: Sequence[str]
) -> str:
    """Return why a file's weights are refused, with names of both."""

    def examples(names: Sequence[str]) -> str:
        return ", ".join(f"'{name}'" for name in names[:3]) or "none"

    count = len(match.matched) + len(match.adapted)
    other = ""
    if differing:
        name = differing[0]
        other = f"; {len(differing)} have another shape or type, as '{name}': {match.reasons[name]}"
    return (
        f"weights {file.path} fit {count} of the model's {num_entries} entries, "
        f"{match.share:.1%} of its values: the file has {examples(match.unused)} and the model "
        f"{examples(match.new)}{other}: "
        "choose weights of the same architecture (`rsdgc weights inspect` shows them)"
    )


def _dims(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "a number"


# ---- names --------------------------------------------------------------------------------------


def _by_branch(names: list[str]) -> dict[str, list[str]]:
    """Return the names of each branch of a fusion network, and at "" those of no branch."""
    branches: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".", 2)
        branch = parts[1] if parts[0] == BRANCHES and len(parts) == 3 else ""
        branches.setdefault(branch, []).append(name)
    return branches


def _all_have_branches(modalities: Sequence[ModalityInfo], branches: Collection[str]) -> bool:
    keys = [branch_key(modality.name) for modality in modalities if modality.name]
    return bool(keys) and all(key in branches for key in keys)


def _model_bands(modalities: Sequence[ModalityInfo], branch: str) -> Bands:
    """Return the bands that a branch takes, or the whole model."""
    return [
        (modality.name, band)
        for modality in modalities
        if not branch or (modality.name and branch == branch_key(modality.name))
        for band in modality.bands
    ]


def _file_bands(file: WeightFile, source: str) -> Bands:
    """Return the bands that the file names for an entry: of its branch, or of the whole model."""
    (branch,) = _by_branch([source])
    return [
        (modality, band)
        for modality, bands in file.bands.items()
        if not branch or not modality or branch == branch_key(modality)
        for band in bands
    ]


def _pair_names(
    shapes: Mapping[str, tuple[int, ...]], sources: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    """Pair the model's names with the file's, under the prefixes that match the most values."""
    own = {name: WRAPPER.sub("", name) for name in shapes}
    plain = {source: WRAPPER.sub("", source) for source in sources}
    best: dict[str, str] = {}
    best_values = -1
    # Of equally good pairs the first one stays.
    for prefix in _prefixes(list(own.values())):
        for source_prefix in _prefixes(list(plain.values())):
            stripped = {known: source for source, known in plain.items()}
            stripped |= {
                _strip(known, source_prefix): source
                for source, known in plain.items()
                if known.startswith(source_prefix)
            }
            pairs = {
                name: stripped[_strip(known, prefix)]
                for name, known in own.items()
                if _strip(known, prefix) in stripped
            }
            values = sum(
                math.prod(shapes[name])
                for name, source in pairs.items()
                if shapes[name] == sources[source]
            )
            if values > best_values:
                best, best_values = pairs, values
    return best


def _strip(name: str, prefix: str) -> str:
    return name[len(prefix) :] if name.startswith(prefix) else name


def _prefixes(names: Sequence[str]) -> list[str]:
    """Return the prefixes, up to a dot, that many names begin with; short ones first."""
    counts: dict[str, int] = {"": len(names)}
    for name in names:
        parts = name.split(".")
        for depth in range(1, len(parts)):
            prefix = ".".join(parts[:depth]) + "."
            counts[prefix] = counts.get(prefix, 0) + 1
    least = LEAST_PREFIX_SHARE * len(names)
    return sorted(
        (prefix for prefix, count in counts.items() if count >= least),
        key=lambda prefix: (any(word in prefix for word in MOMENTUM_COPIES), len(prefix), prefix),
    )


# ---- adaptations --------------------------------------------------------------------------------


def _first_convolution(model: nn.Module, names: Sequence[str]) -> str:
    """Return the name of the weight of the first convolution; empty if there is none."""
    for name in names:
        path, _, kind = name.rpartition(".")
        module = model.get_submodule(path)
        if kind == "weight" and isinstance(module, nn.Conv2d) and module.groups == 1:
            return name
    return ""


def _adapt_bands(
    shape: Sequence[int], source: Sequence[int], old: Bands, new: Bands
) -> tuple[str, Adaptation] | None:
    """Return how the first convolution takes other bands; None if it is not to be changed."""
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


def _adapt_positions(
    name: str, shape: Sequence[int], source: Sequence[int]
) -> tuple[str, Adaptation] | None:
    """Return how a position embedding is resampled; None if it is not one, or not a grid."""
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
