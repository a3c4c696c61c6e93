"""The class list of a label raster: codes, names, and what counts as unlabelled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_prep.rasters import category_names
from rsdgc.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSES_FILE = "classes.json"
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
    """

    names: Mapping[int, str]
    closed: bool
    zero_is_unlabelled: bool

    def labelled(
        self, codes: NDArray[np.int64], valid: NDArray[np.bool_], where: object
    ) -> NDArray[np.bool_]:
        """Mark the pixels that have a label.

        Raises
        ------
        UnknownLabelError
            A valid pixel has a code that the given list does not know.
        """
        valid = valid & (codes != 0) if self.zero_is_unlabelled else valid
        if self.closed:
            found, _ = distinct(codes[valid])
            unknown = found[~np.isin(found, list(self.names))]
            if len(unknown):
                raise UnknownLabelError(
                    f"{where} has label {unknown[0]}, which is not in the class list "
                    f"({', '.join(map(str, self.names))}): add it, or mark it as nodata"
                )
        return valid

    def settle(self, found: NDArray[np.int64]) -> tuple[list[int], list[str]]:
        """Fix the classes once all labels are known: codes and names, by rising code."""
        codes = list(self.names) if self.closed else sorted(int(code) for code in set(found))
        return codes, [self.names.get(code, f"class {code}") for code in codes]


def distinct(codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct codes, rising, and the place of each code among them.

    As ``numpy.unique`` with ``return_inverse``, but without sorting where the codes lie close.
    """
    low, high = (int(codes.min()), int(codes.max())) if len(codes) else (0, 0)
    if high - low >= 2**16:
        found, places = np.unique(codes, return_inverse=True)
        return found, places
    occurs = np.bincount(codes - low) > 0
    return np.flatnonzero(occurs) + low, (np.cumsum(occurs) - 1)[codes - low]


def read_classes(
    src: Path,
    classes: str | Path | Mapping[int, str] | None,
    label_path: Path,
    *,
    pixels: bool = False,
) -> ClassList:
    """Find the class list: given, else ``classes.json`` of the archive, else category names.

    Parameters
    ----------
    src
        The archive's folder.
    classes
        A mapping of code to name, or the path of a JSON file that holds one.
    label_path
        A label raster, for its category names.
    pixels
        Pixel mode, where code 0 means unlabelled even if no list says so.
    """
    if isinstance(classes, Mapping):
        return _closed({int(code): str(name) for code, name in classes.items()})
    if classes is not None:
        return _closed(_read_json(Path(classes)))
    if (src / CLASSES_FILE).is_file():
        return _closed(_read_json(src / CLASSES_FILE))
    names = category_names(label_path)
    zero = names.get(0)
    no_label = pixels if zero is None else zero.lower() in NO_LABEL_NAMES
    return ClassList(names, closed=False, zero_is_unlabelled=no_label)


def _closed(names: dict[int, str]) -> ClassList:
    if not names:
        raise DataError("the class list is empty: name at least one class")
    if len(set(names.values())) < len(names):
        raise DataError("the class list repeats a name: give each code its own")
    return ClassList(dict(sorted(names.items())), closed=True, zero_is_unlabelled=0 not in names)


def _read_json(path: Path) -> dict[int, str]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {int(code): str(name) for code, name in values.items()}
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): name a class file") from error
    except (ValueError, AttributeError) as error:
        raise DataError(f'{path} is not {{"code": "name", …}}: {error}') from error
