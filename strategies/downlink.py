"""The true model and the published one, and the log of patches between its versions.

The server keeps the true weights w and the published ones p, which every site holds bit for bit.
A publication compresses w − p into one patch inside the downlink's budget; then
``p ← p + decoded(patch)`` here as at every site. What the patch does not say stays in w − p: that
is the downlink's error feedback, with no further state. A patch is encoded once, whoever gets it.

What carries the published model to the sites: patches, the whole, or nothing.

Sites at one version get one and the same ``ArrayRecord`` object, so that Flower stores it once
and a round costs the server the same however many sites it has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from rsdgc import Compressor, SparseUpdate, Stamp, decode
from rsdgc.patches import fingerprint, pack_patches
from strategies import messages
from strategies.ledger import WHOLE_MODEL, layer_group
from strategies.rate_control import RateControl

Flat = NDArray[np.float32]


@dataclass(frozen=True)
class Patch:
    """One entry of the log.

    Attributes
    ----------
    version : int
        That it leads to.
    payload : bytes
        As encoded, and as every site gets it.
    groups : dict of str to int
        Its bytes by group of layers, header included.
    """

    version: int
    payload: bytes
    groups: dict[str, int]

    @classmethod
    def of(cls, update: SparseUpdate) -> Patch:
        """Describe a patch that this server has made."""
        groups = {"header": int(update.header_bytes)}
        for layer, count in zip(update.spec.layers, update.layer_bytes.tolist(), strict=True):
            group = layer_group(layer.name)
            groups[group] = groups.get(group, 0) + int(count)
        return cls(update.stamp.round, update.payload, groups)


class PublishedModel:
    """Two models and a log.

    Parameters
    ----------
    weights : float32 [size]
        The model before training; copied. It is version 0, which sites can make themselves.
    rates : RateControl
        Budget and layer ratios of the patches. A budget of the whole model or more publishes
        without loss: every version is the true model, and there are no patches.
    compressor : Compressor
        Of the patches.
    run_id : int
        Stamped on the patches.

    Attributes
    ----------
    weights, published : float32 [size]
        w and p.
    version : int
        Number of p: publications so far.
    log : list of Patch
        The last ones, without a gap, oldest first; never longer than the whole model.
    fingerprint : bytes
        Of p.
    pending : bool
        Whether the true weights have changed since the last publication.
    """

    def __init__(
        self, weights: Flat, rates: RateControl, compressor: Compressor, run_id: int
    ) -> None:
        self.spec = compressor.spec
        self.rates = rates
        self.run_id = run_id
        self._compressor = compressor
        self.weights = weights.copy()
        self.published = weights.copy()
        self._difference = np.empty_like(self.weights)
        self.version = 0
        self.pending = False
        self.log: list[Patch] = []
        self.fingerprint = fingerprint(self.published)
        rates.begin(self.weights)

    @property
    def lossless(self) -> bool:
        """Whether every publication is the true model itself."""
        return self.rates.budget_bytes >= self.spec.dense_bytes

    def step(self, update: Flat) -> None:
        """Add an aggregated update to the true weights."""
        self.weights += update
        self.pending = True

    def publish(self, overhead_bytes: int = 0) -> None:
        """Make the next version.

        Parameters
        ----------
        overhead_bytes : int
            What a message weighs beside its patch; the budget is for both.

        Raises
        ------
        RsdgcError
            The true weights are no longer finite; nothing was published.
        """
        if self.lossless:
            self.publish_whole()
            return
        np.subtract(self.weights, self.published, out=self._difference)
        measured = len(self.log[-1].payload) + overhead_bytes if self.log else None
        self.rates.follow(self.weights, self._difference, measured or self.rates.budget_bytes)
        self._patch(self.rates)

    def publish_more(self, rates: RateControl) -> None:
        """Make the next version inside another budget, as the last patch of a run."""
        if rates.budget_bytes >= self.spec.dense_bytes:
            self.publish_whole()
            return
        np.subtract(self.weights, self.published, out=self._difference)
        rates.follow(self.weights, self._difference, rates.budget_bytes)
        self._patch(rates)

    def publish_whole(self) -> None:
        """Make the true weights the next version; no patch leads to it."""
        self.published[:] = self.weights
        self.version += 1
        self.pending = False
        self.log = []
        self.fingerprint = fingerprint(self.published)

    def since(self, version: int) -> list[Patch] | None:
        """Return the patches after a version, or None where the whole model serves better."""
        if version == self.version:
            return []
        found = [patch for patch in self.log if patch.version > version]
        if not found or found[0].version != version + 1:
            return None
        total = sum(len(patch.payload) for patch in found)
        return found if total < self.spec.dense_bytes else None

    def distance(self) -> float:
        """‖w − p‖ / ‖w‖: how far the published model is from the true one."""
        np.subtract(self.weights, self.published, out=self._difference)
        norm = float(np.linalg.norm(self.weights))
        return float(np.linalg.norm(self._difference)) / norm if norm else 0.0

    def restore(
        self, weights: Flat, published: Flat, version: int, log: list[bytes], *, pending: bool
    ) -> None:
        """Take over what a checkpoint kept."""
        self.weights[:] = weights
        self.published[:] = published
        self.version = version
        self.pending = pending
        self.log = [Patch.of(decode(payload, self.spec)) for payload in log]
        self.fingerprint = fingerprint(self.published)

    def _patch(self, rates: RateControl) -> None:
        stamp = Stamp(self.run_id, self.version + 1, self.version)
        sent = self._compressor.compress(self._difference, rates.ratios, stamp, rates.target_bytes)
        sent.add_to(self.published)
        self.version += 1
        self.pending = False
        self.log.append(Patch.of(sent))
        total = sum(len(patch.payload) for patch in self.log)
        while self.log and total >= self.spec.dense_bytes:
            total -= len(self.log.pop(0).payload)
        self.fingerprint = fingerprint(self.published)


WHOLE_KEY = -1


@dataclass(frozen=True)
class Download:
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
        return WHOLE_MODEL in self.groups


class DownloadCache:
    """Makes each parcel of a version once.

    Parameters
    ----------
    model : PublishedModel
        What is sent.
    """

    def __init__(self, model: PublishedModel) -> None:
        self._model = model
        self._version = -1
        self._made: dict[int, Download] = {}

    def since(self, version: int) -> Download:
        """Return what brings a site from a version to the present one."""
        self._begin()
        if version not in self._made:
            patches = self._model.since(version)
            if patches is None:
                return self.whole()
            self._made[version] = _patches(patches) if patches else Download(None, {})
        return self._made[version]

    def whole(self) -> Download:
        """Return the whole published model."""
        self._begin()
        if WHOLE_KEY not in self._made:
            array = Array(self._model.published)
            record = ArrayRecord({messages.PACKED: array})
            self._made[WHOLE_KEY] = Download(record, {WHOLE_MODEL: len(array.data)})
        return self._made[WHOLE_KEY]

    def _begin(self) -> None:
        if self._version != self._model.version:
            self._version, self._made = self._model.version, {}


def _patches(patches: list[Patch]) -> Download:
    packed = pack_patches([patch.payload for patch in patches])
    array = Array(np.frombuffer(packed, dtype=np.uint8))
    groups: dict[str, int] = {}
    for patch in patches:
        for group, count in patch.groups.items():
            groups[group] = groups.get(group, 0) + count
    return Download(ArrayRecord({messages.PATCHES: array}), groups)
