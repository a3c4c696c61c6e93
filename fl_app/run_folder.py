"""Write a run's folder: configuration first, ledger as it goes, model and summary at the end."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from fl_app.files import replace_text
from rsdgc import ModelSpec
from rsdgc.errors import RunError
from strategies import Ledger, Roster

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


def write_config(
    folder: Path, settings: dict[str, Any], roster: Roster, spec: ModelSpec, data_path: str
) -> None:
    """Write ``config.json``: all settings, the data, the layers, the versions."""
    data = roster.data
    _write_json(
        folder / "config.json",
        {
            **settings,
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
    roster: Roster,
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
