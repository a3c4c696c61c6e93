"""The entries of a run's model that stayed at a site, read from the site's durable state.

With ``batch-norm=local`` or ``local-statistics`` the model that a run delivers has the mean of the
sites' entries. A site's own model has that site's entries in their place. They are in its state
(:mod:`clients.state`) until ``rsdgc site clean`` deletes it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from safetensors import SafetensorError

from clients.model_parts import ModelParts
from clients.state import SiteState, StateFolder
from clients.state_cleanup import find_states
from fl_app.prepared_model import prepare_model
from fl_app.runs.records import RunConfig, read_run
from fl_app.settings import Settings
from rsdgc import ModelSpec
from rsdgc.arrays import Float32
from rsdgc.errors import RunFolderError, SettingError
from rsdgc.spec import without_branches
from strategies.ledger import EVALUATE, TRAIN
from strategies.sites import ModalityInfo

BATCH_NORM = "batch-norm"
AT_THE_SITES = ("local", "local-statistics")
"""Values of ``batch-norm`` that keep entries at the sites."""
STATE_DIR = "state-dir"

_TRAINED_PART = (
    *("freeze", "train-only"),
    *("adapters", "adapter-layers", "adapter-rank", "adapter-alpha"),
)
"""Settings that choose what is trained: what is not stays nowhere, for all sites have the same."""

MEAN_REMEDY = "leave out --site and --site-state for the mean of all sites"


def entries_at_sites(
    config: RunConfig, modalities: Sequence[ModalityInfo], num_classes: int
) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the entries that a run kept at its sites; empty if it kept none.

    The network is built, without values.
    """
    if config.settings.get(BATCH_NORM) not in AT_THE_SITES:
        return {}
    names = ("model", BATCH_NORM, "seed", *_TRAINED_PART)
    settings = Settings.from_mapping(
        {name: config.settings[name] for name in names if name in config.settings}
    )
    with torch.device("meta"):
        model, _ = prepare_model(settings, modalities, num_classes, None)
    state = model.state_dict()
    return {name: tuple(state[name].shape) for name in ModelParts(model, settings.batch_norm).local}


def read_site_entries(
    folder: Path,
    config: RunConfig,
    expected: Mapping[str, tuple[int, ...]],
    *,
    site: str | None,
    state_dir: Path | None,
) -> tuple[str, dict[str, Float32]]:
    """Read the entries with which a site scored the model that a run delivers.

    Parameters
    ----------
    folder : Path
        The run's.
    config : RunConfig
        Of the run.
    expected : mapping of str to tuple of int
        Names and shapes, as :func:`entries_at_sites` returns them.
    site : str or None
        Name of the site in the run; None for the only one that has a state in ``state_dir``.
    state_dir : Path or None
        Root of the sites' states; None for that of a simulation: the run's own.

    Returns
    -------
    name : str
        The site's.
    entries : dict of str to float32 array
        Without those of the branches of modalities that the site lacks, which it never trained.

    Raises
    ------
    SettingError
        There is no state of the site, or it is not that of the run's end.
    RunFolderError
        A record of the run, or the state, is damaged.
    StateError
        The state cannot be read.
    """
    root = state_dir or _own_state_dir(folder, config)
    name = _choose_site(root, config, site)
    shapes = {layer.name: tuple(layer.shape) for layer in config.layers}
    states = StateFolder(root, config.run_id, name, ModelSpec.from_shapes(shapes))
    state = _last_state(folder, states, name)
    packed = states.local(state)
    try:
        entries = {} if packed is None else dict(safetensors.numpy.load(packed))
    except SafetensorError:
        entries = {}
    found = {key: tuple(array.shape) for key, array in entries.items()}
    if found != expected or not all(np.isfinite(array).all() for array in entries.values()):
        raise RunFolderError(
            f"{states.path} does not hold the entries of site {name}, or is damaged: restore it "
            f"from a copy, or {MEAN_REMEDY}"
        )
    return name, without_branches(entries, config.data.lacking.get(name, []))


def _own_state_dir(folder: Path, config: RunConfig) -> Path:
    """Return where the sites of a simulation keep their states."""
    chosen = str(config.settings.get(STATE_DIR) or "")
    inside = folder / "state"  # also of a run folder that was moved
    return inside if inside.is_dir() or not chosen else Path(chosen)


def _choose_site(root: Path, config: RunConfig, site: str | None) -> str:
    """Return the name of the site; raise :class:`SettingError` if it has no state of the run."""
    found: list[str] = []
    if root.is_dir():
        found = [each.site for each in find_states(root) if each.run == str(config.run_id)]
    if site is None and len(found) == 1:
        return found[0]
    if site is not None and site in found:
        return site
    if found and site is None:
        raise SettingError(
            f"{root} has the states of {_listed(found)} for this run: choose one with --site"
        )
    who = "any site" if site is None else f"site {site}"
    others = f", and of {_listed(found)}" if found else ""
    raise SettingError(
        f"{root} has no state of {who} for run {config.run_id}{others}: name the site's state-dir "
        f"with --site-state (`rsdgc site clean` deletes states), or {MEAN_REMEDY}"
    )


def _listed(names: Collection[str]) -> str:
    shown = sorted(names)[:8]
    return ", ".join(shown) + (", …" if len(names) > len(shown) else "")


def _last_state(folder: Path, states: StateFolder, site: str) -> SiteState:
    """Return the state with which a site scored the final model.

    A site that was not drawn for the last round scored it with its entries of an earlier one. A
    state of a round for which the run's ledger did not ask the site is left from a start of the
    server that a checkpoint has undone.
    """
    own = [entry for entry in read_run(folder).site_entries if entry.site == site]
    if not any(entry.phase == EVALUATE and entry.accepted for entry in own):
        raise SettingError(
            f"site {site} did not score the final model of {folder}, so its entries are not those "
            f"of the run's end: choose another site, or {MEAN_REMEDY}"
        )
    asked = {entry.round for entry in own if entry.phase == TRAIN}
    trained = max((e.round for e in own if e.phase == TRAIN and e.accepted), default=0)
    known = [state for state in states.load().states if state.round in asked]
    if not known or known[-1].round < trained:
        which = f"is of round {known[-1].round}" if known else "is of no round of this run"
        raise SettingError(
            f"the state of site {site} in {states.path} {which}, and the site last trained in "
            f"round {trained}: name the state-dir that it had at the run's end with --site-state, "
            f"or {MEAN_REMEDY}"
        )
    return known[-1]
