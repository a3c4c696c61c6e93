"""The model of a run, as its settings ask for it: built, then started from weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from fl_app.models import build_model
from fl_app.models.initial_weights import WeightMatch, load_weights, match_weights
from fl_app.models.weight_file import WeightFile
from fl_app.settings import Settings


def prepare_model(
    settings: Settings,
    num_bands: int,
    num_classes: int,
    chip_px: int,
    *,
    weights: Path | None,
    bands: Sequence[str] = (),
) -> tuple[nn.Module, WeightMatch | None]:
    """Build the model of a run, the same for the same arguments wherever it is built.

    Parameters
    ----------
    settings : Settings
        Of the run.
    num_bands, num_classes, chip_px : int
        See :func:`fl_app.models.build_model`.
    weights : path or None
        The file of initial weights on this machine; None to leave the seed's initialization.
    bands : sequence of str
        Names of the bands, in order; empty if they are not known.

    Returns
    -------
    model : torch.nn.Module
        On the default device. On the meta device weights are matched, but not read.
    match : WeightMatch or None
        What came from the file; None without one.

    Raises
    ------
    SettingError
        The model cannot be built, or the weights do not fit it.
    """
    model = build_model(settings.model, num_bands, num_classes, chip_px, settings.seed)
    match = None
    if weights is not None:
        on_meta = any(parameter.is_meta for parameter in model.parameters())
        match = (match_weights if on_meta else load_weights)(model, WeightFile(weights), bands)
    return model, match
