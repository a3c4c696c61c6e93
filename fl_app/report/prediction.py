"""Classes that the run's saved model predicts for chips of a store."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from clients.evaluation import BATCH_SIZE
from clients.loader import SplitLoader
from clients.memory_format import format_chips, place_model
from clients.training import choose_device
from data_prep.store import Store
from fl_app.data_loaders import normalizations, run_inputs
from fl_app.delivered_model import load_network
from fl_app.models import takes_modalities
from fl_app.runs.records import MODEL_FILE, Run
from fl_app.site_data import modality_infos
from fl_app.statistics_round import run_statistics
from rsdgc.errors import RunFolderError
from rsdgc.plain_text import plain_line


def predict(run: Run, store: Store, chips: NDArray[np.int64]) -> NDArray[np.int64]:
    """Predict the classes, int64 [n], of chips at positions in a store."""
    device = choose_device("auto")
    model = place_model(_saved_model(run, store), device).eval()
    names = [modality.name for modality in run.config.data.modalities]
    store, present = run_inputs(store, names)
    stacked = not takes_modalities(run.model)
    if not any(present) or (stacked and not all(present)):
        raise RunFolderError(
            f"{store.path} lacks some of the run's modalities: {', '.join(names)}; name the data "
            "that the run was trained on"
        )
    normalization = normalizations(store.meta.modalities, run_statistics(run.folder))
    labels = np.zeros(len(chips), np.int64)  # a loader wants some; they are not used
    loader = SplitLoader(
        store, chips, labels, normalization, device, stacked=stacked, present=present
    )
    with torch.inference_mode():
        classes = [
            model(*format_chips(batch, model)).argmax(1).cpu()
            for batch, _ in loader.batches(BATCH_SIZE, None)
        ]
    return torch.cat(classes).numpy().astype(np.int64)


def _saved_model(run: Run, store: Store) -> nn.Module:
    """Build the run's network for the store and load its saved weights."""
    path = run.folder / MODEL_FILE
    if len(store.classes) != len(run.classes):
        raise RunFolderError(
            f"{store.path} has {len(store.classes)} classes and the run {len(run.classes)}: "
            "name the data that the run was trained on"
        )
    # A record holds its texts in one printable line.
    ours, theirs = (list(map(plain_line, names)) for names in (store.classes, run.classes))
    if ours != theirs:
        name, other = next(pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1])
        raise RunFolderError(
            f"{store.path} has the class {name} where the run has {other}: name the data that the "
            "run was trained on"
        )
    own = modality_infos(store)
    modalities = run.config.data.modalities or own
    by_name = {modality.name: modality for modality in modalities}
    for modality in own:
        expected = by_name.get(modality.name, modality)
        if modality != expected:
            raise RunFolderError(
                f"{store.path} has modality {modality.name} with the bands {modality.text}, the "
                f"run with {expected.text}: name the data that the run was trained on"
            )
    return load_network(path, run.config, modalities, len(store.classes))
