"""Names of the records and fields that a round's messages carry.

The server's strategy writes the tasks and reads the reports, the site does the opposite; the two
packages do not know each other, so the names that both use stand here.

=========  ==============================  =====================================================
message    record                          fields
=========  ==============================  =====================================================
query →    ``task`` (config)               ``kind``
query ←    ``site`` (config)               ``names``, ``num-train``, ``num-test``, ``classes``,
                                           ``bands``, ``chip-px``, ``dataset``, ``synthetic``
train →    ``model`` (arrays)              the global model
           ``task`` (config)               ``site``, ``round``, ``learning-rate``, and with a
                                           compressed method ``accepted-round``, ``ratios``,
                                           ``budget-bytes``
train ←    ``update`` (arrays)             one encoded upload, or the whole model (FedAvg)
           ``metrics`` (metrics)           ``num-examples``, ``train-loss``, ``score-loss``,
                                           ``seconds``, ``reference``, ``predicted``, ``correct``
evaluate → ``model``, ``task``             as above; ``task`` has ``site``
evaluate ← ``metrics`` (metrics)           ``num-examples``, ``score-loss``, ``confusion``
=========  ==============================  =====================================================

``reference``, ``predicted`` and ``correct`` are counts per class on the site's test split, of the
model as received: enough for overall and balanced accuracy and Cohen's kappa at a fraction of a
confusion matrix's size. The whole matrix travels once, in the final evaluation.
"""

from __future__ import annotations

MODEL = "model"
TASK = "task"
SITE = "site"
UPDATE = "update"
METRICS = "metrics"

PACKED = "packed"
"""Name of the one array that holds a packed model or an encoded upload."""

ROUND = "round"
ACCEPTED_ROUND = "accepted-round"
LEARNING_RATE = "learning-rate"
RATIOS = "ratios"
BUDGET_BYTES = "budget-bytes"

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
