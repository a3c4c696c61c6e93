"""The class list of labels: codes, names, and which pixels count as unlabeled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.ingest.archive import Archive
from data_prep.ingest.label_values import (
    Color,
    LabelValue,
    hex_color,
    label_value,
    normal_name,
    parse_color,
    whole_number,
)
from data_prep.rasters import category_names
from rsdgc.documents import DocumentError, parse_json, parse_table, read_marked_text, shorten
from rsdgc.errors import DataError, SettingError

CLASSES_FILE = "classes.json"
#: A class list as options give it.
ClassesOption = str | Path | Mapping[int, Any] | None
#: Code of a pixel that is in no class: the least int32, which no label file uses.
NO_CODE = -(2**31)
#: Range of codes up to which each is compared with the whole array: that many comparisons, of
#: which the processor does many at a time, take less than marking what occurs.
FEW_CODES = 24
#: Category names of pixels without a label.
NO_LABEL_NAMES = frozenset(("", "na", "n/a", "nodata", "no data", "unlabelled", "unlabeled"))


class UnknownLabelError(DataError):
    """A label is not in the class list: no scene is skipped over it."""


@dataclass(frozen=True)
class ClassList:
    """What label codes mean.

    A list that was given is closed: any other code is an error. Of an open list only the names
    count, and the classes are the codes that occur.
    """

    names: Mapping[int, str]  #: by rising code
    closed: bool
    zero_is_unlabeled: bool
    ignore_unknown: bool = False  #: codes that a closed list does not have count as no label
    #: Colors of the classes in labels that are painted, by code.
    colors: Mapping[int, Color] = field(default_factory=dict)
    #: Codes of the values of the labels, :data:`NO_CODE` for no label; None where values are codes.
    remap: Mapping[LabelValue, int] | None = None

    def labeled(
        self, codes: NDArray[np.integer[Any]], valid: NDArray[np.bool_], where: object
    ) -> NDArray[np.bool_]:
        """Mark the pixels that have a label; UnknownLabelError for a code not in a closed list."""
        valid = valid & (codes != 0) if self.zero_is_unlabeled else valid
        if not self.closed:
            return valid
        occurring = distinct(codes[valid])
        unknown = occurring[~np.isin(occurring, list(self.names))]
        if len(unknown) and not self.ignore_unknown:
            raise UnknownLabelError(
                f"{where} has label {unknown[0]}, which is not in the class list "
                f"({', '.join(map(str, self.names))}): add it to --classes, mark it with "
                "--label-nodata, or use --unknown ignore"
            )
        return valid & ~np.isin(codes, unknown) if len(unknown) else valid

    def find_code(self, value: LabelValue) -> int | None:
        """Return the code of a value of the labels: a code, a text, or a color ``#rrggbb``.

        :data:`NO_CODE` where the value is no label, None where it is unknown.
        """
        key = label_value(value)
        code = self._listed_code(value) if self.remap is None else self.remap.get(key)
        if code is None and key == 0 and self.closed and self.zero_is_unlabeled:
            return NO_CODE
        return code

    def code_of(self, value: LabelValue, where: object) -> int:
        """Return the code of a polygon's class: a name of the list, or a code.

        A class that the list does not have is :data:`NO_CODE` or an UnknownLabelError.
        """
        code = self.find_code(value)
        if code is not None:
            return code
        if self.ignore_unknown:
            return NO_CODE
        if self.remap is not None:
            raise UnknownLabelError(
                f"{where} has the class {value!r}, which no --remap names: add it there, or use "
                "--unknown ignore"
            )
        raise UnknownLabelError(
            f"{where} has the class {value!r}, which is not in the class list "
            f"({', '.join(self.names.values())}): add it to --classes, or use --unknown ignore"
        )

    def _listed_code(self, value: LabelValue) -> int | None:
        key = label_value(value)
        text = str(value) if isinstance(value, int) else normal_name(value)
        named = next((code for code, name in self.names.items() if name == text), None)
        if named is not None and not (isinstance(value, int) and key in self.names):
            return named
        if isinstance(key, int):
            # of text, only where it cannot be a name of a list that has others
            known = key in self.names or (not self.closed and (value == key or not self.names))
            return key if known else None
        return next((c for c, color in self.colors.items() if hex_color(color) == key), None)

    def settle(self, occurring: NDArray[np.int64]) -> tuple[list[int], list[str]]:
        """Return the final classes, once all labels are known: codes and names, by rising code."""
        codes = list(self.names) if self.closed else sorted(int(code) for code in set(occurring))
        return codes, [self.names.get(code, f"class {code}") for code in codes]


def whole_codes(
    values: NDArray[Any], valid: NDArray[np.bool_] | None, where: object
) -> NDArray[np.integer[Any]]:
    """Return labels as integers of at most 64 bits, exactly; some programs write them as floats.

    ``valid``, of the same shape, marks the labels that count; None for all. DataError for fractions
    and for numbers of more than 64 bits.
    """
    if values.dtype.kind != "f":
        counted = values if valid is None or values.dtype != np.uint64 else values[valid]
        if values.dtype == np.uint64 and counted.size and counted.max() >= 2**63:
            raise DataError(
                f"{where} has the label {counted.max()}, which does not fit 63 bits: mark it with "
                f"--label-nodata {counted.max()}"
            )
        return values.astype(np.int64) if values.dtype == np.uint64 else values
    numbers = values if valid is None else np.where(valid, values, 0)
    small = np.abs(numbers) < 2.0**63
    codes = np.where(small, numbers, 0).astype(np.int64)
    wrong = codes != numbers
    if wrong.any():
        raise DataError(
            f"{where} has the label {numbers[wrong][0]:.10g}: labels are whole numbers of at most "
            "64 bits; choose another file with --labels, or mark the value with --label-nodata"
        )
    return codes


def distinct(codes: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return the distinct codes in rising order.

    Faster than ``numpy.unique``, which sorts all pixels: label codes lie close together, so that
    marking those that occur takes one pass. Codes far apart are left to NumPy, because the marks
    would need memory for the whole range.
    """
    if not codes.size:
        return np.zeros(0, np.int64)
    low, high = int(codes.min()), int(codes.max())
    if high - low < FEW_CODES:
        near = range(low, high + 1)
        return np.array([code for code in near if (codes == code).any()], np.int64)
    if high - low >= 2**16:
        return np.unique(codes).astype(np.int64)
    occurs = np.zeros(high - low + 1, np.bool_)
    occurs[codes if low == 0 else codes.astype(np.int64) - low] = True
    return np.flatnonzero(occurs) + low


def given_classes(
    archive: Archive,
    classes: ClassesOption,
    *,
    ignore_unknown: bool = False,
    remap: Mapping[LabelValue, str] | None = None,
) -> ClassList | None:
    """Return the closed list that was given, else that of ``classes.json``; None without either.

    Parameters
    ----------
    archive
        Whose ``classes.json`` counts where no list is given.
    classes
        A mapping of code to name (or to a mapping of ``name`` and ``color``), or the path of a
        JSON or CSV file that holds one.
    ignore_unknown
        Whether what the list does not have counts as no label.
    remap
        Classes of the values of the labels, by name or code. Where no list is given, they are the
        list: numbered from 1 in their order, or by their own numbers where all are numbers.
    """
    text = archive.text(CLASSES_FILE)
    if isinstance(classes, Mapping):
        entries = dict(classes)
    elif classes is not None:
        try:
            entries = _parse(read_marked_text(Path(classes)), classes)
        except DocumentError as error:
            raise DataError(
                f"{Path(classes)} cannot be used: {error}: correct --classes"
            ) from error
        except OSError as error:
            raise DataError(
                f"{Path(classes)} cannot be read ({error.strerror}): correct --classes"
            ) from error
    elif text is not None:
        entries = _parse(text, archive.path(CLASSES_FILE))
    elif remap:
        entries = _classes_of(remap)
    else:
        return None
    names, colors = _names_and_colors(entries)
    # code 0 that is in no list is what most archives fill unlabeled pixels with
    return ClassList(names, True, 0 not in names, ignore_unknown, colors, _codes_of(remap, names))


def _names_and_colors(entries: Mapping[int, Any]) -> tuple[dict[int, str], dict[int, Color]]:
    names: dict[int, str] = {}
    colors: dict[int, Color] = {}
    for code, entry in sorted((int(code), entry) for code, entry in entries.items()):
        fields = entry if isinstance(entry, Mapping) else {"name": entry}
        names[code] = normal_name(str(fields.get("name", f"class {code}")))
        if fields.get("color"):
            color = fields["color"]
            text = color if isinstance(color, str) else ",".join(map(str, color))
            try:
                colors[code] = parse_color(text)
            except ValueError as error:
                raise DataError(f"the class list (--classes): class {code}: {error}") from error
    if not names:
        raise DataError("the class list (--classes) is empty: name at least one class")
    if len(set(names.values())) < len(names):
        raise DataError("the class list (--classes) repeats a name: give each code its own")
    if len(set(colors.values())) < len(colors):
        raise DataError("the class list (--classes) repeats a color: give each class its own")
    return names, colors


def _classes_of(remap: Mapping[LabelValue, str]) -> dict[int, str]:
    """Return the class list that a remapping implies."""
    names = [name for name in dict.fromkeys(remap.values()) if name]
    numbers = [whole_number(name) for name in names]
    if all(number is not None for number in numbers):
        return {number: f"class {number}" for number in numbers if number is not None}
    return dict(enumerate(names, start=1))


def _codes_of(
    remap: Mapping[LabelValue, str] | None, names: Mapping[int, str]
) -> dict[LabelValue, int] | None:
    if not remap:
        return None
    by_name = {name: code for code, name in names.items()}
    codes: dict[LabelValue, int] = {}
    for value, name in remap.items():
        code = NO_CODE if not name else by_name.get(name, whole_number(name))
        if code is None or (name and code not in names):
            raise SettingError(
                f"--remap gives {value} to {name!r}, which is not in the class list "
                f"({', '.join(names.values())}): choose one of them, or add it to --classes"
            )
        codes[value] = code
    return codes


def raster_classes(label_path: Path, *, pixels: bool = False) -> ClassList:
    """Return the class list that a label raster implies: its category names.

    In pixel mode code 0 means unlabeled even if no name says so.
    """
    names = {code: normal_name(name) for code, name in category_names(label_path).items()}
    zero = names.get(0)
    # code 0 of single labeled images, such as Indian Pines, marks what was not surveyed
    no_label = pixels if zero is None else zero.lower() in NO_LABEL_NAMES
    return ClassList(names, closed=False, zero_is_unlabeled=no_label)


def named_classes(values: Iterable[LabelValue]) -> ClassList:
    """Return the list that class values imply: numbers are codes, names count from 1 by name.

    Texts that are all different numbers are codes, too: a Shapefile or a CSV has them as texts.
    """
    distinct_values = {normal_name(v) if isinstance(v, str) else v for v in values}
    numbers = {label_value(value) for value in distinct_values}
    codes = len(numbers) == len(distinct_values) and all(isinstance(n, int) for n in numbers)
    names = [] if codes else sorted(map(str, distinct_values))
    return ClassList(dict(enumerate(names, start=1)), closed=False, zero_is_unlabeled=False)


def _parse(text: str, where: object) -> dict[int, Any]:
    """Read a class list, JSON or CSV: codes, with a name or with the fields name and color."""
    try:
        if not text.lstrip().startswith(("{", "[")) and str(where).lower().endswith(".csv"):
            entries = _parse_csv(text)
        else:
            entries = {int(code): entry for code, entry in parse_json(text).items()}
        for entry in entries.values():
            if isinstance(entry, dict) and not ({"name"} <= set(entry) <= {"name", "color"}):
                raise ValueError(f"{shorten(entry)} has other fields than name and color")
        if any(abs(code) >= 2**63 for code in entries):
            raise ValueError(f"code {max(entries, key=abs)} has more than 64 bits")
    except (ValueError, AttributeError) as error:
        raise DataError(
            f'{where} is not {{"code": "name", …}}, nor a CSV file with the columns code, name: '
            f"{error}"
        ) from error
    return entries


def _parse_csv(text: str) -> dict[int, Any]:
    _, rows = parse_table(text, ("code", "name"))
    entries: dict[int, Any] = {}
    for row in rows:
        code = whole_number(row["code"])
        if code is None or code in entries:
            what = "is not a whole number" if code is None else "stands twice"
            raise ValueError(f"code {shorten(row['code'])} {what}")
        entries[code] = {"name": row["name"], "color": row.get("color", "")}
    return entries
