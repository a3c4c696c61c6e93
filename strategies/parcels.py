"""What carries the published model to the sites: patches, the whole, or nothing.

Sites at one version get one and the same ``ArrayRecord`` object, so that Flower stores it once
and a round costs the server the same however many sites it has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord

from rsdgc import protocol
from rsdgc.patches import pack_patches
from strategies.ledger import WHOLE
from strategies.published import Patch, PublishedModel

WHOLE_KEY = -1


@dataclass(frozen=True)
class Parcel:
    """The arrays of a message.

    Attributes
    ----------
    arrays : ArrayRecord or None
        None where the site has everything already.
    groups : dict of str to int
        Bytes by group of layers; the whole model is one group.
    """

    arrays: ArrayRecord | None
    groups: dict[str, int]

    @property
    def is_whole(self) -> bool:
        """Whether the whole model is in it."""
        return WHOLE in self.groups


class Parcels:
    """Makes each parcel of a version once.

    Parameters
    ----------
    model : PublishedModel
        What is sent.
    """

    def __init__(self, model: PublishedModel) -> None:
        self._model = model
        self._version = -1
        self._made: dict[int, Parcel] = {}

    def since(self, version: int) -> Parcel:
        """Return what brings a site from a version to the present one."""
        self._begin()
        if version not in self._made:
            patches = self._model.since(version)
            if patches is None:
                return self.whole()
            self._made[version] = _patches(patches) if patches else Parcel(None, {})
        return self._made[version]

    def whole(self) -> Parcel:
        """Return the whole published model."""
        self._begin()
        if WHOLE_KEY not in self._made:
            array = Array(self._model.published)
            record = ArrayRecord({protocol.PACKED: array})
            self._made[WHOLE_KEY] = Parcel(record, {WHOLE: len(array.data)})
        return self._made[WHOLE_KEY]

    def _begin(self) -> None:
        if self._version != self._model.version:
            self._version, self._made = self._model.version, {}


def _patches(patches: list[Patch]) -> Parcel:
    packed = pack_patches([patch.payload for patch in patches])
    array = Array(np.frombuffer(packed, dtype=np.uint8))
    groups: dict[str, int] = {}
    for patch in patches:
        for group, count in patch.groups.items():
            groups[group] = groups.get(group, 0) + count
    return Parcel(ArrayRecord({protocol.PATCHES: array}), groups)
