"""The class list of labels: codes, names, and what counts as unlabelled."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.rasters import category_names
from rsdgc.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data_prep.ingest.archive import Archive

CLASSES_FILE = "classes.json"
#: Code of what is no class.
NO_CODE = -(2**31)
#: So few codes are looked for one by one.
FEW_CODES = 24
#: Category names that mean that nothing is known of a pixel.
NO_LABEL_NAMES = frozenset(("", "na", "n/a", "nodata", "no data", "unlabelled", "unlabeled"))


class UnknownLabelError(DataError):
    """A label is not in the class list: no scene is skipped over it."""


@dataclass(frozen=True)
class ClassList:
    """What label codes mean.

    Attributes
    ----------
    names
        Code to class name, by rising code.
    closed
        The list was given: any other code is an error. Otherwise names are only looked up here,
        and the classes are the codes that occur.
    zero_is_unlabelled
        Code 0 marks pixels without a label.
    ignore_unknown
        Labels that a closed list does not have count as no label, instead of being an error.
    """

    names: Mapping[int, str]
    closed: bool
    zero_is_unlabelled: bool
    ignore_unknown: bool = False

    def labelled(
        self, codes: NDArray[np.integer[Any]], valid: NDArray[np.bool_], where: object
    ) -> NDArray[np.bool_]:
        """Mark the pixels that have a label.

        Raises
        ------
        UnknownLabelError
            A valid pixel has a code that the given list does not know.
        """
        valid = valid & (codes != 0) if self.zero_is_unlabelled else valid
        if self.closed:
            found = distinct(codes[valid])
            unknown = found[~np.isin(found, list(self.names))]
            if len(unknown) and self.ignore_unknown:
                return valid & ~np.isin(codes, unknown)
            if len(unknown):
                raise UnknownLabelError(
                    f"{where} has label {unknown[0]}, which is not in the class list "
                    f"({', '.join(map(str, self.names))}): add it, mark it as nodata, or ignore "
                    "what is unknown"
                )
        return valid

    def code_of(self, value: str | int, where: object) -> int:
        """Return the code of a polygon's class: a name of the list, or a code.

        Raises
        ------
        UnknownLabelError
            The list does not have it, and unknown classes are not ignored.
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
            f"({', '.join(self.names.values())}): add it, or ignore what is unknown"
        )

    def settle(self, found: NDArray[np.int64]) -> tuple[list[int], list[str]]:
        """Fix the classes once all labels are known: codes and names, by rising code."""
        codes = list(self.names) if self.closed else sorted(int(code) for code in set(found))
        return codes, [self.names.get(code, f"class {code}") for code in codes]


def distinct(codes: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return the distinct codes, rising: ``numpy.unique``, without sorting where they lie close."""
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
    """Return the class list that was given, else that of ``classes.json``; None without either.

    Parameters
    ----------
    archive
        Whose ``classes.json`` is looked for.
    classes
        A mapping of code to name, or the path of a JSON file that holds one.
    ignore_unknown
        Labels outside the list count as none.
    """
    text = archive.text(CLASSES_FILE)
    if isinstance(classes, Mapping):
        names = {int(code): str(name) for code, name in classes.items()}
    elif classes is not None:
        names = _parse(_read(Path(classes)), classes)
    elif text is not None:
        names = _parse(text, archive.path(CLASSES_FILE))
    else:
        return None
    return _closed(names, ignore_unknown)


def raster_classes(label_path: Path, *, pixels: bool = False) -> ClassList:
    """Return the class list of a label raster that comes without one: its category names.

    Parameters
    ----------
    label_path
        A label raster, for its category names.
    pixels
        Pixel mode, where code 0 means unlabelled even if no list says so.
    """
    names = category_names(label_path)
    zero = names.get(0)
    no_label = pixels if zero is None else zero.lower() in NO_LABEL_NAMES
    return ClassList(names, closed=False, zero_is_unlabelled=no_label)


def named_classes(values: Iterable[str | int]) -> ClassList:
    """Return the class list of polygons that come without one: their names, in order.

    Whole numbers are codes; names are numbered from 1 in alphabetical order.
    """
    distinct_values = set(values)
    named = any(isinstance(value, str) for value in distinct_values)
    names = sorted(map(str, distinct_values)) if named else []
    return ClassList(dict(enumerate(names, start=1)), closed=False, zero_is_unlabelled=False)


def _closed(names: dict[int, str], ignore_unknown: bool) -> ClassList:
    if not names:
        raise DataError("the class list is empty: name at least one class")
    if len(set(names.values())) < len(names):
        raise DataError("the class list repeats a name: give each code its own")
    return ClassList(
        dict(sorted(names.items())),
        closed=True,
        zero_is_unlabelled=0 not in names,
        ignore_unknown=ignore_unknown,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): name a class file") from error


def _parse(text: str, where: object) -> dict[int, str]:
    try:
        values = json.loads(text)
        return {int(code): str(name) for code, name in values.items()}
    except (ValueError, AttributeError) as error:
        raise DataError(f'{where} is not {{"code": "name", …}}: {error}') from error
