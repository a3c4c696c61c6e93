"""Open a run's folder, and write into it what a run leaves beside its ledger."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from clients.model_parts import ModelParts
from fl_app.home import home
from fl_app.models.adapters import merged_state
from fl_app.models.initial_weights import WeightMatch
from fl_app.models.timm_models import PREFIX as TIMM
from fl_app.models.weight_file import bands_metadata, write_tensors
from fl_app.runs.lock import HOLDER_FILE, LOCK_FILE, lock_run
from fl_app.runs.own_code import code_signatures
from fl_app.runs.records import (
    ADAPTERS_FILE,
    CONFIG_FILE,
    INIT_WEIGHTS_FILE,
    MODEL_FILE,
    FrozenRecord,
    LayerShape,
    RunConfig,
    RunData,
)
from fl_app.runs.replacement import in_use
from fl_app.runs.resumption import check_resumable
from fl_app.settings import Settings
from rsdgc import ModelSpec
from rsdgc.durable import replace_text
from rsdgc.errors import RunFolderError, SettingError
from strategies import SiteManager
from strategies.sites import DataInfo, ModalityInfo

PACKAGES = ("rsdgc", "flwr", "torch", "torchvision", "numpy", "rasterio")
"""Packages whose versions ``config.json`` records, because results depend on them."""


@dataclass(frozen=True)
class ActiveRun:
    """A run that this process works on, in a folder that it has locked."""

    settings: Settings
    """Of this start of the run."""
    folder: Path
    """Absolute."""
    run_id: int
    """Flower's number when the run was first started; sites keep their states under it."""
    resumed: bool
    """Whether the run was started before."""

    def write_config(
        self,
        sites: SiteManager,
        spec: ModelSpec,
        data_path: str,
        frozen: FrozenRecord | None,
        data_digest: str = "",
    ) -> None:
        """Write ``config.json``: all settings, the data, the layers, the code, the versions."""
        data = sites.data
        RunConfig(
            settings=self.settings.to_mapping(),
            run_id=self.run_id,
            data=RunData(
                path=data_path,
                name=data.dataset,
                synthetic=data.synthetic,
                classes=list(data.classes),
                sites=sorted(sites.sites),
                num_bands=data.bands,
                chip_px=data.chip_px,
                digest=data_digest,
                modalities=list(data.modalities),
                lacking={
                    site.name: list(sites.lacking(site))
                    for site in sites.connected()
                    if sites.lacking(site)
                },
            ),
            layers=[LayerShape(layer.name, list(layer.shape)) for layer in spec.layers],
            frozen=frozen,
            code=code_signatures(self.settings),
            versions=_versions(self.settings),
        ).write(self.folder)

    def changed_versions(self) -> str:
        """Return which packages a resumed run now has in another version; empty if none."""
        before = RunConfig.read(self.folder).versions
        changed = [
            f"{package} {now} instead of {before[package]}"
            for package, now in _versions(self.settings).items()
            if before.get(package, now) != now
        ]
        return ", ".join(changed)

    def check_model(self, spec: ModelSpec, frozen: FrozenRecord | None) -> None:
        """Raise :class:`SettingError` if a resumed run's model is another one than before."""
        config, settings = RunConfig.read(self.folder), self.settings
        since = f"since the run in {self.folder} was started"
        before = [(layer.name, tuple(layer.shape)) for layer in config.layers]
        now = [(layer.name, layer.shape) for layer in spec.layers]
        if before and before != now:
            differing = [layer for layer in before if layer not in now] or now
            name, shape = differing[0]
            raise SettingError(
                f"model {settings.model} has changed {since}, which has {len(before)} layers, "
                f"among them layer '{name}' of shape {'×'.join(map(str, shape))}: resume with the "
                "code and the version of rsdgc that started it"
            )
        # Runs of earlier versions recorded nothing of networks of one's own.
        if config.frozen is not None and config.frozen != frozen:
            changed, remedy = f"init-weights {settings.init_weights}", "restore the file"
            if not settings.init_weights:
                changed, remedy = f"what model {settings.model} starts from", "restore its code"
            raise SettingError(f"{changed} has changed {since}: {remedy}")

    @property
    def recorded_data(self) -> DataInfo:
        """The data that a resumed run was started with; older folders list no modalities."""
        data = RunConfig.read(self.folder).data
        classes, modalities = tuple(data.classes), tuple(data.modalities)
        return DataInfo(data.name, data.synthetic, classes, modalities)

    def write_initial_weights(self, match: WeightMatch) -> None:
        """Write ``init-weights.json``: what the model started from."""
        report = {"file": self.settings.init_weights, **match.to_mapping()}
        replace_text(self.folder / INIT_WEIGHTS_FILE, json.dumps(report, indent=1) + "\n")

    def write_model(
        self, model: torch.nn.Module, modalities: Sequence[ModalityInfo], name: str = MODEL_FILE
    ) -> None:
        """Write the whole state of the final global model, or of the best round's.

        The names of each modality's bands go with it, so that a run that starts from it can tell
        which filters are whose.
        """
        metadata = bands_metadata({modality.name: modality.bands for modality in modalities})
        write_tensors(self.folder / name, merged_state(model), metadata)

    def write_adapters(self, parts: ModelParts) -> None:
        """Write ``adapters.safetensors``: all that a run with adapters changed, before merging.

        With the weights that the run started from, it makes up ``model.safetensors``.
        """
        settings, state = self.settings, parts.model.state_dict()
        # One key: safetensors writes several in any order, and equal runs write equal files.
        scale = {"scale": str(settings.adapter_alpha / settings.adapter_rank)}
        shared = (layer.name for layer in parts.spec.layers)
        changed = {name: state[name] for name in (*shared, *parts.running, *parts.local)}
        write_tensors(self.folder / ADAPTERS_FILE, changed, scale)


def _versions(settings: Settings) -> dict[str, str]:
    packages = (*PACKAGES, "timm") if settings.model.startswith(TIMM) else PACKAGES
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


@contextmanager
def open_run(settings: Settings, flower_run_id: int) -> Iterator[ActiveRun]:
    """Open the folder of a new run, or of the one to resume, and lock it while the context lasts.

    The settings ``resume`` and ``out`` decide which folder it is; ``flower_run_id`` is Flower's
    number of this start of the run. A new run that ends before it has written ``config.json``, for
    instance because no site connects, leaves no folder. Raises RunFolderError if another process
    works in the folder, and SettingError if the run to resume was started with other settings.
    """
    if settings.resume:
        folder, run_id = check_resumable(settings)
    else:
        folder, run_id = _new_folder(settings, flower_run_id), flower_run_id
    with lock_run(folder, flower_run_id):
        try:
            yield ActiveRun(settings, folder, run_id, settings.resume)
        finally:
            if not (folder / CONFIG_FILE).exists():
                for name in (HOLDER_FILE, LOCK_FILE):
                    (folder / name).unlink(missing_ok=True)
                with suppress(OSError):  # something else is in it
                    folder.rmdir()


def _new_folder(settings: Settings, run_id: int) -> Path:
    default = home() / "runs" / f"{settings.method}-{run_id}"
    folder = (Path(settings.out) if settings.out else default).absolute()
    if in_use(folder):
        raise RunFolderError(f"run folder {folder} is not empty: choose another out, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
