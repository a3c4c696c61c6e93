"""Write a run's folder: configuration first, ledger as it goes, model and summary at the end."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from fl_app.settings import Settings
from rsdgc import ModelSpec
from rsdgc.durable import replace_text
from rsdgc.errors import RunError, SettingError
from strategies import Ledger, SiteManager

MAY_CHANGE = frozenset(
    {
        *("data-dir", "out", "state-dir", "resume", "device", "threads"),
        *("min-sites", "join-timeout-s", "round-timeout-s"),
        *("checkpoint-every", "checkpoint-keep"),
    }
)
"""Settings that a resumed run may change: they do not enter its result."""

PACKAGES = ("flwr", "torch", "torchvision", "numpy", "rasterio")


def in_use(out: Path) -> bool:
    """Return whether something is at ``out`` that a run would write over."""
    return out.exists() and (not out.is_dir() or any(out.iterdir()))


def create(out: Path) -> Path:
    """Make the run folder.

    Raises
    ------
    RunError
        If something is in it already: a run never writes over another.
    """
    if in_use(out):
        raise RunError(f"run folder {out} is not empty; choose another or remove it")
    out.mkdir(parents=True, exist_ok=True)
    return out


def read_settings(out: Path) -> tuple[Settings, int]:
    """Return the settings that a run was started with, and its number.

    Raises
    ------
    RunError
        There is no run, or its configuration is damaged.
    """
    path = out / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        keys = set(Settings.keys())
        known = {key: value for key, value in config.items() if key in keys}
        return Settings.from_mapping(known), int(config["run_id"])
    except FileNotFoundError:
        raise RunError(f"{out} holds no run to resume: it has no config.json") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error}): the run cannot be resumed") from None


def reopen(settings: Settings) -> tuple[Path, int]:
    """Check that the run in ``settings.out`` can be resumed with these settings.

    Returns
    -------
    folder : Path
        The run folder.
    run_id : int
        Number of the run when it was first started: its sites' states go by it.

    Raises
    ------
    RunError
        There is no such run, or it is finished.
    SettingError
        A setting that the result depends on is another now.
    """
    if not settings.out:
        raise SettingError("resume=true needs out: name the folder of the run to go on with")
    folder = Path(settings.out).absolute()
    before, run_id = read_settings(folder)
    if (folder / "summary.json").exists():
        raise RunError(f"the run in {folder} is finished: there is nothing to resume")
    old, new = before.to_mapping(), settings.to_mapping()
    for key in old:
        if key not in MAY_CHANGE and old[key] != new[key]:
            raise SettingError(
                f"{key} was {old[key]!r} when the run in {folder} was started and is "
                f"{new[key]!r} now: resume with the same settings"
            )
    return folder, run_id


def write_config(
    folder: Path,
    settings: dict[str, Any],
    roster: SiteManager,
    spec: ModelSpec,
    data_path: str,
    run_id: int,
) -> None:
    """Write ``config.json``: all settings, the data, the layers, the versions."""
    data = roster.data
    _write_json(
        folder / "config.json",
        {
            **settings,
            "run_id": run_id,
            "data": {
                "path": data_path,
                "name": data.dataset,
                "synthetic": data.synthetic,
                "classes": list(data.classes),
                "sites": sorted(roster.sites),
                "num_bands": data.bands,
                "chip_px": data.chip_px,
            },
            "layers": [{"name": la.name, "shape": list(la.shape)} for la in spec.layers],
            "versions": {
                "python": platform.python_version(),
                **{package: version(package) for package in PACKAGES},
            },
        },
    )


def write_model(folder: Path, model: torch.nn.Module) -> None:
    """Write ``model.safetensors``: the whole state of the final global model."""
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    temporary = folder / "model.safetensors.tmp"
    save_file(state, temporary)
    temporary.chmod(0o644)  # safetensors lets only the owner read what it writes
    temporary.replace(folder / "model.safetensors")


def write_summary(
    folder: Path,
    settings: dict[str, Any],
    roster: SiteManager,
    ledger: Ledger,
    confusion: list[list[int]],
    seconds: float,
) -> dict[str, Any]:
    """Write ``summary.json`` and return it."""
    scores = ledger.final
    figures = ("accuracy", "balanced_accuracy", "kappa")
    summary = {
        "method": settings["method"],
        "dataset": roster.data.dataset,
        "synthetic": roster.data.synthetic,
        "model": settings["model"],
        "num_sites": len(roster.sites),
        "rounds": len(ledger.rounds) - 1,
        "seed": settings["seed"],
        **{name: scores and round(getattr(scores, name), 6) for name in figures},
        **ledger.totals(),
        "seconds": round(seconds, 1),
        "num_test": scores.num_examples if scores else 0,
        "classes": list(roster.data.classes),
        "confusion": confusion,
        "refused": ledger.refusals,
    }
    _write_json(folder / "summary.json", summary)
    return summary


def _write_json(path: Path, value: Any) -> None:
    replace_text(path, json.dumps(value, indent=1, allow_nan=False))
