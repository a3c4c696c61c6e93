from __future__ import annotations

import json

from data_prep.ingest.losses import KEPT, Losses


def test_losses_add_up_and_outlast_the_process() -> None:
    losses = Losses()
    for value in (1e39, -4e40, 2e39):
        losses.add_overflow("dem.tif", value)
    losses.add_unknown("labels.tif", {"7": 3, "9": 1})
    other = Losses()
    other.add_unknown("labels.tif", {"9": 5})
    losses.update(other)
    again = Losses.from_mapping(json.loads(json.dumps(losses.to_mapping())))
    assert again.notes() == losses.notes()
    assert losses.notes() == [
        "dem.tif has values beyond 1e30, such as -4e+40, which it does not declare: they count as "
        "no data",
        "labels.tif: pixels of no class: 9 (6 px), 7 (3 px)",
    ]


def test_a_photograph_taken_for_labels_makes_a_short_note() -> None:
    losses = Losses()
    losses.add_unknown("labels.tif", {f"#{i:06x}": i + 1 for i in range(5000)})
    assert len(losses.unknown["labels.tif"]) == KEPT
    (note,) = losses.notes()
    assert note.endswith("#001384 (4997 px), #001383 (4996 px) and 995 more")
