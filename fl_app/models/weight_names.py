"""Pair the names of a model's entries with those of a file of weights.

Names are compared after a common prefix is taken off, on either side: ``module.backbone.`` in the
file of a self-supervised method, ``encoder.`` in a model that wraps a backbone. The prefixes are
those under which most values match.

``torch.compile``, FSDP and activation checkpointing put a module of their own around parts of a
network (``layer1._orig_mod.0.weight``). Names are compared without it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

LEAST_PREFIX_SHARE = 0.2
"""Least share of the names that begin with a prefix for it to be tried."""

MOMENTUM_COPIES = ("encoder_k.", "momentum", "target", "student")
"""Parts of prefixes that self-supervised methods give to the copy that is not the result."""

WRAPPER = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
"""Modules in names that PyTorch puts around others."""


def pair_names(
    shapes: Mapping[str, tuple[int, ...]], sources: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    """Pair the model's names with the file's, under the prefixes that match the most values.

    Parameters
    ----------
    shapes, sources : mapping of str to tuple of int
        Shape of each entry of the model, and of the file.

    Returns
    -------
    dict of str to str
        From the model's name to the file's, whose shape may differ.
    """
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
