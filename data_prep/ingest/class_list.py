"""The class list of labels: codes, names, and which pixels count as unlabeled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.ingest.archive import Archive
from data_prep.rasters import category_names
from rsdgc.documents import DocumentError, parse_json, read_text
from rsdgc.errors import DataError

CLASSES_FILE = "classes.json"
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
                f"({', '.join(map(str, self.names))}): add it to --classes, mark it as "
                "nodata in the file, or use --unknown ignore"
            )
        return valid & ~np.isin(codes, unknown) if len(unknown) else valid

    def code_of(self, value: str | int, where: object) -> int:
        """Return the code of a polygon's class: a name of the list, or a code.

        A class that the list does not have is :data:`NO_CODE` or an UnknownLabelError.
        """
        for code, name in self.names.items():
            if value == code or str(value) == name:
                return code
        if isinstance(value, int) and not self.closed:
            return value
        if self.ignore_unknown:
            return NO_CODE
        raise UnknownLabelError(
            f"{where} has the class {value!r}, which is not in the class list "
            f"({', '.join(self.names.values())}): add it to --classes, or use --unknown ignore"
        )

    def settle(self, occurring: NDArray[np.int64]) -> tuple[list[int], list[str]]:
        """Return the final classes, once all labels are known: codes and names, by rising code."""
        codes = list(self.names) if self.closed else sorted(int(code) for code in set(occurring))
        return codes, [self.names.get(code, f"class {code}") for code in codes]


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
    classes: str | Path | Mapping[int, str] | None,
    *,
    ignore_unknown: bool = False,
) -> ClassList | None:
    """Return the closed list that was given, else that of ``classes.json``; None without either.

    ``classes`` is a mapping of code to name, or the path of a JSON file that holds one.
    """
    text = archive.text(CLASSES_FILE)
    if isinstance(classes, Mapping):
        names = {int(code): str(name) for code, name in classes.items()}
    elif classes is not None:
        try:
            names = _parse(read_text(Path(classes)), classes)
        except DocumentError as error:
            raise DataError(f"{Path(classes)} cannot be used: {error}") from error
        except OSError as error:
            raise DataError(
                f"{Path(classes)} cannot be read ({error.strerror}): correct --classes"
            ) from error
    elif text is not None:
        names = _parse(text, archive.path(CLASSES_FILE))
    else:
        return None
    if not names:
        raise DataError("the class list (--classes) is empty: name at least one class")
    if len(set(names.values())) < len(names):
        raise DataError("the class list (--classes) repeats a name: give each code its own")
    names = dict(sorted(names.items()))
    # code 0 that is in no list is what most archives fill unlabeled pixels with
    return ClassList(names, True, 0 not in names, ignore_unknown)


def raster_classes(label_path: Path, *, pixels: bool = False) -> ClassList:
    """Return the class list that a label raster implies: its category names.

    In pixel mode code 0 means unlabeled even if no name says so.
    """
    names = category_names(label_path)
    zero = names.get(0)
    # code 0 of single labeled images, such as Indian Pines, marks what was not surveyed
    no_label = pixels if zero is None else zero.lower() in NO_LABEL_NAMES
    return ClassList(names, closed=False, zero_is_unlabeled=no_label)


def named_classes(values: Iterable[str | int]) -> ClassList:
    """Return the list that class values imply: numbers are codes, names count from 1 by name."""
    distinct_values = set(values)
    named = any(isinstance(value, str) for value in distinct_values)
    names = sorted(map(str, distinct_values)) if named else []
    return ClassList(dict(enumerate(names, start=1)), closed=False, zero_is_unlabeled=False)


def _parse(text: str, where: object) -> dict[int, str]:
    try:
        values = parse_json(text)
        names = {int(code): str(name) for code, name in values.items()}
        if any(abs(code) >= 2**31 for code in names):  # labels are int32
            raise ValueError(f"code {max(names, key=abs)} has more than 32 bits")
    except (ValueError, AttributeError) as error:
        raise DataError(f'{where} is not {{"code": "name", …}}: {error}') from error
    return names
