"""What can be asked of an ingestion of single images, and which images it then takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.ingest.archive import Archive
from data_prep.ingest.class_list import given_classes
from data_prep.ingest.image_discovery import Image, ImageList, expanded, find_images
from data_prep.ingest.plan import stop_if_strict
from data_prep.rasters import COMPLEX_MODES, gdal_environment
from data_prep.schema import Skipped
from data_prep.splits import check_shares
from rsdgc.errors import SettingError

if TYPE_CHECKING:
    import os


@dataclass(frozen=True)
class ImageOptions:
    """Options of :func:`ingest_class_folders`.

    Attributes
    ----------
    chip_px
        Side of the chips; default: the common side, where nothing is resampled.
    classes
        Codes and names, or the path of a JSON file of them: one list for all sites. Default: the
        classes that there are.
    unknown
        ``error`` or ``ignore``: what an image of a class outside that list is.
    test_share, val_share, seed
        Shares of each class (at each site), and the seed of the choice. Images of equal content
        go to one split. A CSV file with a column ``split`` decides itself.
    nodata
        Value that marks invalid pixels, over what the files declare.
    complex_mode
        ``amp`` or ``db``: what complex values become.
    strict
        Fail at the first file that cannot be used, instead of listing it in ``meta.json``.
    name, synthetic
        Name of the data in reports (default: the archive's), and whether it is synthetic
        (default: what ``archive.json`` says).
    """

    chip_px: int | None = None
    classes: str | Path | Mapping[int, str] | None = None
    unknown: str = "error"
    test_share: float = 0.2
    val_share: float = 0.0
    seed: int = 0
    nodata: float | None = None
    complex_mode: str | None = None
    strict: bool = False
    name: str | None = None
    synthetic: bool | None = None

    def __post_init__(self) -> None:
        check_shares(self.test_share, self.val_share)
        if self.chip_px is not None and self.chip_px < 1:
            raise SettingError(f"--chip is {self.chip_px}: choose at least 1 px")
        if self.unknown not in ("error", "ignore"):
            raise SettingError(f"--unknown is {self.unknown!r}: choose error or ignore")
        if self.complex_mode not in (None, *COMPLEX_MODES):
            raise SettingError(
                f"--complex is {self.complex_mode!r}: choose {' or '.join(COMPLEX_MODES)}"
            )

    @property
    def shares(self) -> dict[str, Any]:
        """Arguments of a split."""
        return {"test_share": self.test_share, "val_share": self.val_share, "seed": self.seed}


def plan_images(src: str | os.PathLike[str], options: ImageOptions) -> ImageList:
    """List what would be ingested, from headers alone.

    Raises
    ------
    DataError
        See :func:`ingest_class_folders`.
    """
    classes = None
    if options.classes is not None:
        nothing = Archive(Path(src), Path(src), "")
        ignore = options.unknown == "ignore"
        classes = given_classes(nothing, options.classes, ignore_unknown=ignore)
    with gdal_environment():
        found = find_images(src, classes, options.complex_mode)
    found.images = _agree([expanded(image) for image in found.images], found.skipped)
    if options.nodata is not None:
        found.images = [
            replace(image, file=image.file.with_nodata(options.nodata)) for image in found.images
        ]
    stop_if_strict(options.strict, found.skipped)
    return found


def _agree(images: list[Image], skipped: list[Skipped]) -> list[Image]:
    """Keep the images of the commonest number of bands and type."""
    kinds = Counter((image.file.bands, image.file.dtype) for image in images)
    common = kinds.most_common(1)[0][0]
    kept = []
    for image in images:
        bands, dtype = image.file.bands, image.file.dtype
        if (bands, dtype) == common:
            kept.append(image)
            continue
        reason = f"{bands} band(s) of {dtype}, the others have {common[0]} of {common[1]}"
        skipped.append(Skipped(path=image.name, reason=reason))
    return kept
