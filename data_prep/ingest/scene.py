"""A scene: its modalities, its masks and its labels, and the manifest's columns on position."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_prep.ingest.label_format import LabelFormat
from data_prep.ingest.options import MaskRule
from data_prep.ingest.sensors import Baseline, split_band
from data_prep.manifest import Columns, text_column
from data_prep.rasters import RasterFile, natural_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data_prep.ingest.grid import Grid
    from data_prep.schema import Skipped


@dataclass(frozen=True)
class MaskFile:
    """A scene's mask and how it is read."""

    file: RasterFile
    rule: MaskRule


@dataclass(frozen=True)
class ModalityFiles:
    """A modality of a scene: its name, its files in band order, and band names if given."""

    name: str
    files: tuple[RasterFile, ...]
    given: tuple[str, ...] = ()

    @property
    def bands(self) -> list[str]:
        """Names of the bands over all files."""
        if self.given:
            return list(self.given)
        names = [name for file in self.files for name in file.names]
        if names == ["band1"]:
            stem = self.files[0].path.stem
            band = split_band(stem).band
            # the number of B05 names a band, that of nlcd2011 a year
            return [band if band[:1].isalpha() else stem]
        if len(self.files) == 1:
            return names
        return [
            band_label(file.path.stem) if len(file.names) == 1 else f"{file.path.stem} {name}"
            for file in self.files
            for name in file.names
        ]

    def scaling(self, baseline: Baseline | None) -> tuple[list[float], list[float]]:
        """Scale and offset of each band; both empty where nothing is declared."""
        tagged = any(file.scales for file in self.files)
        if baseline is not None and not tagged and self.name.startswith("s2"):
            scales, offsets = baseline.scaling(self.bands)
            return list(scales), list(offsets)
        if not tagged:
            return [], []
        scales_ = [s for f in self.files for s in (f.scales or (1.0,) * f.bands)]
        offsets_ = [o for f in self.files for o in (f.offsets or (0.0,) * f.bands)]
        return scales_, offsets_


@dataclass
class Scene:
    """Modalities of one place and time, and their labels.

    Attributes
    ----------
    name
        Path under the archive; the archive's own name if it is a scene itself.
    folder
        First folder of that path if the scene lies deeper, else empty.
    modalities, labels, masks
        Its files.
    date
        ``YYYY-MM-DD``, or empty.
    split
        Split that all its samples go to, or empty.
    baseline
        Of a Sentinel-2 product that came with its metadata.
    """

    name: str
    folder: str
    modalities: list[ModalityFiles]
    labels: LabelFormat
    masks: list[MaskFile] = field(default_factory=list)
    date: str = ""
    split: str = ""
    baseline: Baseline | None = None
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def reference(self) -> RasterFile:
        """The file whose grid is the scene's.

        It is of the finest modality of several bands (without one, of the finest), because those
        are the images that the labels were drawn on; a finer elevation model would have them
        resampled. Of equally fine modalities the first by name is taken.
        """
        modalities = sorted(
            self.modalities,
            key=lambda modality: (
                len(modality.bands) < 2,
                modality.files[0].resolution_m,
                natural_key(modality.name),
            ),
        )
        return modalities[0].files[0]

    @property
    def images(self) -> list[RasterFile]:
        """Files of all modalities."""
        return [file for modality in self.modalities for file in modality.files]

    @property
    def rasters(self) -> list[RasterFile]:
        """Every raster: those of modalities, masks, and labels if they are in one."""
        return [*self.images, *(mask.file for mask in self.masks), *self.labels.rasters]

    @property
    def paths(self) -> list[Path]:
        """Every file that is read."""
        return [*dict.fromkeys([*(file.path for file in self.rasters), self.labels.path])]


def band_label(stem: str) -> str:
    """Band that a file's stem names, or the stem."""
    return split_band(stem).band or stem


def place_columns(
    scene: Scene, grid: Grid, rows: NDArray[np.int64], cols: NDArray[np.int64], side: int
) -> Columns:
    """Where windows of `side` pixels lie; ``x`` and ``y`` are their centers, NaN without a CRS."""
    boxes = grid.boxes(rows, cols, side)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    if grid.crs is None:
        centers = np.full_like(centers, np.nan)
    count = len(rows)
    return {
        "scene": text_column(scene.name, count),
        "folder": text_column(scene.folder, count),
        "date": text_column(scene.date, count),
        "row": rows,
        "col": cols,
        "x": centers[:, 0],
        "y": centers[:, 1],
        "crs": text_column(grid.crs_text, count),
    }
