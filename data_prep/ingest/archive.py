"""An archive to ingest: the files of a folder or of a zip file."""

from __future__ import annotations

import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from data_prep.foreign_errors import cannot_read, reading
from data_prep.rasters import PICTURE_SUFFIXES, RASTER_SUFFIXES, natural_key
from data_prep.schema import Skipped
from rsdgc.documents import (
    MAX_BYTES,
    DocumentError,
    decode_marked,
    parse_json,
    read_marked_text,
)
from rsdgc.errors import DataError

ARCHIVE_FILE = "archive.json"
#: What Python raises for a zip file that is broken, encrypted or packed in a way it cannot read.
ZIP_ERRORS = (zipfile.BadZipFile, RuntimeError, EOFError, zlib.error)
#: Ends of names of files that accompany rasters; reports do not list them.
SIDECARS = (
    *(".aux.xml", ".ovr", ".msk", ".prj", ".hdr", ".stx", ".clr"),
    *(".wld", ".tfw", ".jgw", ".pgw", ".j2w", ".blw", ".bpw", ".bqw", ".gfw"),
)

#: Suffixes of files that hold other files.
PACKED_SUFFIXES = frozenset((".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"))
#: Why packed files in an archive are not read.
PACKED = "packed files: unpack them, or ingest a zip file by itself"
#: Why a file or a folder is not read whose name no record could hold.
NOT_UTF8 = "its name is not UTF-8: rename it"


@dataclass(frozen=True)
class Archive:
    """Where imagery is read from; never written to."""

    src: Path  #: the folder or the zip file
    root: Path  #: prefix of the paths that rasterio opens: the folder, or a path of ``/vsizip/``
    name: str  #: the folder's or the file's own
    #: All files, as paths under the root with ``/``, by folder; in natural order.
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)
    skipped: Sequence[Skipped] = ()  #: folders that are not listed, and why

    def path(self, relative: str) -> Path:
        """Path of a file for rasterio."""
        return self.root / relative if relative else self.root

    def text(self, relative: str) -> str | None:
        """Text of a small file, or None if the archive does not have it."""
        parent = str(PurePosixPath(relative).parent)
        if relative not in self.files.get("" if parent == "." else parent, ()):
            return None
        try:
            if self.root == self.src:
                return read_marked_text(self.src / relative)
            # the root's path within the zip file
            inside = self.root.as_posix().partition("}/")[2]
            with zipfile.ZipFile(self.src) as archive:
                wanted = f"{inside.strip('/')}/{relative}" if inside.strip("/") else relative
                members = {_slashed(name): name for name in archive.namelist()}
                member = archive.getinfo(members[wanted])
                if member.file_size > MAX_BYTES:
                    raise DocumentError(f"it has {member.file_size} bytes")
                return decode_marked(archive.read(member))
        except (OSError, ValueError, KeyError, *ZIP_ERRORS) as error:
            raise DataError(
                f"{self.path(relative)} cannot be read: {error}: correct or remove it"
            ) from error

    def is_synthetic(self) -> bool:
        """Tell whether ``archive.json`` at the root has ``"synthetic": true``.

        A site's folder of a synthetic archive has none, if it is ingested alone: it is among the
        ``sites`` of the one beside it.
        """
        text = self.text(ARCHIVE_FILE)
        if text is None:
            return self.root == self.src and _is_synthetic_site(self.src.resolve())
        try:
            return bool(parse_json(text).get("synthetic", False))
        except (ValueError, AttributeError) as error:
            raise DataError(
                f"{self.path(ARCHIVE_FILE)} is not a JSON object: correct or remove it"
            ) from error


def _is_synthetic_site(folder: Path) -> bool:
    """Tell whether a folder is a site of the synthetic archive around it."""
    try:
        about = parse_json(read_marked_text(folder.parent / ARCHIVE_FILE))
        names = {site["name"] for site in about["sites"]}
        return bool(about["synthetic"]) and folder.name in names
    except (OSError, ValueError, TypeError, LookupError):
        return False  # none, or one of something else


def open_archive(src: str | os.PathLike[str]) -> Archive:
    """List an archive: a folder, a ``.zip`` file, ``zip://file.zip!folder`` or ``/vsizip/…``."""
    path, inside = _parse(str(src))
    if path.is_dir() and not inside:
        with reading(path):
            names, skipped = _walk(path)
        return Archive(path, path, path.resolve().name, _by_folder(names), skipped)
    if not path.is_file():
        raise DataError(f"{path} is not a folder: name the archive's folder, or a zip file")
    if not zipfile.is_zipfile(path):
        packed = path.suffix.lower() in PACKED_SUFFIXES - {".zip"}
        remedy = "unpack it, and name the folder" if packed else "name the archive's folder"
        raise DataError(f"{path} is neither a folder nor a zip file: {remedy}")
    prefix = inside.strip("/") + "/" if inside.strip("/") else ""
    try:
        with zipfile.ZipFile(path) as archive:
            listed = [_slashed(name) for name in archive.namelist()]
        names = [name[len(prefix) :] for name in listed if name.startswith(prefix)]
    except (OSError, ValueError, *ZIP_ERRORS) as error:
        raise DataError(f"{path} is a broken zip file ({error}): copy it again") from error
    # GDAL finds by the braces where the path of the file ends and that within it begins
    root = Path(f"/vsizip/{{{path.resolve()}}}/{prefix}")
    files = [name for name in names if name and not name.endswith("/")]
    kept_out = [Skipped(path=n, reason=PACKED, refused=False) for n in files if _is_packed(n)]
    usable = [name for name in files if not _is_packed(name)]
    return Archive(path, root, path.stem, _by_folder(usable), kept_out)


def file_on_disk(path: Path) -> Path:
    """Return the file that holds one of an archive: the zip file, or the file itself."""
    return _parse(str(path))[0]


def _slashed(name: str) -> str:
    """Write the name of a zip file's entry as GDAL does: some programs divide it by backslashes."""
    return name.replace("\\", "/")


def _parse(src: str) -> tuple[Path, str]:
    """Divide a source into a path on disk and a path inside that file."""
    if src.startswith("zip://"):
        file, _, inside = src.removeprefix("zip://").partition("!")
        return Path(file), inside
    if src.startswith("/vsizip/"):
        rest = src.removeprefix("/vsizip/")
        match = re.match(r"\{(.+?)\}/?(.*)$", rest) or re.match(r"(.+?\.zip)(?:/(.*))?$", rest)
        if match is None:
            raise DataError(f"{src} does not name a .zip file: write /vsizip/FILE.zip/FOLDER")
        return Path(match[1]), match[2] or ""
    return Path(src), ""


def _walk(root: Path) -> tuple[list[str], list[Skipped]]:
    """List the files under a folder, and the folders that are not listed.

    Links to folders are followed, but no folder is listed twice: a link may lead back to where it
    lies, and the same scene under two names would be in train and in test.
    """
    names: list[str] = []
    skipped: list[Skipped] = []
    seen: dict[tuple[int, int], str] = {}

    def refuse(error: OSError) -> None:
        if Path(error.filename) == root:
            raise error
        path = Path(error.filename).relative_to(root).as_posix()
        skipped.append(Skipped(path=path, reason=cannot_read(error.filename, error)))

    waiting = [root]
    for start in waiting:
        for folder, children, files in os.walk(start, onerror=refuse):
            facts = os.stat(folder)
            relative = Path(folder).relative_to(root)
            first = seen.setdefault((facts.st_dev, facts.st_ino), relative.as_posix())
            if first != relative.as_posix():
                reason = f"a link to {first}, which is listed already"
                skipped.append(Skipped(path=relative.as_posix(), reason=reason, refused=False))
                children.clear()
                continue
            unusable = {name: why for name in files if (why := _unusable(Path(folder, name)))}
            unusable |= {name: NOT_UTF8 for name in (*files, *children) if not _is_utf8(name)}
            for name, reason in unusable.items():
                path = (relative / name).as_posix()
                skipped.append(Skipped(path=path, reason=reason, refused=reason == NOT_UTF8))
            # hidden folders, such as .git, can hold more files than the archive
            children[:] = [c for c in children if not c.startswith(".") and _is_utf8(c)]
            # links after all folders, so that a folder keeps its own name
            below = [Path(folder, child) for child in children]
            waiting += [path for path in below if path.is_symlink()]
            names += ((relative / name).as_posix() for name in files if name not in unusable)
    return names, skipped


def listed_path(root: Path, text: str) -> Path:
    """Return the path of a file that a list names; one made on Windows has backslashes."""
    path = root / text
    if "\\" in text and not path.exists():
        return root / text.replace("\\", "/")
    return path


def _is_packed(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in PACKED_SUFFIXES


def _is_utf8(name: str) -> bool:
    """Tell whether a name can stand in a record; Python stands surrogates for other bytes."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _unusable(path: Path) -> str:
    """Say why a file is not listed; empty if it is."""
    if _is_packed(path.name):
        return PACKED
    try:
        mode = path.stat().st_mode
    except OSError:
        # what reads a raster says why it cannot; a folder that a link leads to would be missing
        return "" if is_raster(path.name) or not path.is_symlink() else "a link to nothing"
    # reading a pipe or a device may wait for ever
    return "" if stat.S_ISREG(mode) else "not a regular file"


def _by_folder(names: Iterable[str]) -> dict[str, list[str]]:
    """Sort files, without hidden ones and what macOS adds to zip files."""
    folders: dict[str, list[str]] = {}
    for name in sorted(names, key=natural_key):
        path = PurePosixPath(name)
        if any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
            continue
        folder = path.parent.as_posix()
        folders.setdefault("" if folder == "." else folder, []).append(name)
    return dict(sorted(folders.items(), key=lambda item: natural_key(item[0])))


def is_raster(name: str) -> bool:
    """Tell by its name whether a file is read as a raster."""
    path = PurePosixPath(name)
    suffix, before = path.suffix.lower(), PurePosixPath(path.stem).suffix.lower()
    # scene.tif.asc is a signature of scene.tif
    return suffix in RASTER_SUFFIXES and not (suffix == ".asc" and before in RASTER_SUFFIXES)


def is_image(name: str) -> bool:
    """Tell by its name whether a file is read as a single image with a class."""
    return is_raster(name) or PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES


def is_sidecar(name: str) -> bool:
    """Tell by its name whether a file accompanies a raster."""
    return name.lower().endswith(SIDECARS)
