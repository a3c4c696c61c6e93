"""What file names say: band, modality, date.

Names of known products are those of :mod:`data_prep.ingest.products`.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from dataclasses import dataclass

from data_prep.ingest.products import product_band

#: A stem that ends in a band's number, with ``b`` or ``band`` before it or not; Sentinel-2's bands
#: have a resolution after it.
BAND_NAME = re.compile(
    r"^(?P<prefix>.*?)[_\-. ]*(?P<band>(?:band|b)?[_\-. ]?\d+a?)(?:_(?P<res>\d+)m)?$",
    re.IGNORECASE,
)
#: Parts of a product's name that say where and when, but not what: tile, time, path and row.
PLACE_AND_TIME = re.compile(r"^(?:T\d{2}[A-Z]{3}|\d{8}(?:T\d{6})?|\d{6})$", re.IGNORECASE)
SENTINEL_TILE = re.compile(r"(?:^|_)T\d{2}[A-Z]{3}(?:_|$)", re.IGNORECASE)
SENTINEL_2 = re.compile(r"^S2[A-D]_MSIL(?:1C|2A)_", re.IGNORECASE)
#: A date behind the band, as in ``B01_20190606``, and a band that is more than a number.
LAST_DATE = re.compile(r"[_\-. ]+(?:19|20)\d{2}-?[01]\d-?[0-3]\d(?:T\d{6}Z?)?$", re.IGNORECASE)
NAMED_BAND = re.compile(
    r"^(?P<prefix>.*?)[_\-. ]*(?P<band>(?:band|b)[_\-. ]?\d+a?)$", re.IGNORECASE
)
#: Year and day of the year, as HLS has them.
DAY_OF_YEAR = re.compile(r"(?<!\d)((?:19|20)\d{2})([0-3]\d{2})T\d{6}(?!\d)")
#: Digits beside a date make it a part of another number.
DATE = re.compile(r"(?<!\d)((?:19|20)\d{2})-?(0[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])(?!\d)")


@dataclass(frozen=True)
class BandName:
    """Parts of a file's stem: what stands before the band, the band, and a resolution in m or 0.

    ``modality`` is that of a known sensor, or empty.
    """

    prefix: str
    band: str
    resolution_m: int = 0
    modality: str = ""


def split_band(stem: str) -> BandName:
    """Divide a stem like ``landsat_b2`` or ``T33UUP_20220702_B02_10m``; no band if it has none."""
    if known := product_band(stem):
        return BandName(known.prefix, known.band, modality=known.modality)
    date = LAST_DATE.search(stem)
    if date and (match := NAMED_BAND.match(stem[: date.start()])):
        return BandName("_".join(filter(None, (match["prefix"], date[0][1:]))), match["band"])
    match = BAND_NAME.match(stem)
    if match is None:
        return BandName(stem, "")
    modality = "s2" if SENTINEL_2.match(stem) and match["band"][0] in "Bb" else ""
    return BandName(match["prefix"], match["band"], int(match["res"] or 0), modality)


def name_parts(name: str) -> list[str]:
    """Divide a name at ``_``, ``-``, dots and spaces; a date is one part."""
    one_part = DATE.sub(lambda date: "".join(date.groups()), name)
    return [part for part in re.split(r"[_\-. ]+", one_part) if part]


def modality_name(prefix: str) -> str:
    """Name the modality of bands that share a prefix, alike in all scenes of a sensor.

    Tile, date and time are left out. Where nothing else is left, the name is ``s2`` for a tile of
    Sentinel-2, and ``bands`` otherwise.
    """
    tokens = name_parts(prefix)
    kept = [token for token in tokens if not PLACE_AND_TIME.match(token)]
    if not kept:
        return "s2" if SENTINEL_TILE.search(prefix) else "bands"
    return re.sub(r"[^\w-]+", "_", "_".join(kept) if len(kept) < len(tokens) else prefix)


def date_of(names: Iterable[str]) -> str:
    """Return the first date (YYYY-MM-DD) in some names, or an empty text."""
    for name in names:
        if match := DATE.search(name):
            return "-".join(match.groups())
        match = DAY_OF_YEAR.search(name)
        if match and 1 <= int(match[2]) <= 366:
            day = dt.date(int(match[1]), 1, 1) + dt.timedelta(days=int(match[2]) - 1)
            return day.isoformat()
    return ""
