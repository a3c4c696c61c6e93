"""The published model, the log of patches between its versions, and what is sent to a site.

The server keeps the true weights w and the published ones p, which every site holds bit for bit.
A publication compresses w − p into one patch within the downlink's budget; then
``p ← p + decoded(patch)`` at the server and at every site. What the patch omits remains in w − p:
that is the downlink's error feedback, and needs no further state.

A patch is encoded once, however many sites get it. Sites at the same version get the same
``ArrayRecord`` object, which Flower stores once, so publishing costs the same for any number of
sites.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from logging import WARNING

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.common import log

from rsdgc import Compressor, SparseUpdate, Stamp, decode
from rsdgc.arrays import Float32, l2_norm
from rsdgc.channel_transform import ChannelTransform, find_transform, transformed_part
from rsdgc.errors import RunError
from rsdgc.patches import fingerprint, pack_patches
from strategies import messages
from strategies.checkpoints import Arrays, State
from strategies.ledger import REFERENCE_GROUP, WHOLE_MODEL, update_bytes
from strategies.rate_control import RateControl


@dataclass(frozen=True)
class Patch:
    """A step to a version of the published model, encoded, and its bytes by group of layers."""

    version: int
    payload: bytes
    groups: dict[str, int]

    @classmethod
    def from_update(cls, update: SparseUpdate) -> Patch:
        """Return the patch that an encoded update of this server is."""
        return cls(update.stamp.round, update.payload, dict(update_bytes(update)))


class PublishedModel:
    """The true model, the published one, and the log of patches.

    Parameters
    ----------
    weights : float32 [size]
        The model before training; copied. It is version 0, which sites compute themselves.
    rates : RateControl
        Budget and layer ratios of the patches. With a budget of the whole model or more,
        publishing is lossless: every version is the true model, and there are no patches.
    compressor : Compressor
        Encodes the patches.
    run_id : int
        Stamped on the patches.
    """

    def __init__(
        self, weights: Float32, rates: RateControl, compressor: Compressor, run_id: int
    ) -> None:
        self.spec = compressor.spec
        self.rates = rates
        self.run_id = run_id
        #: weights, published, float32 [size]: w and p
        self.weights = weights.copy()
        self.published = weights.copy()
        self.version = 0  #: version of p: the number of publications so far
        self.pending = False  #: whether w has changed since the last publication
        #: the latest patches without a gap, oldest first; together smaller than the whole model
        self.log: list[Patch] = []
        self.fingerprint = fingerprint(self.published)
        #: reference of the channel transform, float32 [n], and its fingerprint; None and empty if
        #: updates are not transformed
        self.reference: Float32 | None = None
        self.reference_fingerprint = b""
        if compressor.scheme.transform != "none":
            self.reference = transformed_part(self.spec, weights)
            self.reference_fingerprint = fingerprint(self.reference)
        self._compressor = compressor
        # Allocated once: a new vector of a large model costs a second in page faults per round.
        self._difference = np.empty_like(self.weights)
        rates.begin(self.weights)

    def step(self, update: Float32) -> None:
        """Add an aggregated update, float32 [size], to the true weights."""
        self.weights += update
        self.pending = True

    def replace(self, weights: Float32) -> None:
        """Replace the true weights, float32 [size]."""
        self.weights[:] = weights
        self.pending = True

    def publish(self, overhead_bytes: int = 0) -> None:
        """Publish the next version within the budget of every round.

        The budget covers ``overhead_bytes`` as well, the bytes of a message without its patch.

        Raises
        ------
        RsdgcError
            The true weights are no longer finite; nothing was published.
        """
        # Nothing is measured before the first patch: taking the budget leaves the level unchanged.
        measured_bytes = self.rates.budget_bytes
        if self.log:
            measured_bytes = len(self.log[-1].payload) + overhead_bytes
        self._publish(self.rates, measured_bytes)

    def publish_within(self, rates: RateControl) -> None:
        """Publish the next version within another budget, as the last patch of a run."""
        self._publish(rates, rates.budget_bytes)

    def patches_since(self, version: int) -> list[Patch] | None:
        """Return the patches after a version; None if the log does not reach back that far."""
        missed = self.version - version
        return self.log[len(self.log) - missed :] if 0 <= missed <= len(self.log) else None

    @property
    def transform(self) -> ChannelTransform | None:
        """The channel transform of the present version; None if updates are not transformed."""
        if self.reference is None:
            return None
        return find_transform(self.spec, self.published, self.reference)

    def distance(self) -> float:
        """Return ‖w − p‖ / ‖w‖: how far the published model is from the true one."""
        np.subtract(self.weights, self.published, out=self._difference)
        norm = l2_norm(self.weights)
        return l2_norm(self._difference) / norm if norm else 0.0

    def state(self) -> State:
        """Return both models and the log."""
        payloads = [patch.payload for patch in self.log]
        arrays: Arrays = {
            "weights": self.weights,
            "published": self.published,
            "log": np.frombuffer(b"".join(payloads), np.uint8),
            "log_lengths": np.array([len(payload) for payload in payloads], np.int64),
        }
        values = {"version": self.version, "pending": self.pending}
        return State(arrays, values | {"reference": self.reference_fingerprint.hex()})

    def restore(self, state: State) -> None:
        """Continue from what :meth:`state` returned."""
        version = state.integer("version")
        # Decoding again yields the bytes by group, which are not stored.
        patches = [Patch.from_update(decode(p, self.spec)) for p in _payloads(state)]
        if len(patches) > version:
            raise RunError(f"it has {len(patches)} patches for {version} versions")
        self.weights[:] = state.array("weights", self.weights)
        self.published[:] = state.array("published", self.published)
        self.version = version
        self.pending = state.flag("pending")
        self.log = patches
        self.fingerprint = fingerprint(self.published)
        known = state.values.get("reference")  # checkpoints of earlier versions have none
        if known is not None and known != self.reference_fingerprint.hex():
            log(
                WARNING,
                "the model before training is not the one that this run started from: with another "
                "release of PyTorch or other init-weights its result is not that of one run",
            )

    def _publish(self, rates: RateControl, measured_bytes: float) -> None:
        if rates.budget_bytes >= self.spec.dense_bytes:
            # Lossless. No patch leads to this version: every site is sent the whole model.
            self.published[:] = self.weights
            self.log = []
        else:
            np.subtract(self.weights, self.published, out=self._difference)
            transform = self.transform
            if transform is not None:
                transform.forward(self._difference)
            rates.adjust(self.weights, self._difference, measured_bytes)
            stamp = Stamp(self.run_id, self.version + 1, self.version)
            update = self._compressor.compress(
                self._difference, rates.ratios, stamp, rates.target_bytes
            )
            if transform is None:
                update.add_to(self.published)
            else:
                transform.add_to(update, self.published)
            self.log.append(Patch.from_update(update))
            # A site that lacks more than this is better served with the whole model.
            while sum(len(patch.payload) for patch in self.log) >= self.spec.dense_bytes:
                self.log.pop(0)
        self.version += 1
        self.pending = False
        self.fingerprint = fingerprint(self.published)


def _payloads(state: State) -> list[bytes]:
    """Return the encoded patches of a state."""
    log, lengths = state.arrays.get("log"), state.arrays.get("log_lengths")
    if log is None or log.dtype != np.uint8 or log.ndim != 1:
        raise RunError("its log of patches is missing or is not bytes")
    if lengths is None or lengths.dtype != np.int64 or lengths.ndim != 1:
        raise RunError("the lengths of its patches are missing or are not counts")
    # Checked one by one first: the sum of huge ones may be right by overflow.
    if ((lengths < 0) | (lengths > log.size)).any() or lengths.sum() != log.size:
        raise RunError(f"its patches are not of the {log.size} bytes that it has of them")
    ends = np.cumsum(lengths).tolist()
    content = log.tobytes()
    return [content[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@dataclass(frozen=True)
class Download:
    """The arrays of a message that brings a site up to date, and their bytes by group of layers.

    There are no arrays if the site is up to date. The whole model is one group.
    """

    arrays: ArrayRecord | None
    groups: dict[str, int]


class DownloadCache:
    """Creates each download of a version of the published model once."""

    def __init__(self, model: PublishedModel) -> None:
        self._model = model
        self._version = model.version
        self._since: dict[int, Download] = {}
        self._whole: Download | None = None

    def since(self, version: int) -> Download:
        """Return what brings a site from a version to the present one."""
        self._drop_old()
        if version not in self._since:  # few entries: most sites are at the last version
            patches = self._model.patches_since(version)
            self._since[version] = self.whole() if patches is None else _pack(patches)
        return self._since[version]

    def reference(self) -> Download | None:
        """Return the reference of the channel transform; None without one."""
        if self._model.reference is None:
            return None
        array = Array(self._model.reference)
        return Download(ArrayRecord({messages.PACKED: array}), {REFERENCE_GROUP: len(array.data)})

    def whole(self) -> Download:
        """Return the whole published model."""
        self._drop_old()
        if self._whole is None:
            array = Array(self._model.published)
            arrays = ArrayRecord({messages.PACKED: array})
            self._whole = Download(arrays, {WHOLE_MODEL: len(array.data)})
        return self._whole

    def _drop_old(self) -> None:
        if self._version != self._model.version:
            self._version, self._since, self._whole = self._model.version, {}, None


def _pack(patches: Sequence[Patch]) -> Download:
    if not patches:
        return Download(None, {})
    groups: Counter[str] = Counter()
    for patch in patches:
        groups.update(patch.groups)
    packed = pack_patches([patch.payload for patch in patches])
    array = Array(np.frombuffer(packed, dtype=np.uint8))
    return Download(ArrayRecord({messages.PATCHES: array}), dict(groups))
