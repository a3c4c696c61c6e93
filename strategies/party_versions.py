"""Versions of the packages at server and sites, which the roll call compares.

The app's code comes from the server with each run; Flower, PyTorch and Python do not.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version

from rsdgc.codec.header import VERSION

PACKAGES = ("rsdgc", "flwr", "torch")

WIRE_FORMAT = VERSION
"""Version of the format of uploads and patches: without the same one nothing can be read."""


def own_versions() -> list[str]:
    """Return the versions of this party, such as ``torch 2.4.1``."""
    return [
        *(f"{name} {version(name)}" for name in PACKAGES),
        f"python {platform.python_version()}",
    ]


def differing_versions(parties: Iterable[tuple[str, Sequence[str]]], own: Sequence[str]) -> str:
    """Return which parties have other versions than the server has; empty if none has.

    A party is its label and its :func:`own_versions`; one that states none is not named.
    """
    names: dict[str, list[str]] = {}
    for label, versions in parties:
        for text in versions:
            if text not in own:
                names.setdefault(text, []).append(label)
    texts = []
    for text, labels in sorted(names.items()):
        package = text.split(" ")[0]
        here = next((line.split(" ")[1] for line in own if line.startswith(f"{package} ")), "none")
        texts.append(f"{', '.join(sorted(labels))}: {text} (server: {here})")
    return "; ".join(texts)
