"""A run's model for others: a program with normalization inside, its weights, and a model card.

::

    FOLDER/model.pt2           torch.export: physical values (n, bands, px, px) to probabilities;
                               or model.onnx, the same in ONNX
    FOLDER/model.safetensors   the weights
    FOLDER/model.json          bands, order, statistics, chip size, classes
    FOLDER/README.md           the model card

The program takes one float32 tensor a modality, in the order of ``model.json``, and any number of
chips. It needs PyTorch, or a runtime of ONNX, and nothing of this project.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from clients.normalization import stack_modalities
from data_prep.staging import FolderKind, check_free, staged_folder
from fl_app.delivered_model import BandStatistics, DeliveredModel
from fl_app.model_card import write_card
from fl_app.models.weight_file import write_tensors
from rsdgc.errors import SettingError, describe_error

PROGRAM_FILES = {"torch": "model.pt2", "onnx": "model.onnx"}
"""By the format of the program."""

WEIGHTS_FILE, RECORD_FILE = "model.safetensors", "model.json"
CARD_FILE = "README.md"
EXPORT = FolderKind(
    "exported model",
    RECORD_FILE,
    frozenset(("rsdgc_version", "modalities", "classes")),
    frozenset((*PROGRAM_FILES.values(), WEIGHTS_FILE, RECORD_FILE, CARD_FILE)),
)


class PhysicalModel(nn.Module):
    """A network that takes physical values, with NaN for pixels without data."""

    def __init__(self, model: DeliveredModel) -> None:
        super().__init__()
        self.network = model.network
        self._stacked = not model.fusion
        for number, statistics in enumerate(model.statistics):
            for name, values in (("mean", statistics.mean), ("slope", _slope(statistics))):
                tensor = torch.from_numpy(values).reshape(1, -1, 1, 1)
                self.register_buffer(f"{name}_{number}", tensor)

    def forward(self, *chips: Tensor) -> Tensor:
        """Return probabilities (n, classes) of chips, one tensor (n, bands, px, px) a modality."""
        normalized = [
            # As in training: what is not finite, infinity too, is the mean.
            torch.where(
                torch.isfinite(x),
                (x - self.get_buffer(f"mean_{i}")) * self.get_buffer(f"slope_{i}"),
                0.0,
            )
            for i, x in enumerate(chips)
        ]
        inputs = [stack_modalities(normalized)] if self._stacked else normalized
        return torch.softmax(self.network(*inputs), dim=1)


def _slope(statistics: BandStatistics) -> Any:
    """Return 1/std of each band; 0 for a constant one, as in training."""
    std = torch.from_numpy(statistics.std)
    return torch.where(std > 0, 1 / torch.where(std > 0, std, 1), 0).numpy()


def check_format(name: str) -> None:
    """Raise :class:`SettingError` for an unknown format, or one whose packages are missing."""
    if name not in PROGRAM_FILES:
        raise SettingError(f"--format is {name!r}: choose {' or '.join(PROGRAM_FILES)}")
    if name == "onnx" and not all(map(find_spec, ("onnx", "onnxscript"))):
        raise SettingError(
            "--format onnx needs the packages onnx and onnxscript: install them with "
            "pip install 'rsdgc[onnx]'"
        )


def export_model(
    model: DeliveredModel, out: Path, *, program: str = "torch", force: bool = False
) -> Path:
    """Export a run's model into a new folder, which appears complete or not at all.

    ``program`` is its format, ``torch`` or ``onnx``. With ``force``, an earlier export in the
    folder is replaced.

    Raises
    ------
    SettingError
        PyTorch cannot export the network, or a package of the format is missing.
    DataError
        The folder holds something else.
    """
    check_format(program)
    check_free(out.absolute(), overwrite=force, kind=EXPORT)
    traced = _trace(model)
    with staged_folder(out, overwrite=force, kind=EXPORT) as folder:
        if program == "onnx":
            _write_onnx(model, traced, folder / PROGRAM_FILES[program])
        else:
            torch.export.save(traced, folder / PROGRAM_FILES[program])
        _write_weights(model, folder / WEIGHTS_FILE)
        digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
        record = json.dumps(describe(model, digest), indent=1, ensure_ascii=False)
        (folder / RECORD_FILE).write_text(record + "\n", encoding="utf-8")
        write_card(folder / CARD_FILE, model, digest, program)
    return out


def _write_weights(model: DeliveredModel, path: Path) -> None:
    """Write the run's file, with the entries of a site in place of their mean."""
    if not model.site:
        shutil.copy(model.file, path)
        return
    with safe_open(model.file, "pt") as file:
        metadata = file.metadata()
    entries = {name: torch.from_numpy(array) for name, array in model.site_entries.items()}
    write_tensors(path, load_file(model.file) | entries, metadata)


def describe(model: DeliveredModel, digest: str) -> dict[str, Any]:
    """Return what ``model.json`` says."""
    return {
        "rsdgc_version": version("rsdgc"),
        "model": model.name,
        "sha256": digest,
        **({"site": model.site} if model.site else {}),
        "chip_px": model.chip_px,
        "label": "central pixel" if model.centered else "chip",
        "modalities": [
            {
                "name": modality.name,
                "bands": list(modality.bands),
                "px": modality.px,
                "pixel_m": model.pixel_m_of(modality) or None,
                "mean": statistics.mean.tolist(),
                "std": statistics.std.tolist(),
            }
            for modality, statistics in zip(model.modalities, model.statistics, strict=True)
        ],
        "classes": [
            {"index": index, "code": code, "name": name}
            for index, (code, name) in enumerate(zip(model.class_codes, model.classes, strict=True))
        ],
    }


def _trace(model: DeliveredModel) -> torch.export.ExportedProgram:
    physical = PhysicalModel(model).eval()
    chips = tuple(torch.zeros(2, *m.shape) for m in model.modalities)
    batch = torch.export.Dim("batch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's own, about its internals
            return torch.export.export(
                physical, chips, dynamic_shapes=(tuple({0: batch} for _ in chips),)
            )
    except Exception as error:
        reason = describe_error(error)
        if "Constraints violated" in reason:
            reason = "it fixes the number of chips, as len(x) does and x.shape[0] does not"
        raise SettingError(
            f"PyTorch cannot export model {model.name} ({reason}): use {model.file} with the "
            "network's code"
        ) from None


def _write_onnx(model: DeliveredModel, traced: torch.export.ExportedProgram, path: Path) -> None:
    """Write the program in ONNX; its inputs are named like the modalities."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's own, about its internals
            program = torch.onnx.export(
                traced,
                input_names=[modality.name for modality in model.modalities],
                output_names=["probabilities"],
                dynamo=True,
                verbose=False,
            )
    except Exception as error:
        raise SettingError(
            f"PyTorch cannot write model {model.name} in ONNX ({describe_error(error)}): use "
            "--format torch"
        ) from None
    assert program is not None
    program.save(path)
