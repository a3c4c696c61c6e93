"""Scenes named one by one, in a TOML or a CSV file, instead of found in folders.

``scenes.toml``; paths are relative to it, everything but ``modalities`` may be left out::

    labels = "landuse.gpkg"              # for all scenes that name none
    label-column = "fclass"
    label-nodata = ["unknown"]
    remap = { forest = ["Laubwald", "Nadelwald"], water = "See" }

    [[scene]]
    name = "zion"
    folder = "utah"                      # the site it belongs to
    date = 2015-06-01
    split = "train"                      # with --split-by given
    labels = "nlcd2011.tif"
    masks = ["qa.tif=bits:3,4"]

    [scene.modalities]
    landsat = ["landsat_b2.tif", "landsat_b3.tif"]
    srtm = { files = ["srtm.tif"], bands = ["elevation"], nodata = 65535, scale = 0.1, offset = 0 }

Keys that hold for all scenes are the options of ``rsdgc ingest`` that say what the data are, and an
option that is given counts in place of its key (:class:`Description`). Names may be written with
``-`` or ``_``.

``scenes.csv``: one line a file, with the columns ``scene``, ``modality``, ``file`` and, where they
are needed, ``labels``, ``folder``, ``date`` and ``split``.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from data_prep.foreign_errors import reading
from data_prep.ingest.archive import Archive, listed_path
from data_prep.ingest.label_values import whole_number
from data_prep.ingest.labels import DEFAULT_LABELS, formats_for, read_labels
from data_prep.ingest.options import SceneOptions, parse_mask
from data_prep.ingest.scene import MaskFile, ModalityFiles, Scene
from data_prep.ingest.sensors import date_of
from data_prep.rasters import RasterFile, natural_key, read_header
from data_prep.schema import SPLITS, Record, Skipped
from rsdgc.documents import (
    DocumentError,
    explain_invalid,
    parse_table,
    parse_toml,
    read_marked_text,
)
from rsdgc.errors import DataError, SettingError

DESCRIPTION_SUFFIXES = (".toml", ".csv")


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list | dict) else [value]


def _as_texts(value: Any) -> Any:
    items = value if isinstance(value, list) else [value]
    numbers = all(isinstance(item, str | int | float) for item in items)
    return [str(item) for item in items] if numbers else value


#: A text or a list of them, and values of labels: texts, numbers, or a list of both.
Texts = Annotated[list[str], BeforeValidator(_as_list)]
LabelValues = Annotated[list[str], BeforeValidator(_as_texts)]


class _Entry(Record):
    """Keys may be written with hyphens, as the options are."""

    @model_validator(mode="before")
    @classmethod
    def _underscored(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {str(key).replace("-", "_"): value for key, value in values.items()}


class ModalityEntry(_Entry):
    """A modality of a description: its files, and values in place of those that they declare."""

    files: Texts = Field(min_length=1)
    bands: list[str] | None = None
    nodata: float | int | None = None
    scale: float | None = None
    offset: float | None = None
    crs: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """Read a file, or a list of files, as an entry that says nothing else."""
        files = [value] if isinstance(value, str) else value
        return {"files": files} if isinstance(files, list) else value


class SceneEntry(_Entry):
    """A scene of a description."""

    name: str = Field(min_length=1)
    #: ``layers`` is the key's former name, which still reads.
    modalities: dict[str, ModalityEntry] = Field(
        min_length=1, validation_alias=AliasChoices("modalities", "layers")
    )
    labels: str | None = None
    label_column: str | None = None
    label_layer: str | None = None
    label_nodata: LabelValues = Field(default_factory=list)
    label_crs: str | None = None
    folder: str = ""
    date: str = ""
    split: str = ""
    masks: list[str] = Field(default_factory=list)

    @field_validator("modalities")
    @classmethod
    def _file_names(cls, modalities: dict[str, ModalityEntry]) -> dict[str, ModalityEntry]:
        for name in modalities:
            # files of a store are named so, and its validity layers with .valid
            if not re.fullmatch(r"\w[\w .-]*", name) or name.endswith(".valid"):
                raise ValueError(f"modality {name!r} cannot name a file: use letters and digits")
        return modalities

    @field_validator("date", mode="before")
    @classmethod
    def _as_text(cls, date: Any) -> str:
        # TOML has dates and times; the day is enough to order scenes
        return str(date)[:10]

    @field_validator("split")
    @classmethod
    def _known(cls, split: str) -> str:
        if split not in ("", *SPLITS[:3]):
            raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS[:3])}")
        return split


class Description(_Entry):
    """All scenes of a description, and what holds for those that say nothing else.

    The other fields are those of :class:`data_prep.ingest.options.SceneOptions`. ``remap`` may be a
    table of the values of each class, ``classes`` one of the codes, and ``crs`` and ``nodata``
    tables by modality.
    """

    scene: list[SceneEntry] = Field(min_length=1)
    labels: str | None = None
    label_format: str | None = None
    label_column: str | None = None
    label_layer: str | None = None
    label_year: int | None = None
    label_nodata: LabelValues = Field(default_factory=list)
    label_crs: str | None = None
    remap: Texts | dict[str, LabelValues] = Field(default_factory=list)
    classes: str | dict[str, Any] | None = None
    priority: Texts = Field(default_factory=list)
    all_touched: bool = False
    masks: Texts = Field(default_factory=list)
    mask_clouds: bool = False
    aoi: str | None = None
    crs: str | dict[str, str] | None = None
    nodata: float | int | dict[str, float | int] | None = None
    complex_mode: str | None = Field(None, validation_alias=AliasChoices("complex", "complex_mode"))
    name: str | None = None

    def complete(self, options: SceneOptions, root: Path) -> SceneOptions:
        """Return options with what the description in a folder says in place of their defaults."""
        values: dict[str, Any] = self.model_dump(exclude={"scene"})
        if isinstance(self.remap, dict):
            values["remap"] = [
                f"{name}={','.join(of_class)}" for name, of_class in self.remap.items()
            ]
        else:
            # what is not CLASS=VALUES is a file
            values["remap"] = [t if "=" in t else str(root / t) for t in self.remap]
        if isinstance(self.classes, dict):
            values["classes"] = _by_code(self.classes)
        elif self.classes is not None:
            values["classes"] = root / self.classes
        if self.aoi is not None:
            values["aoi"] = root / self.aoi
        if isinstance(self.crs, dict):
            values["crs"] = {name: _crs_text(root, text) for name, text in self.crs.items()}
        else:
            values["crs"] = _crs_text(root, self.crs)
        values["label_crs"] = _crs_text(root, self.label_crs)
        lacking = {
            name: value
            for name, value in values.items()
            if not _is_empty(value) and _is_empty(getattr(options, name))
        }
        return replace(options, **lacking)


def _is_empty(value: Any) -> bool:
    # a nodata value of 0 is one
    return value is None or value is False or (hasattr(value, "__len__") and not len(value))


def _by_code(classes: dict[str, Any]) -> dict[int, Any]:
    codes = {key: whole_number(key) for key in classes}
    wrong = next((key for key, code in codes.items() if code is None), None)
    if wrong is not None:
        raise DataError(f"classes: code {wrong!r} is not a whole number: correct the description")
    return {code: classes[key] for key, code in codes.items() if code is not None}


def _crs_text(root: Path, text: str | None) -> str | None:
    """Return a CRS of a description: the path of a file is relative to it."""
    is_file = text is not None and text.lower().endswith((".prj", ".wkt"))
    return str(root / text) if text is not None and is_file else text


def described_scenes(
    path: Path, options: SceneOptions
) -> tuple[Archive, SceneOptions, list[Scene], list[Skipped]]:
    """Read a TOML or CSV description, and the headers of all its scenes.

    Returns
    -------
    tuple
        The folder of the description, as an archive with nothing listed; the options, completed by
        what the description says of all scenes; the scenes, and those that cannot be used.
    """
    description = _read(path)
    try:
        options = description.complete(options, path.parent)
    except SettingError as error:
        raise SettingError(f"{path}: {error}") from error
    scenes: list[Scene] = []
    skipped: list[Skipped] = []
    for entry in description.scene:
        try:
            with reading(path.parent):
                scenes.append(_scene(path.parent, entry, options))
        except DataError as error:
            skipped.append(Skipped(path=entry.name, reason=str(error)))
    if not scenes:
        raise DataError(f"{path} has no usable scene: {skipped[0].path}: {skipped[0].reason}")
    return Archive(path.parent, path.parent, path.stem), options, scenes, skipped


def _read(path: Path) -> Description:
    try:
        text = read_marked_text(path)
        values = parse_toml(text) if path.suffix.lower() == ".toml" else _table(text)
        description = Description.model_validate(values)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check its path") from error
    except DocumentError as error:
        raise DataError(f"{path} cannot be used: {error}: correct the description") from error
    except ValidationError as error:
        raise DataError(f"{path}: {explain_invalid(error)}: correct the description") from error
    names = [scene.name for scene in description.scene]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path} names the scene {twice} twice: give each scene its own name")
    return description


def _table(text: str) -> dict[str, Any]:
    columns, rows = parse_table(text, ("scene", "file"))
    # the former name of the column still reads
    modality_column = "layer" if "layer" in columns else "modality"
    if modality_column not in columns:
        raise DocumentError("it has no column modality: it needs scene, modality, file")
    scenes: dict[str, dict[str, Any]] = {}
    for row in rows:
        scene = scenes.setdefault(row["scene"], {"name": row["scene"], "modalities": {}})
        scene["modalities"].setdefault(row[modality_column], []).append(row["file"])
        for key in ("labels", "folder", "date", "split"):
            if row.get(key):
                scene[key] = row[key]
    return {"scene": list(scenes.values())}


def _scene(root: Path, entry: SceneEntry, options: SceneOptions) -> Scene:
    modalities = [
        _modality(root, name, modality, options) for name, modality in entry.modalities.items()
    ]
    own: dict[str, Any] = {
        "label_column": entry.label_column,
        "label_layer": entry.label_layer,
        "label_nodata": entry.label_nodata,
        "label_crs": _crs_text(root, entry.label_crs),
    }
    options = replace(options, **{name: value for name, value in own.items() if value})
    labels = entry.labels or options.labels
    if labels is None and not formats_for(options)[0].in_file:
        labels = DEFAULT_LABELS
    if labels is None:
        raise DataError("no labels: name them in the description or with --labels")
    named = [parse_mask(text) for text in entry.masks]
    crs = options.crs_of()
    masks = [MaskFile(read_header(root / rule.pattern, crs=crs), rule) for rule in named]
    for rule in options.mask_rules:
        files = {f.path.parent for modality in modalities for f in modality.files}
        matching = [p for folder in files for p in folder.iterdir() if rule.matches(p.name)]
        if not matching:
            raise DataError(f"no mask like {rule.pattern}: add it, or leave --mask out")
        masks.append(MaskFile(read_header(sorted(matching)[0], crs=crs), rule))
    # labels on the command line are relative to the working folder, else to the description
    is_own = entry.labels is None and Path(labels).is_file()
    label_path = Path(labels) if is_own else listed_path(root, labels)
    return Scene(
        name=entry.name,
        folder=entry.folder,
        modalities=modalities,
        labels=read_labels(label_path, options),
        masks=masks,
        date=entry.date or date_of([entry.name]),
        split=entry.split,
    )


def _modality(root: Path, name: str, entry: ModalityEntry, options: SceneOptions) -> ModalityFiles:
    crs = _crs_text(root, entry.crs) or options.crs_of(name)
    files = [
        _with_tags(read_header(path, options.complex_mode, crs).expanded(), entry)
        for pattern in entry.files
        for path in _matching(root, pattern)
    ]
    bands = sum(file.bands for file in files)
    if entry.bands is not None and len(entry.bands) != bands:
        raise DataError(
            f"modality {name} names {len(entry.bands)} bands, its files have {bands}: correct the "
            "description"
        )
    if len({file.dtype for file in files}) > 1:
        raise DataError(
            f"the files of modality {name} differ in type: name those of each type as a modality"
        )
    # a single band is named like its modality: its file has another name in every scene
    given = entry.bands or ([name] if bands == 1 else [])
    return ModalityFiles(name, tuple(files), tuple(given))


def _matching(root: Path, pattern: str) -> list[Path]:
    """Return the paths that a file entry names: one, or all that match its glob."""
    if pattern.startswith("/vsi"):
        return [Path(pattern)]
    if not any(sign in pattern for sign in "*?["):
        return [listed_path(root, pattern)]
    folder = root / PurePosixPath(pattern).parent
    last = PurePosixPath(pattern).name
    paths = folder.iterdir() if folder.is_dir() else ()
    matching = [path for path in paths if fnmatch.fnmatch(path.name, last)]
    if not matching:
        raise DataError(f"{root} has no file like {pattern}: correct the description")
    return sorted(matching, key=lambda path: natural_key(path.name))


def _with_tags(file: RasterFile, entry: ModalityEntry) -> RasterFile:
    if entry.nodata is not None:
        file = file.with_nodata(entry.nodata)
    if entry.scale is None and entry.offset is None:
        return file
    scale = 1.0 if entry.scale is None else entry.scale
    return replace(file, scales=(scale,) * file.bands, offsets=(entry.offset or 0.0,) * file.bands)
