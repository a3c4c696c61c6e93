"""Products of known sensors, by the names of their files: bands, by-products and quality masks.

Known are Sentinel-1 and Sentinel-2, Landsat (Collection 2) and HLS. Their modalities are named by
the sensor, because the rest of a product's name says where and when and not what.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from data_prep.ingest.options import MaskRule

#: Landsat Collection 2, as USGS names it: sensor, level, path and row, two dates, tier, band.
LANDSAT = re.compile(
    r"^(?P<prefix>L(?P<instrument>[COTEM])(?P<satellite>0[1-9])_L[12][A-Z]{2}_\d{6}_\d{8}_\d{8}_"
    r"\d{2}_(?:T1|T2|RT|A1|A2)(?:_(?P<product>SR|ST))?)_(?P<what>\w+)$",
    re.IGNORECASE,
)
#: Harmonized Landsat and Sentinel-2.
HLS = re.compile(
    r"^(?P<prefix>HLS\.(?P<product>[LS]30)\.T\w{5}\.\d{7}T\d{6}\.v[\d.]+)\.(?P<what>\w+)$",
    re.IGNORECASE,
)
PRODUCT_BAND = re.compile(r"^B\d+(?:A|_VCID_\d)?$", re.IGNORECASE)
#: A measurement of Sentinel-1 as ESA names it, and a file that others made of a product of it.
SENTINEL_1_SAFE = re.compile(
    r"^s1[a-d]-(?P<swath>[a-z0-9]+)-(?P<kind>grd|slc)-(?P<band>vv|vh|hh|hv)-", re.IGNORECASE
)
SENTINEL_1 = re.compile(r"^(?P<prefix>S1[A-D]_.*)_(?P<band>VV|VH|HH|HV)$", re.IGNORECASE)
#: Files beside the bands of Sentinel-2 (true color, scene classes, …), named like them.
SENTINEL_2_PRODUCTS = re.compile(
    r"_(?:TCI|AOT|WVP|SCL|CLD|SNW|PVI|CLDPRB|SNWPRB)(?:_\d+m)?$", re.IGNORECASE
)
SCENE_CLASSES = re.compile(r"_SCL(?:_\d+m)?$", re.IGNORECASE)
#: Names of flags, whatever the sensor.
QUALITY = re.compile(
    r"(?:^|[_\-. ])(?:B?QA|QC|QA\d+|QA_\w+|SCL|Fmask|UDM2?|CLM|MSK_\w+|"
    r"cloud_?mask|masks?|quality|flags)(?:_\d+m)?$",
    re.IGNORECASE,
)


#: Names of small pictures of an image.
PREVIEW = re.compile(
    r"(?:^|[_\-. ])(?:preview|thumb(?:nail)?|quick[_-]?look|browse|ql)(?:[_-]\w{1,8}|\d+)?$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ProductBand:
    """A band of a known sensor: its product's name, its own, and that of its modality."""

    prefix: str
    band: str
    modality: str


def product_band(stem: str) -> ProductBand | None:
    """Read the stem of a band of Landsat, HLS or Sentinel-1; None for anything else."""
    match = LANDSAT.match(stem) or HLS.match(stem)
    if match is not None:
        if not PRODUCT_BAND.match(match["what"]):
            return None
        modality = _landsat(match) if "instrument" in match.groupdict() else f"hls_{match[2]}"
        return ProductBand(match["prefix"], match["what"].upper(), modality.lower())
    if match := SENTINEL_1_SAFE.match(stem):
        # each swath of single-look data has a geometry of its own
        modality = f"s1_{match['swath']}" if match["kind"].lower() == "slc" else "s1"
        return ProductBand("", match["band"].upper(), modality.lower())
    if match := SENTINEL_1.match(stem):
        return ProductBand(match["prefix"], match["band"].upper(), "s1")
    return None


def _landsat(match: re.Match[str]) -> str:
    # a band's number means another wavelength on each instrument: they must not be mixed
    instrument = match["instrument"].upper()
    if instrument == "M":
        kind = "mss"
    elif match["satellite"] in ("08", "09"):
        kind = "tirs" if instrument == "T" else "oli"
    else:
        kind = "tm"
    return "_".join(filter(None, ("landsat", kind, match["product"])))


def by_product_reason(stem: str) -> str:
    """Say why a file of a known product is no band; empty if it may be one."""
    if SENTINEL_2_PRODUCTS.search(stem):
        sensor = "Sentinel-2"
    elif (match := LANDSAT.match(stem)) and not PRODUCT_BAND.match(match["what"]):
        sensor = "Landsat"
    elif (match := HLS.match(stem)) and not PRODUCT_BAND.match(match["what"]):
        sensor = "HLS"
    else:
        return ""
    return f"a {sensor} by-product, not a band: name it with --modality or --mask"


def is_preview(stem: str) -> bool:
    """Tell by its name whether a file is a small picture of an image."""
    return PREVIEW.search(stem) is not None


def is_quality(stem: str) -> bool:
    """Tell by its name whether a file holds flags of quality."""
    return QUALITY.search(stem) is not None


def quality_rule(stem: str, *, clouds: bool) -> MaskRule | None:
    """Return what a known sensor's quality file marks as invalid; None if nothing.

    Landsat's ``QA_PIXEL`` marks fill in any case. With ``clouds``, it also marks clouds (dilated
    ones and cirrus too) and their shadows, as HLS's ``Fmask`` and Sentinel-2's ``SCL`` then do.
    """
    match = LANDSAT.match(stem) or HLS.match(stem)
    what = match["what"].upper() if match else ""
    if what == "QA_PIXEL":
        return MaskRule("*_QA_PIXEL", (0, 1, 2, 3, 4) if clouds else (0,), bits=True)
    if clouds and what == "FMASK":
        return MaskRule("*.Fmask", (1, 2, 3), bits=True)
    if clouds and SCENE_CLASSES.search(stem):
        # no data, defective, shadow, clouds of medium and high probability, cirrus
        return MaskRule("*_SCL*", (0, 1, 3, 8, 9, 10))
    return None
