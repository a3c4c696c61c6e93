"""Classes that the run's saved model predicts for chips of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from clients.loader import SplitLoader
from clients.training import choose_device
from fl_app.models import build_model
from fl_app.site_data import normalizations
from fl_app.statistics_round import run_statistics
from rsdgc.errors import RunError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from data_prep.store import Store
    from fl_app.runs.records import Run

_BATCH_SIZE = 64


def predict(run: Run, store: Store, chips: NDArray[np.int64]) -> NDArray[np.int64]:
    """Predict the classes of chips.

    Parameters
    ----------
    run : Run
        Its folder holds ``model.safetensors``.
    store : Store
        Where the chips are; its bands and classes must be those of the run.
    chips : int64 [n]

    Returns
    -------
    int64 [n]

    Raises
    ------
    RunError
        The model is missing or does not fit the store.
    DataError
        The statistics that the run normalized by do not fit the store.
    """
    device = choose_device("auto")
    model = saved_model(run, store).to(device).eval()
    common = run_statistics(run.folder)
    normalization = normalizations(store.meta.modalities, common)
    labels = np.zeros(len(chips), dtype=np.int64)
    loader = SplitLoader(store, chips, labels, normalization, device)
    with torch.inference_mode():
        classes = [model(x).argmax(1).cpu() for x, _ in loader.batches(_BATCH_SIZE, None)]
    return torch.cat(classes).numpy().astype(np.int64)


def saved_model(run: Run, store: Store) -> nn.Module:
    """Build the run's network for the store and load the saved weights into it.

    Raises
    ------
    RunError
        The file is missing or damaged, or has other layers than the network.
    """
    path = run.folder / "model.safetensors"
    if not path.is_file():
        raise RunError(f"{path} is missing: the run saved no model")
    if len(store.classes) != len(run.classes):
        raise RunError(
            f"{store.path} has {len(store.classes)} classes and the run {len(run.classes)}: "
            "name the data that the run was trained on"
        )
    name = run.config.model or run.summary.model
    model = build_model(name, store.num_bands, len(store.classes), store.chip_px)
    try:
        missing, unexpected = model.load_state_dict(load_file(path), strict=False)
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{path} does not fit {name} on this data: {reason}") from None
    counters = {key for key, value in model.state_dict().items() if not value.is_floating_point()}
    if unexpected or set(missing) - counters:
        wrong = [*unexpected, *sorted(set(missing) - counters)]
        raise RunError(f"{path} does not fit {name} on this data: layer {wrong[0]} differs")
    return model
