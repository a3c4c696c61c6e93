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

Names are compared without prefixes (:mod:`fl_app.models.weight_names`). Each branch of a fusion
network (``branches.<modality>.``) is matched for itself, unless the file has branches, too. How
entries are adapted is in :mod:`fl_app.models.weight_adaptation`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from clients.model_parts import may_be_statistic
from fl_app.models.weight_adaptation import Adaptation, Bands, adapt_bands, adapt_positions
from fl_app.models.weight_file import FLOATING_POINT, WeightFile
from fl_app.models.weight_names import pair_names
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
            pairs = pair_names(shapes, sources)
        for name, source in pairs.items():
            if name in bands:
                old = _file_bands(file, source)
                adaptation = adapt_bands(shapes[name], sources[source], old, bands[name])
            else:
                adaptation = adapt_positions(name, shapes[name], sources[source])
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


def _first_convolution(model: nn.Module, names: Sequence[str]) -> str:
    """Return the name of the weight of the first convolution; empty if there is none."""
    for name in names:
        path, _, kind = name.rpartition(".")
        module = model.get_submodule(path)
        if kind == "weight" and isinstance(module, nn.Conv2d) and module.groups == 1:
            return name
    return ""
