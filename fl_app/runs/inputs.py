"""``inputs.json`` of a run folder: what must be known of imagery to use the run's model on it.

``config.json`` says which bands the model takes, and in which order. This file adds what only the
data tell: how pixels were normalized, their size on the ground, the codes of the classes, and
whether a chip is a patch around one pixel. The server writes it at the start of a run whose data
are on its machine, as in a simulation. In a deployment only the sites have data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Self

import numpy as np
from pydantic import TypeAdapter, ValidationError
from rasterio.crs import CRS

from data_prep.common_statistics import normalization_of
from data_prep.crs import pixels_on_ground
from data_prep.schema import SceneMeta
from data_prep.store import Store
from fl_app.runs.records import damaged
from rsdgc.documents import DocumentError, explain_invalid, read_json
from rsdgc.durable import replace_text
from rsdgc.errors import RunFolderError

INPUTS_FILE = "inputs.json"


@dataclass(frozen=True)
class InputModality:
    """A modality of the data that a run was trained on."""

    name: str
    bands: list[str]
    mean: list[float]
    """Of each band, in physical units, over the train split of the data."""
    std: list[float]

    def __post_init__(self) -> None:
        if not len(self.bands) == len(self.mean) == len(self.std):
            raise ValueError(
                f"modality {self.name} has {len(self.bands)} bands, {len(self.mean)} means and "
                f"{len(self.std)} standard deviations"
            )
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)):
            raise ValueError(f"modality {self.name} has a value that is not finite")
        if min(self.std, default=0.0) < 0:
            raise ValueError(f"modality {self.name} has a standard deviation below 0")


@dataclass(frozen=True)
class RunInputs:
    """What the data of a run tell about its model's input and output."""

    patch_px: int = 0
    """Side of the patch around a labeled pixel; 0 where chips have one label for all pixels."""
    class_codes: list[int] = field(default_factory=list)
    """Codes of the classes in label rasters, in the order of the model's outputs."""
    modalities: list[InputModality] = field(default_factory=list)
    pixel_m: float = 0.0
    """Side of a pixel of the scenes' grids on the ground, meters; 0 where it is not known."""

    def __post_init__(self) -> None:
        if not 0 <= self.pixel_m < math.inf:
            raise ValueError(f"pixel_m is {self.pixel_m}, which is no size")
        if self.patch_px < 0 or (self.patch_px and self.patch_px % 2 == 0):
            raise ValueError(f"patch_px is {self.patch_px}, neither 0 nor an odd size")

    @classmethod
    def of(cls, store: Store) -> Self:
        """Return what a store tells, normalized by its own statistics."""
        modalities = []
        for meta in store.meta.modalities:
            mean, std = normalization_of(meta)
            modalities.append(
                InputModality(meta.name, list(meta.bands), mean.tolist(), std.tolist())
            )
        pixel_m = _pixel_m(store.meta.scenes)
        return cls(store.meta.patch_px, list(store.meta.class_codes), modalities, pixel_m)

    def write(self, folder: Path) -> None:
        """Write ``inputs.json`` into a run folder."""
        text = TypeAdapter(dict).dump_json(asdict(self), indent=1).decode()
        replace_text(folder / INPUTS_FILE, text + "\n")

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read ``inputs.json``; None where a run has none. Raises :class:`RunFolderError`."""
        path = folder / INPUTS_FILE
        if not path.exists():
            return None
        try:
            return TypeAdapter(cls).validate_python(read_json(path))
        except OSError as error:
            raise RunFolderError(f"{path} cannot be read ({error.strerror})") from None
        except DocumentError as error:
            raise damaged(path, error) from None
        except ValidationError as error:
            raise damaged(path, explain_invalid(error)) from None


def _pixel_m(scenes: Sequence[SceneMeta]) -> float:
    """Return the median side, in meters on the ground, of the scenes' pixels; 0 without a place."""
    by_crs: dict[str, list[SceneMeta]] = {}
    for scene in scenes:
        if scene.crs:
            by_crs.setdefault(scene.crs, []).append(scene)
    sizes: list[float] = []
    for text, group in by_crs.items():  # at once, because an archive may have thousands
        transforms = np.array([scene.transform for scene in group]).T
        heights, widths = np.array([(scene.height, scene.width) for scene in group]).T
        sizes += pixels_on_ground(CRS.from_user_input(text), transforms, heights, widths).tolist()
    return median(sizes) if sizes else 0.0
