"""Reading a ledger's file while a run writes it: each look returns the lines that are new."""

from __future__ import annotations

from pathlib import Path
from typing import Generic

from pydantic import TypeAdapter

from fl_app.runs.records import Record, damaged, parse_record
from rsdgc.documents import MAX_LINE_BYTES, DocumentError
from rsdgc.errors import RunFolderError
from strategies.ledger import HISTORY_FILE, SITES_FILE, RoundEntry, SiteEntry


class GrowingRecords(Generic[Record]):
    """The records of a file that has one JSON object a line and grows at its end.

    Parameters
    ----------
    kind : type
        Of the records.
    path : Path
        The file, which need not exist yet.
    """

    def __init__(self, kind: type[Record], path: Path) -> None:
        self._adapter = TypeAdapter(kind)
        self._path = path
        self._offset = 0
        self._line = 0

    def restart(self) -> None:
        """Begin at the start of the file with the next look."""
        self._offset = self._line = 0

    @property
    def was_cut(self) -> bool:
        """Whether the file is shorter than what was read of it, as after a run was resumed."""
        return self._offset > 0 and self._size() < self._offset

    def read_new(self) -> list[Record]:
        """Return the records of the lines that are complete and were not returned before.

        Raises
        ------
        RunFolderError
            A line is damaged; the text names the file and the line. The next look reads the lines
            before it again.
        """
        if self._size() <= self._offset:
            return []
        records: list[Record] = []
        offset = self._offset
        try:
            with self._path.open("rb") as file:
                file.seek(offset)
                while (line := file.readline(MAX_LINE_BYTES + 1)).endswith(b"\n"):
                    where = f"{self._path} line {self._line + len(records) + 1}"
                    records.append(parse_record(self._adapter, line.decode(), where))
                    offset += len(line)
                if len(line) > MAX_LINE_BYTES:
                    raise DocumentError(f"a line has more than {MAX_LINE_BYTES} bytes")
        except OSError as error:
            raise RunFolderError(f"{self._path} cannot be read ({error.strerror})") from None
        except (DocumentError, UnicodeDecodeError) as error:
            raise damaged(self._path, error) from None
        self._offset, self._line = offset, self._line + len(records)
        return records

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0


def growing_ledger(folder: Path) -> tuple[GrowingRecords[RoundEntry], GrowingRecords[SiteEntry]]:
    """Return the rounds and the messages in a run's ledger, to be read as they come."""
    return (
        GrowingRecords(RoundEntry, folder / HISTORY_FILE),
        GrowingRecords(SiteEntry, folder / SITES_FILE),
    )
