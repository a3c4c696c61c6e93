"""The files that a store was made of, so that making it again from the same files does nothing.

``sources.json`` in a store holds the options and, for every file, size, time and a hash of its
content. A file whose size and time are the same counts as unchanged; otherwise its content decides.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError
from xxhash import xxh3_128

from data_prep.ingest.options import IngestOptions
from data_prep.schema import Record

SOURCES_FILE = "sources.json"
#: Raised when the same options and files would give another store.
VERSION = 3
#: What GDAL reads beside a file: its statistics and categories, mask, the parts of a Shapefile.
SIDECARS = (".aux.xml", ".msk")
SHAPEFILE_PARTS = (".dbf", ".shx", ".prj", ".cpg")


class SourceFile(Record):
    """A file that was read: path, size in bytes, time of its last change, XXH3 (128 bits)."""

    path: str
    bytes: int
    mtime_ns: int
    xxh128: str = ""


class Sources(Record):
    """Everything that a store depends on."""

    version: int = VERSION
    options: str
    files: list[SourceFile]

    @property
    def key(self) -> str:
        """Short text, the same for the same options, sizes and times; contents are not read."""
        plain = [(file.path, file.bytes, file.mtime_ns) for file in self.files]
        text = json.dumps([self.version, self.options, plain])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @contextmanager
    def hashing(self) -> Iterator[Future[Sources]]:
        """Hash the content of every file in a thread; the result is a copy with the hashes."""
        stop = threading.Event()

        def hash_all() -> Sources:
            files = [
                file.model_copy(update={"xxh128": hash_file(file.path)})
                for file in self.files
                if not stop.is_set()
            ]
            return self.model_copy(update={"files": files})

        with ThreadPoolExecutor(1, thread_name_prefix="hashes") as thread:
            try:
                yield thread.submit(hash_all)
            finally:
                stop.set()

    def made(self, out: Path) -> bool:
        """Tell whether the store at ``out`` was made of these options and files."""
        try:
            text = (out / SOURCES_FILE).read_text(encoding="utf-8")
            old = Sources.model_validate_json(text)
        except (OSError, ValidationError):
            return False
        return (
            (old.version, old.options) == (self.version, self.options)
            and [file.path for file in old.files] == [file.path for file in self.files]
            and all(map(_same, old.files, self.files))
        )

    def write(self, folder: Path) -> None:
        """Write ``sources.json``."""
        text = self.model_dump_json(indent=1) + "\n"
        (folder / SOURCES_FILE).write_text(text, encoding="utf-8")


def _same(old: SourceFile, new: SourceFile) -> bool:
    if old.bytes != new.bytes:
        return False
    if old.mtime_ns == new.mtime_ns:
        return True
    digest = hash_file(new.path)
    return bool(digest) and old.xxh128 == digest


def sources_of(paths: Iterable[Path], options: IngestOptions) -> Sources:
    """Return size and time of files, also inside zip files, and of those that accompany them."""
    files: dict[str, SourceFile] = {}
    for path in map(_on_disk, paths):
        for file in [path, *_companions(path)]:
            name = str(file.absolute())
            if name in files:
                continue  # all files of a zip file are one
            try:
                facts = file.stat()
            except OSError:
                continue
            files[name] = SourceFile(path=name, bytes=facts.st_size, mtime_ns=facts.st_mtime_ns)
    text = json.dumps(dataclasses.asdict(options), default=str, sort_keys=True)
    return Sources(options=text, files=[files[name] for name in sorted(files)])


def _on_disk(path: Path) -> Path:
    """Return the file on disk that holds a path: itself, or the zip file around it."""
    text = path.as_posix()
    if not text.startswith("/vsizip/"):
        return path
    return Path(text.partition("{")[2].partition("}")[0] or text.removeprefix("/vsizip/"))


def _companions(path: Path) -> list[Path]:
    beside = [path.with_name(path.name + suffix) for suffix in SIDECARS]
    if path.suffix.lower() == ".shp":
        beside += [path.with_suffix(suffix) for suffix in SHAPEFILE_PARTS]
    return [file for file in beside if file.is_file()]


def hash_file(path: str | Path) -> str:
    """Return the XXH3 of a file's content, 128 bits in hexadecimal digits, as ``xxhsum -H2`` does.

    It tells contents apart but does not withstand a forger. SHA-256 takes four times as long,
    0.7 s a GB, where plain pixels are read in 0.8 s a GB. A file that cannot be read has an empty
    one: whatever needs the file says why.
    """
    try:
        # unbuffered: the digest reads large blocks by itself
        with Path(path).open("rb", buffering=0) as file:
            digest = hashlib.file_digest(file, xxh3_128)  # type: ignore[arg-type]  # by its stub
    except OSError:
        return ""
    return digest.hexdigest()
