"""Names of the records and fields that a round's messages carry.

The server's strategy writes the tasks and reads the reports, the site does the opposite; the two
packages do not know each other, so the names that both use stand here.

=========  ==============================  =====================================================
message    record                          fields
=========  ==============================  =====================================================
query →    ``task`` (config)               ``kind``
query ←    ``site`` (config)               ``names``, ``num-train``, ``num-test``, ``classes``,
                                           ``bands``, ``chip-px``, ``dataset``, ``synthetic``
sums →     ``task`` (config)               ``site``; once, before the first round, where sites
                                           normalise by common statistics
sums ←     ``sums`` (config)               ``layers``, ``classes``, ``class-counts``, and of each
                                           layer its bands, and their counts, means and squared
                                           deviations
train →    ``model`` (arrays)              ``patches`` that the site lacks, or the whole model;
                                           left out where the site has everything
           ``task`` (config)               ``site``, ``round``, ``learning-rate``, and with a
                                           compressed method the *origin*, ``accepted-round``,
                                           ``ratios`` and ``budget-bytes``; ``normalization``
                                           where sites normalise by common statistics
train ←    ``update`` (arrays)             one encoded upload, or the whole model (FedAvg)
           ``metrics`` (metrics)           ``num-examples``, ``train-loss``, ``score-loss``,
                                           ``seconds``, ``reference``, ``predicted``, ``correct``,
                                           and with a compressed method ``version``
train ←    ``metrics`` (metrics)           ``resync`` alone: the replica here is not what the
                                           patches start from; the whole model is needed
evaluate → ``model``, ``task``             as above; ``task`` has ``site``, the origin, and
                                           ``normalization``
evaluate ← ``metrics`` (metrics)           ``num-examples``, ``score-loss``, ``confusion``; or
                                           ``resync`` alone
=========  ==============================  =====================================================

The *origin* is ``run`` (8 bytes), ``version`` and ``fingerprint`` of the published model,
``resumed-round`` and ``kept-rounds``; ``docs/protocol.md`` tells what they are for.

``reference``, ``predicted`` and ``correct`` are counts per class on the site's test split, of the
model as received: enough for overall and balanced accuracy and Cohen's kappa at a fraction of a
confusion matrix's size. The whole matrix travels once, in the final evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence

MODEL = "model"
TASK = "task"
SITE = "site"
UPDATE = "update"
SUMS = "sums"
METRICS = "metrics"

STATISTICS = "statistics"
"""Name of the query that asks for the sums of a site's train samples."""

PACKED = "packed"
"""Name of the one array that holds a packed model or an encoded upload."""
PATCHES = "patches"
"""Name of the one array that holds packed patches (:mod:`rsdgc.patches`)."""

ROUND = "round"
ACCEPTED_ROUND = "accepted-round"
LEARNING_RATE = "learning-rate"
RATIOS = "ratios"
BUDGET_BYTES = "budget-bytes"
NORMALIZATION = "normalization"
"""Means and standard deviations that the site normalises by, packed; absent: by its own."""

RUN = "run"
VERSION = "version"
FINGERPRINT = "fingerprint"
RESUMED_ROUND = "resumed-round"
KEPT_ROUNDS = "kept-rounds"
RESYNC = "resync"

NAMES = "names"
NUM_TRAIN = "num-train"
NUM_TEST = "num-test"
CLASSES = "classes"
BANDS = "bands"
CHIP_PX = "chip-px"
DATASET = "dataset"
SYNTHETIC = "synthetic"

NUM_EXAMPLES = "num-examples"
TRAIN_LOSS = "train-loss"
SCORE_LOSS = "score-loss"
SECONDS = "seconds"
REFERENCE = "reference"
PREDICTED = "predicted"
CORRECT = "correct"
CONFUSION = "confusion"


def pack_rounds(rounds: Sequence[int]) -> bytes:
    """Pack numbers of rounds, four bytes each, little-endian; one zero byte for none."""
    return b"".join(number.to_bytes(4, "little") for number in rounds) or b"\0"


def unpack_rounds(packed: bytes) -> tuple[int, ...]:
    """Unpack what :func:`pack_rounds` packed."""
    return tuple(
        int.from_bytes(packed[at : at + 4], "little") for at in range(0, len(packed) - 3, 4)
    )
