"""A scene: its modalities, its masks and its labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.ingest.label_format import LabelFormat
from data_prep.ingest.options import MaskRule
from data_prep.ingest.product_metadata import Radiometry, Scaling
from data_prep.ingest.sensors import split_band
from data_prep.rasters import RasterFile, natural_key


@dataclass(frozen=True)
class MaskFile:
    """A scene's mask and how it is read."""

    file: RasterFile
    rule: MaskRule


@dataclass(frozen=True)
class ModalityFiles:
    """A modality of a scene: its name, its files in band order, and band names if given.

    ``stems`` replace those of the files, whose names may also say where and when.
    """

    name: str
    files: tuple[RasterFile, ...]
    given: tuple[str, ...] = ()
    stems: tuple[str, ...] = ()

    @property
    def bands(self) -> list[str]:
        """Names of the bands over all files."""
        if self.given:
            return list(self.given)
        stems = self.stems or tuple(file.path.stem for file in self.files)
        names = [name for file in self.files for name in file.names]
        if names == ["band1"]:
            band = split_band(stems[0]).band
            # the number of B05 names a band, that of nlcd2011 a year
            return [band if band[:1].isalpha() else stems[0]]
        if len(self.files) == 1:
            return names
        return [
            split_band(stem).band or stem if len(file.names) == 1 else f"{stem} {name}"
            for stem, file in zip(stems, self.files, strict=True)
            for name in file.names
        ]

    @property
    def units(self) -> list[str]:
        """Unit of each band, or ""; empty where no file declares one."""
        if not any(file.units for file in self.files):
            return []
        return [unit for file in self.files for unit in (file.units or ("",) * file.bands)]

    def scaling(self, radiometry: Radiometry | None) -> Scaling:
        """Scale and offset of each band; both empty where nothing is declared.

        What the files say counts before the metadata of their product.
        """
        if any(file.scales for file in self.files):
            scales = [s for f in self.files for s in (f.scales or (1.0,) * f.bands)]
            offsets = [o for f in self.files for o in (f.offsets or (0.0,) * f.bands)]
            return scales, offsets
        return ([], []) if radiometry is None else radiometry.scaling(self.name, self.bands)


@dataclass
class Scene:
    """Modalities of one place and time, and their labels."""

    name: str  #: path under the archive; the archive's own name if it is a scene itself
    folder: str  #: first folder of that path if the scene lies deeper, else empty
    modalities: list[ModalityFiles]
    labels: LabelFormat
    masks: list[MaskFile] = field(default_factory=list)
    date: str = ""  #: ``YYYY-MM-DD``, or empty
    split: str = ""  #: split that all its samples go to, or empty
    radiometry: Radiometry | None = None  #: of a product that came with its metadata

    @property
    def reference(self) -> RasterFile:
        """The file whose grid is the scene's: of the finest modality of several bands, if any."""
        # several bands, because those are the images that the labels were drawn on; a finer
        # elevation model would have them resampled
        placed = {file.crs for each in self.modalities if (file := each.files[0]).crs is not None}

        def order(modality: ModalityFiles) -> tuple[Any, ...]:
            file = modality.files[0]
            # in one CRS equal pixels are equal, wherever the files' centers lie
            size = file.resolution_m if len(placed) < 2 else file.ground_m
            # a picture without a position does not say where the others lie
            return file.crs is None, len(modality.bands) < 2, size, natural_key(modality.name)

        return min(self.modalities, key=order).files[0]

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
        paths = [path for file in self.rasters for path in (file.path, *file.pieces)]
        paths += [] if self.radiometry is None else [self.radiometry.path]
        return [*dict.fromkeys([*paths, self.labels.path])]
