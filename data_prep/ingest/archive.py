"""What an archive says of itself: its name, and whether it is synthetic."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rsdgc.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

ARCHIVE_FILE = "archive.json"


def is_synthetic(src: Path) -> bool:
    """Tell whether ``archive.json`` at an archive's root has ``"synthetic": true``.

    Raises
    ------
    DataError
        The file is there but is not a JSON object.
    """
    path = src / ARCHIVE_FILE
    if not path.is_file():
        return False
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return bool(values.get("synthetic", False))
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is not a JSON object: mend or remove it") from error
