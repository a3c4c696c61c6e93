"""Names of the records and fields in the messages between server and sites.

The server's strategy writes tasks and reads reports; the ClientApp does the opposite. Both use the
names below. They travel with every message and count in its bytes, so changing one changes the
sizes that the ratios are steered by.

=========  ==============================  =====================================================
message    record                          fields
=========  ==============================  =====================================================
query →    ``task`` (config)               ``kind``
query ←    ``site`` (config)               ``names``, ``num-train``, ``num-test``, ``classes``,
                                           ``modalities``, ``num-bands``, ``bands``, ``chip-px``,
                                           ``dataset``, ``synthetic``; ``lacking`` if a site lacks
                                           a modality, ``num-val`` if one has a validation split;
                                           ``model-code``, or ``model-error``; ``versions`` and
                                           ``wire-format`` of the party
sums →     ``task`` (config)               ``site``; once, before the first round, if sites
                                           normalize by common statistics
sums ←     ``sums`` (config)               ``layers`` (the modalities), ``classes``,
                                           ``class-counts``, and for each modality its bands with
                                           their counts, means and squared deviations
train →    ``model`` (arrays)              the ``patches`` that the site lacks, or the whole
                                           model; absent if the site is up to date
           ``running`` (arrays)            running statistics, encoded, of a model that has any
                                           (:mod:`rsdgc.statistics_codec`); also with evaluate
           ``task`` (config)               ``site``, ``round``, ``learning-rate``, and with a
                                           compressed method the *origin*, ``accepted-round``,
                                           ``ratios`` and ``budget-bytes``; ``accepted-share``
                                           if the last upload was clipped; ``clip-scale`` if
                                           sites scale their gradient norm; ``normalization``
                                           if sites normalize by common statistics; the run's
                                           ``modalities``, ``num-bands``, ``bands``, ``chip-px`` if
                                           the site lacks some or has another order; ``frozen``,
                                           the digest of the frozen part, if the model has one
           ``frozen`` (arrays)             the frozen part, in the answer to a site that lacks
                                           it (:mod:`rsdgc.frozen_part`); also with evaluate
           ``transform`` (arrays)          the reference of the channel transform, likewise
                                           (:mod:`rsdgc.channel_transform`)
train ←    ``update`` (arrays)             one encoded upload, or the whole model (FedAvg)
           ``running`` (arrays)            the site's running statistics, if they have changed
           ``metrics`` (metrics)           ``num-examples``, ``train-loss``, ``seconds`` (packed,
                                           see :func:`pack_seconds`), and with
                                           a compressed method ``version``; in a scored round
                                           ``score-loss``, ``reference``, ``predicted`` and
                                           ``correct``, and the same four as ``val-loss``,
                                           ``val-reference``, … if the site has a validation split
train ←    ``metrics`` (metrics)           ``resync`` alone: the patches do not fit the site's
                                           replica, and it needs the whole model; ``frozen``
                                           or ``transform`` alone: it needs that and the frozen
                                           part, or the reference of the channel transform
evaluate → ``model``, ``task``             as above; ``task`` has ``site``, the origin,
                                           ``normalization``, ``frozen`` and the modalities
evaluate ← ``metrics`` (metrics)           ``num-examples``, ``score-loss``, ``confusion``, and
                                           ``val-loss``, ``val-reference``, … as above; or
                                           ``resync`` alone
           ``local`` (arrays)              entries of the model that stay at the site, encoded as
                                           running statistics, for the model that is delivered
=========  ==============================  =====================================================

The *origin* is ``run`` (8 bytes), ``version`` and ``fingerprint`` of the published model,
``resumed-round`` and ``kept-rounds``, and ``transform``, the fingerprint of the channel transform's
reference, if updates are transformed; ``docs/protocol.md`` explains them.

``reference``, ``predicted`` and ``correct`` are counts per class on the site's test split for the
model as received, those with ``val-`` on its validation split. They suffice for overall accuracy,
balanced accuracy and Cohen's kappa at a fraction of a confusion matrix's size. The whole matrix of
the test split travels once, in the final evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MODEL = "model"
TASK = "task"
SITE = "site"
UPDATE = "update"
SUMS = "sums"
METRICS = "metrics"
RUNNING = "running"
FROZEN = "frozen"
"""Digest of the frozen part in a task, the part itself, and a site's request for it."""
LOCAL = "local"

STATISTICS = "statistics"
"""Name of the query that asks for the sums of a site's train samples."""

PACKED = "packed"
"""Name of the array that holds a packed model or an encoded upload."""
PATCHES = "patches"
"""Name of the array that holds packed patches (:mod:`rsdgc.patches`)."""

ROUND = "round"
ACCEPTED_ROUND = "accepted-round"
ACCEPTED_SHARE = "accepted-share"
"""Share of the upload of that round that is in the model; absent if all of it is."""
LEARNING_RATE = "learning-rate"
CLIP_SCALE = "clip-scale"
"""What the site multiplies its largest gradient norm by; absent if that is 1."""
RATIOS = "ratios"
BUDGET_BYTES = "budget-bytes"
NORMALIZATION = "normalization"
"""Means and standard deviations that the site normalizes by, packed; absent: the site's own."""

RUN = "run"
VERSION = "version"
FINGERPRINT = "fingerprint"
RESUMED_ROUND = "resumed-round"
KEPT_ROUNDS = "kept-rounds"
TRANSFORM = "transform"
"""Fingerprint of the channel transform's reference in a task, the reference itself, and a site's
request for it."""
RESYNC = "resync"

NAMES = "names"
NUM_TRAIN = "num-train"
NUM_TEST = "num-test"
NUM_VAL = "num-val"
"""Absent where no site of the node has a validation split."""
CLASSES = "classes"
MODALITIES = "modalities"
"""Names of the modalities of the node's data, or of the run, in the order of a model's input."""
NUM_BANDS = "num-bands"
"""Number of bands of each modality."""
BANDS = "bands"
"""Names of all bands, modality after modality."""
CHIP_PX = "chip-px"
"""Side of a chip in the pixels of each modality."""
LACKING = "lacking"
"""Which modalities each site lacks: bit i of its number stands for modality i."""
DATASET = "dataset"
SYNTHETIC = "synthetic"
MODEL_CODE = "model-code"
"""Signature of the code of the run's model at the site."""
MODEL_ERROR = "model-error"
"""Why the site cannot build the run's model; absent if it can."""
VERSIONS = "versions"
"""Versions of the packages that the app's code does not bring along."""
WIRE_FORMAT = "wire-format"
"""Version of the format of uploads and patches."""

NUM_EXAMPLES = "num-examples"
TRAIN_LOSS = "train-loss"
SCORE_LOSS = "score-loss"
SECONDS = "seconds"
WORK_STEPS = ("score", "train", "compress", "other")
"""Parts of a site's work on a round's task, in the order of :func:`pack_seconds`."""
REFERENCE = "reference"
PREDICTED = "predicted"
CORRECT = "correct"
CLASS_COUNTS = (REFERENCE, PREDICTED, CORRECT)
CONFUSION = "confusion"

VAL_LOSS = "val-loss"
VAL_CLASS_COUNTS = tuple(f"val-{key}" for key in CLASS_COUNTS)


def is_scored(server_round: int, evaluate_every: int) -> bool:
    """Return whether sites score the model that a round's task brings them.

    It is the model after the round before. That of round 0 is scored, and then one in
    ``evaluate_every``; the last round's is scored by the final evaluation.
    """
    return (server_round - 1) % evaluate_every == 0


def pack_rounds(rounds: Sequence[int]) -> bytes:
    """Pack round numbers, four bytes each, little-endian; a single zero byte stands for none.

    Flower cannot count the bytes of an empty value.
    """
    return b"".join(number.to_bytes(4, "little") for number in rounds) or b"\0"


def unpack_rounds(packed: bytes) -> tuple[int, ...]:
    """Return the round numbers that :func:`pack_rounds` packed."""
    return tuple(
        int.from_bytes(packed[start : start + 4], "little")
        for start in range(0, len(packed) - 3, 4)
    )


def pack_seconds(parts: Sequence[float]) -> int:
    """Pack the seconds of :data:`WORK_STEPS` into one number, which takes eight bytes of a report.

    Each is a float32 rounded to its upper half (bfloat16, three digits), the first in the lowest
    bits. All four are as long as the total was alone: a longer report would leave an upload less
    of its budget.
    """
    halves = (np.asarray(parts, "<f4").view("<u4").astype("<u8") + 0x8000) >> 16
    return int(halves.astype("<u2").view("<i8")[0])


def unpack_seconds(packed: int) -> tuple[float, ...]:
    """Return the seconds that :func:`pack_seconds` packed; any number may come out of another."""
    halves = np.array([packed], "<i8").view("<u2").astype("<u4")
    return tuple((halves << 16).astype("<u4").view("<f4").tolist())
