"""What a product's metadata say of its values: ``value * scale + offset`` is physical.

Sentinel-2 has ``MTD_MSIL2A.xml`` (or 1C), Landsat's Collection 2 ``…_MTL`` with the suffix
``.txt``, ``.json`` or ``.xml``.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from data_prep.ingest.archive import Archive
from rsdgc.documents import DocumentError, parse_json
from rsdgc.errors import DataError

#: Scales and offsets of bands, in the form of GeoTIFF tags; both empty where nothing is said.
Scaling = tuple[list[float], list[float]]
PRODUCT_METADATA = re.compile(r"(?:^|/)MTD_MSIL(?:1C|2A)\.xml$", re.IGNORECASE)
#: Bands by their number in product metadata.
SENTINEL_BANDS = (
    *(f"B{number:02d}" for number in range(1, 9)),
    "B8A",
    *(f"B{number:02d}" for number in range(9, 13)),
)
LANDSAT_METADATA = re.compile(r"(?P<product>[^/]+)_MTL\.(?:txt|json|xml)$", re.IGNORECASE)
#: Groups of Landsat's metadata by what their factors make of counts, and the names of the factors.
LANDSAT_FACTORS = (
    ("sr", "LEVEL2_SURFACE_REFLECTANCE_PARAMETERS", "REFLECTANCE", "BAND_"),
    ("st", "LEVEL2_SURFACE_TEMPERATURE_PARAMETERS", "TEMPERATURE", "BAND_ST_B"),
    # the last counts: a thermal band of level 1 has no reflectance
    ("", "LEVEL1_RADIOMETRIC_RESCALING", "RADIANCE", "BAND_"),
    ("", "LEVEL1_RADIOMETRIC_RESCALING", "REFLECTANCE", "BAND_"),
)


class Radiometry(Protocol):
    """What metadata say of the values of a product."""

    @property
    def path(self) -> Path:
        """The file of the metadata."""

    @property
    def source(self) -> str:
        """What tells its values from others, for messages."""

    def scaling(self, modality: str, bands: Sequence[str]) -> Scaling:
        """Return scales and offsets of a modality's bands."""


def find_radiometry(archive: Archive, folder: str, stems: Sequence[str]) -> Radiometry | None:
    """Read the metadata of a scene's product: in its folder, or in one above it.

    ``stems`` are those of the scene's images, which begin with the name of a Landsat product.
    """
    scene = PurePosixPath(folder)
    for place in [scene, *scene.parents]:
        key = "" if place.as_posix() == "." else place.as_posix()
        for name in archive.files.get(key, ()):
            if PRODUCT_METADATA.search(name):
                return read_baseline(archive.text(name) or "", archive.path(name))
            match = LANDSAT_METADATA.search(name)
            if match and any(stem.upper().startswith(match["product"].upper()) for stem in stems):
                factors = read_landsat_factors(archive.text(name) or "")
                if factors:
                    return LandsatFactors(archive.path(name), factors)
    return None


@dataclass(frozen=True)
class Baseline:
    """Radiometry of a Sentinel-2 product: ``(value + offset of the band) / quantification``.

    Offsets are 0 before baseline 04.00.
    """

    path: Path
    number: str  #: processing baseline, such as ``04.00``
    quantification: float  #: counts for a reflectance of 1
    offsets: dict[str, float]  #: band (``B02``) to its offset in counts

    @property
    def source(self) -> str:
        """The processing baseline."""
        return f"processing baseline {self.number}"

    def scaling(self, modality: str, bands: Sequence[str]) -> Scaling:
        """Return scales and offsets; other modalities beside a product's have no counts."""
        if not modality.startswith("s2"):
            return [], []
        scale = 1 / self.quantification
        offsets = [self.offsets.get(_canonical(band), 0.0) * scale for band in bands]
        return [scale] * len(bands), offsets


def read_baseline(text: str, path: Path) -> Baseline:
    """Read the text of ``MTD_MSIL2A.xml`` or ``MTD_MSIL1C.xml``."""
    try:
        root = ET.fromstring(text)  # noqa: S314 - the site's own file; expat caps expansion
        values = {node.tag.rpartition("}")[2]: node for node in root.iter()}
        quantification = next(
            float(values[tag].text or "")
            for tag in ("BOA_QUANTIFICATION_VALUE", "QUANTIFICATION_VALUE")
            if tag in values
        )
        offsets = {
            SENTINEL_BANDS[int(node.get("band_id", "0"))]: float(node.text or "0")
            for node in root.iter()
            if node.tag.rpartition("}")[2] in ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET")
        }
    except (ET.ParseError, StopIteration, ValueError, IndexError) as error:
        raise DataError(
            f"{path} is not Sentinel-2 product metadata: correct or remove it"
        ) from error
    number = values.get("PROCESSING_BASELINE")
    text_of = (number.text if number is not None else "") or ""
    return Baseline(path, text_of, quantification, offsets)


def _canonical(band: str) -> str:
    """Write a band's name, such as ``band2`` or ``8a``, as Sentinel-2's metadata does."""
    match = re.search(r"(\d+)(a?)$", band, re.IGNORECASE)
    if match is None:
        return band
    number, letter = int(match[1]), match[2].upper()
    return f"B{number}{letter}" if letter else f"B{number:02d}"


@dataclass(frozen=True)
class LandsatFactors:
    """Factors of a Landsat product: of surface reflectance, temperature in kelvin, or of level 1.

    Of level 1 they give the reflectance at the top of the atmosphere, without a correction for the
    height of the sun, and of thermal bands the radiance.
    """

    path: Path
    factors: dict[tuple[str, str], tuple[float, float]]  #: by kind and band

    @property
    def source(self) -> str:
        """The product."""
        return self.path.stem.removesuffix("_MTL")

    def scaling(self, modality: str, bands: Sequence[str]) -> Scaling:
        """Return scales and offsets; both empty for a modality of another sensor."""
        sensor, _, rest = modality.partition("_")
        kind = next((word for word in rest.split("_") if word in ("sr", "st")), "")
        of_bands = [self.factors.get((kind, band.upper())) for band in bands]
        if sensor != "landsat" or not any(of_bands):
            return [], []
        pairs = [factors or (1.0, 0.0) for factors in of_bands]
        return [scale for scale, _ in pairs], [offset for _, offset in pairs]


def read_landsat_factors(text: str) -> dict[tuple[str, str], tuple[float, float]]:
    """Read the factors of a Landsat product's metadata, in any of its three forms.

    Files of other contents have none.
    """
    groups: dict[str, dict[str, str]] = {}
    for group, key, value in _landsat_entries(text):
        groups.setdefault(group.upper(), {})[key.upper()] = value
    factors = {}
    for kind, group, quantity, prefix in LANDSAT_FACTORS:
        for key, value in groups.get(group, {}).items():
            name = key.removeprefix(f"{quantity}_MULT_{prefix}")
            offset = groups[group].get(f"{quantity}_ADD_{prefix}{name}")
            if name == key or offset is None:
                continue
            try:
                factors[kind, f"B{name}"] = float(value), float(offset)
            except ValueError:
                continue  # "NULL", where a band was not recorded
    return factors


def _landsat_entries(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield group, key and value of each entry."""
    start = text.lstrip()[:1]
    if start == "{":
        try:
            yield from _nested(parse_json(text), "")
        except DocumentError:
            return
    elif start == "<":
        try:
            root = ET.fromstring(text)  # noqa: S314 - the site's own file; expat caps expansion
        except ET.ParseError:
            return
        for group in root.iter():
            yield from ((group.tag, node.tag, node.text or "") for node in group)
    else:
        group_name = ""
        for line in text.splitlines():
            key, _, value = (part.strip() for part in line.partition("="))
            if key == "GROUP":
                group_name = value
            elif value:
                yield group_name, key, value.strip('"')


def _nested(values: Any, group: str) -> Iterator[tuple[str, str, str]]:
    if not isinstance(values, dict):
        return
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _nested(value, str(key))
        else:
            yield group, str(key), str(value)
