"""Values of labels as people write them: codes, texts and colors, and which class each one is.

A *remapping* gives values of the labels a class. On the command line it is ``CLASS=VALUES``, or a
CSV file with the columns ``value`` and ``class``::

    --remap water=11,12 --remap urban=21-24      codes, and ranges of them
    --remap forest=Laubwald,Nadelwald            texts of a polygons' class column
    --remap 'water=#0000ff'                      colors of labels that are painted
    --remap legend.csv                           an empty class is no label
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from data_prep.ingest.csv_rows import read_rows
from rsdgc.errors import SettingError

#: A value of labels: a code, or a text. A color is the text ``#rrggbb``.
LabelValue = str | int
#: Red, green and blue, from 0 to 255.
Color = tuple[int, int, int]
#: Most codes that a range may have: a slip such as 1-10000000 is not meant.
MAX_RANGE = 2**16
_NUMBER = re.compile(r"[+-]?\d{1,18}(?:\.0*)?")
_RANGE = re.compile(r"(-?\d{1,18})-(-?\d{1,18})")
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


def normal_name(text: str) -> str:
    """Return a name without outer spaces, in Unicode's composed form (NFC).

    macOS writes the accents of file names as characters of their own (NFD), so that a folder
    ``Forêt`` would be another class than the ``Forêt`` of a class list.
    """
    return unicodedata.normalize("NFC", text).strip()


def whole_number(text: str) -> int | None:
    """Return the whole number that a text writes, such as ``7``, ``-1`` or ``7.0``; else None."""
    text = text.strip()
    return int(text.partition(".")[0]) if _NUMBER.fullmatch(text) else None


def label_value(value: LabelValue) -> LabelValue:
    """Return a value in the form in which values are compared: ``"7"`` is 7."""
    if isinstance(value, int):
        return int(value)
    number = whole_number(value)
    if number is not None:
        return number
    return value.strip().lower() if _COLOR.fullmatch(value.strip()) else normal_name(value)


def parse_color(text: str) -> Color:
    """Return the color that ``#rrggbb`` or ``r,g,b`` (also with spaces) writes.

    Raises ``ValueError`` for other texts.
    """
    text = text.strip()
    if _COLOR.fullmatch(text):
        return int(text[1:3], 16), int(text[3:5], 16), int(text[5:], 16)
    parts = re.split(r"[,;\s]+", text)
    if len(parts) == 3 and all(part.isdecimal() and int(part) < 256 for part in parts):
        return int(parts[0]), int(parts[1]), int(parts[2])
    raise ValueError(f"color {text!r} is not #rrggbb, as #0000ff, nor red, green, blue")


def hex_color(color: Color) -> str:
    """Return a color as ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def parse_remap(texts: Sequence[str]) -> dict[LabelValue, str]:
    """Read the texts of ``--remap``; return the class of each value, empty for no label.

    Raises
    ------
    SettingError
        A text is neither ``CLASS=VALUES`` nor a file, or a value has two classes.
    DataError
        A file is not such a table.
    """
    classes: dict[LabelValue, str] = {}
    for text in texts:
        for value, name in _entries(text):
            if classes.setdefault(value, name) != name:
                raise SettingError(
                    f"--remap gives {value} to {classes[value]} and to {name}: choose one of the "
                    "two"
                )
    return classes


def _entries(text: str) -> list[tuple[LabelValue, str]]:
    name, equals, listed = text.partition("=")
    if not equals or Path(text).is_file():
        return _table(Path(text))
    values = [value for part in listed.split(",") for value in _values(part)]
    if not normal_name(name) or not values:
        raise SettingError(
            f"--remap {text!r} is not CLASS=VALUES: write water=11,12 or urban=21-24, or name a "
            "CSV file"
        )
    return [(value, normal_name(name)) for value in values]


def _values(part: str) -> list[LabelValue]:
    match = _RANGE.fullmatch(part.strip())
    if match is None:
        return [label_value(part)] if part.strip() else []
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < MAX_RANGE:
        raise SettingError(
            f"--remap has the range {part.strip()}: write the smaller code first, and at most "
            f"{MAX_RANGE} codes"
        )
    return list(range(first, last + 1))


def _table(path: Path) -> list[tuple[LabelValue, str]]:
    if not path.is_file():
        raise SettingError(
            f"--remap {str(path)!r} is neither a file nor CLASS=VALUES: write water=11,12, or name "
            "a CSV file with the columns value and class"
        )
    rows = read_rows(path, ("value", "class"), filled=("value",), remedy="correct --remap")
    return [(label_value(row["value"]), normal_name(row["class"])) for _, row in rows]
