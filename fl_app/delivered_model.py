"""The model that a run delivers, with everything that using it on imagery takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from data_prep.common_statistics import CommonStatistics
from data_prep.dataset import open_data
from data_prep.store import Store
from fl_app.models import accepts_missing, takes_modalities
from fl_app.prepared_model import prepare_model
from fl_app.runs.inputs import RunInputs
from fl_app.runs.records import BEST_MODEL_FILE, MODEL_FILE, RunConfig, RunData, RunSummary, damaged
from fl_app.settings import Settings
from fl_app.site_data import modality_infos
from fl_app.site_entries import BATCH_NORM, entries_at_sites, read_site_entries
from fl_app.statistics_round import run_statistics
from rsdgc.errors import RunFolderError, SettingError
from strategies.sites import ModalityInfo


@dataclass(frozen=True)
class BandStatistics:
    """Mean and standard deviation of a modality's bands in physical units, float32 [C]."""

    mean: NDArray[np.float32]
    std: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class DeliveredModel:
    """A trained network, what it takes, and what its outputs mean."""

    folder: Path
    """The run's."""
    file: Path
    """Of the weights."""
    name: str
    network: nn.Module
    """On the CPU, in evaluation mode."""
    modalities: tuple[ModalityInfo, ...]
    """In the order in which the network takes them."""
    statistics: tuple[BandStatistics, ...]
    """By which each modality is normalized."""
    pixel_m: float
    """Side of a pixel of the training data's grids on the ground, meters; 0 if it is not known."""
    classes: tuple[str, ...]
    class_codes: tuple[int, ...]
    """In label rasters; the classes' numbers from 1 where the run does not know them."""
    chip_px: int
    centered: bool
    """Whether a chip is a patch whose label is that of its central pixel."""
    data_name: str
    synthetic: bool
    batch_norm: str = ""
    """How the run kept entries of the model at its sites; empty if it kept none."""
    site: str = ""
    """Whose entries the network has; empty for their mean, or if the run kept none."""
    site_entries: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """The site's, as the network has them in place of those of the file."""

    @property
    def fusion(self) -> bool:
        """Whether the network takes a tensor for each modality, not all of them stacked."""
        return takes_modalities(self.name)

    @property
    def works_without_some(self) -> bool:
        """Whether the network takes None for a modality that is missing."""
        return self.fusion and accepts_missing(self.network, self.modalities)

    @property
    def caution(self) -> str:
        """What a user of the model should know of its entries that stayed at the sites."""
        if not self.batch_norm or self.site:
            return ""
        return (
            f"the run kept batch normalization at its sites (batch-norm={self.batch_norm}), and "
            "this model has the mean of theirs: the run's scores are of the sites' own models, not "
            "of this one; --site NAME gives that of a site, batch-norm=average trains one for all"
        )

    def factor(self, modality: ModalityInfo) -> int:
        """Pixels of the grid along the side of one of a modality's pixels."""
        return self.chip_px // modality.px

    def pixel_m_of(self, modality: ModalityInfo) -> float:
        """Side of one of a modality's pixels on the ground, meters; 0 if it is not known."""
        return self.pixel_m * self.factor(modality)


def load_network(
    path: Path, config: RunConfig, modalities: Sequence[ModalityInfo], num_classes: int
) -> nn.Module:
    """Build a run's network for modalities and load weights from a file of the run.

    Raises :class:`RunFolderError` if the file is missing or does not fit.
    """
    if not path.is_file():
        raise RunFolderError(f"{path} is missing: restore it from a copy, or run again")
    name = config.model
    # The seed, because buffers that are drawn from it need not be in the file.
    kept = {"model": name}
    kept |= {key: config.settings[key] for key in ("batch-norm", "seed") if key in config.settings}
    model, _ = prepare_model(Settings.from_mapping(kept), modalities, num_classes, None)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    # A mask of infinite values, with which a network was built, is as it should be.
    finite = {key for key, value in model.state_dict().items() if torch.isfinite(value).all()}
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise damaged(path, error) from None
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise RunFolderError(f"{path} does not fit {name} on this data: {reason}") from None
    # The saved model has no integer buffers, such as batch normalization's count of batches.
    counters = {key for key, value in model.state_dict().items() if not value.is_floating_point()}
    differing = [*unexpected, *sorted(set(missing) - counters)]
    if differing:
        raise RunFolderError(
            f"{path} does not fit {name} on this data: layer {differing[0]} differs"
        )
    lost = [
        key
        for key, value in weights.items()
        if (key in parameters or key in finite) and not torch.isfinite(value).all()
    ]
    if lost:
        raise RunFolderError(
            f"layer {lost[0]} of {path} holds NaN or infinity: the run diverged; train again with "
            "a smaller learning-rate"
        )
    return model


def load_delivered(
    folder: Path,
    *,
    data: Path | None = None,
    best: bool = False,
    site: str | None = None,
    site_state: Path | None = None,
) -> DeliveredModel:
    """Load the model of a complete run.

    Parameters
    ----------
    folder : Path
        The run's.
    data : Path or None
        A store or partition whose statistics normalize in place of those that the run recorded: a
        site's own, where each site normalized by its own.
    best : bool
        The model of the best round by the validation splits, not that of the last round.
    site, site_state : str and Path, optional
        The model of one site, of a run that kept entries at its sites: the site's name, and the
        root of its states (:func:`fl_app.site_entries.read_site_entries`). Without both, the model
        has the mean of the sites' entries.

    Raises
    ------
    SettingError
        The run kept nothing at its sites, or the site's entries of the run's end are not there.
    StateError
        The site's state cannot be read.
    RunFolderError
        The run is not complete, is too old, or its files are damaged or contradict each other.
    DataError
        ``data`` is not a store or a partition.
    """
    config, summary = RunConfig.read(folder), RunSummary.read(folder)
    recorded = config.data
    given = None if data is None else open_data(data).store
    classes = tuple(summary.classes or recorded.classes)
    inputs, codes = _inputs(folder, recorded, classes, given)
    modalities = tuple(recorded.modalities)
    if not modalities:
        if given is None:
            raise RunFolderError(
                f"{folder} is of an earlier version and lists no bands: name the store that it was "
                "trained on with --data"
            )
        modalities = modality_infos(given)
    chip_px = recorded.chip_px or max(modality.px for modality in modalities)
    path = folder / (BEST_MODEL_FILE if best else MODEL_FILE)
    if best and not path.is_file():
        raise RunFolderError(
            f"{path} is missing: the run had no validation split; leave out --best"
        )
    network = load_network(path, config, modalities, len(classes)).eval()
    local = entries_at_sites(config, modalities, len(classes))
    name = ""
    entries: dict[str, NDArray[np.float32]] = {}
    if site is not None or site_state is not None:
        if not local:
            raise SettingError(
                f"the run in {folder} kept no part of its model at the sites, so that of a site is "
                "the run's: leave out --site and --site-state"
            )
        name, entries = read_site_entries(folder, config, local, site=site, state_dir=site_state)
        state = network.state_dict()
        with torch.no_grad():
            for key, array in entries.items():
                state[key].copy_(torch.from_numpy(array))
    return DeliveredModel(
        folder=folder,
        file=path,
        name=config.model,
        network=network,
        modalities=modalities,
        statistics=_statistics(
            folder, modalities, inputs if given is None else RunInputs.of(given), data
        ),
        pixel_m=inputs.pixel_m if inputs else 0.0,
        classes=classes,
        class_codes=codes,
        chip_px=chip_px,
        centered=bool(inputs and inputs.patch_px),
        data_name=summary.dataset,
        synthetic=recorded.synthetic or summary.synthetic,
        batch_norm=str(config.settings[BATCH_NORM]) if local else "",
        site=name,
        site_entries=entries,
    )


def _inputs(
    folder: Path, recorded: RunData, classes: tuple[str, ...], given: Store | None
) -> tuple[RunInputs | None, tuple[int, ...]]:
    """Return what is known of the run's data, and the codes of its classes in label rasters.

    What the run recorded comes first: the store that is given may have other classes.
    """
    inputs, store = RunInputs.read(folder), given
    codes = inputs.class_codes if inputs else []
    if inputs is None and store is None and recorded.path and Path(recorded.path).is_dir():
        store = open_data(recorded.path).store  # of a run of an earlier version
    if inputs is None and store is not None:
        inputs = RunInputs.of(store)
        by_class = dict(zip(store.classes, store.meta.class_codes, strict=True))
        codes = [by_class[name] for name in classes if name in by_class]
    if len(codes) != len(classes):
        return inputs, tuple(range(1, len(classes) + 1))
    return inputs, tuple(codes)


def _statistics(
    folder: Path,
    modalities: Sequence[ModalityInfo],
    inputs: RunInputs | None,
    data: Path | None,
) -> tuple[BandStatistics, ...]:
    """Return the statistics by which each modality is normalized: common ones come first."""
    common = run_statistics(folder) or CommonStatistics({})
    own = {each.name: each for each in inputs.modalities} if inputs else {}
    result = []
    for modality in modalities:
        known = common.modalities.get(modality.name) or own.get(modality.name)
        if known is None and data is None:
            raise RunFolderError(
                f"{folder} does not say how modality {modality.name} was normalized (each site "
                "used its own statistics): name a site's store with --data"
            )
        if known is None or tuple(known.bands) != modality.bands:
            where = data or folder
            raise RunFolderError(
                f"{where} has no statistics of modality {modality.name} with the bands "
                f"{modality.text}: name the store of a site with --data"
            )
        result.append(
            BandStatistics(np.asarray(known.mean, np.float32), np.asarray(known.std, np.float32))
        )
    return tuple(result)
