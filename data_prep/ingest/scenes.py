"""Ingestion of scenes: rasters in a folder and a label raster, to a store of chips or pixels.

See :func:`ingest_scenes`. What makes a scene is in :mod:`data_prep.ingest.discovery`, how layers
are brought on one grid in :mod:`data_prep.ingest.grid`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.ingest.archive import is_synthetic
from data_prep.ingest.chips import ChipRules, cut_scene
from data_prep.ingest.classes import ClassList, UnknownLabelError, read_classes
from data_prep.ingest.discovery import Scene, find_scenes
from data_prep.ingest.finish import SplitRules, finish_chips, finish_pixels
from data_prep.ingest.grid import Grid, check_alignable, grid_of
from data_prep.ingest.layers import Nodata, SceneReader, agree_modalities, alignment_notes
from data_prep.ingest.pixels import PixelScene, check_patch, write_scene
from data_prep.progress import Callback, reporting
from data_prep.schema import ModalityMeta, SceneMeta, Skipped
from data_prep.staging import check_free, staged_folder
from data_prep.store import Store
from data_prep.writer import StoreWriter
from rsdgc.errors import DataError

if TYPE_CHECKING:
    import os

    from data_prep.manifest import Columns


@dataclass
class Intake:
    """What has come in so far, over all scenes."""

    classes: ClassList
    modalities: list[ModalityMeta]
    nodata: Nodata
    columns: list[Columns] = field(default_factory=list)
    pixels: list[PixelScene] = field(default_factory=list)
    scenes: list[SceneMeta] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, int] = field(default_factory=lambda: {"no_data": 0, "no_label": 0})

    def left(self, no_data: int, no_label: int) -> None:
        """Count windows that were left out."""
        self.left_out["no_data"] += no_data
        self.left_out["no_label"] += no_label


#: Reads one scene into the writer and the intake.
Reader = Callable[[SceneReader, StoreWriter, Intake], None]


def ingest_scenes(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    labels: str | None = None,
    layers: Sequence[str] | None = None,
    classes: str | Path | Mapping[int, str] | None = None,
    chip_px: int = 64,
    stride_px: int | None = None,
    patch_px: int | None = None,
    buffer_px: int | None = None,
    block_px: int | None = None,
    test_share: float = 0.2,
    val_share: float = 0.0,
    seed: int = 0,
    nodata: Nodata = None,
    min_valid: float = 0.5,
    min_label: float = 0.5,
    strict: bool = False,
    name: str | None = None,
    synthetic: bool | None = None,
    overwrite: bool = False,
    progress: Callback | None = None,
) -> Store:
    """Make a store from an archive of scenes with label rasters.

    Parameters
    ----------
    src, out
        The archive's folder, which is only read, and the store to make. The store appears whole
        at the end, or not at all.
    labels
        Name of the label raster in each scene folder, or the path of one for all scenes; default
        ``labels.tif``.
    layers
        ``name=glob`` for each modality, matched against the file names of a scene folder, instead
        of grouping by names.
    classes
        Class codes and names, or the path of a JSON file of them; default ``classes.json`` in
        ``src``, else the category names of the label raster. A given list is closed: other codes
        are an error, and code 0, if the list does not have it, means unlabelled.
    chip_px, stride_px
        Side of a chip and step from one to the next (default: the side). Windows over the edge
        are dropped.
    patch_px
        Pixel mode: a sample is a labelled pixel with the patch of this odd side round it.
    buffer_px
        Least gap between chips of different splits; default half a chip, which sets aside one
        ring of chips round each test block. In pixel mode the distance that pixels of different
        splits must exceed: at least the patch radius, which is the default.
    block_px
        Side of the blocks that are split; default: the best of several. Not for pixel mode, where
        whole fields are split.
    test_share, val_share, seed
        Shares of the samples, and the seed of the choice.
    nodata
        Value (or value by layer) that marks invalid pixels, over what the files declare.
    min_valid, min_label
        Least share of a chip's pixels that are valid in all bands, and that have a label.
    strict
        Fail at the first scene that cannot be used, instead of listing it in ``meta.json``.
    name, synthetic
        Name of the data in reports (default: the folder's), and whether it is synthetic
        (default: what ``archive.json`` says).
    overwrite
        Replace an existing store at ``out``.
    progress
        Called with what is done, how many scenes are done, and of how many.

    Returns
    -------
    Store
        The new store; ``store.meta.skipped`` lists what was left out.

    Raises
    ------
    DataError
        No scene can be used, scenes differ in their layers, or a label is not in the class list.
    SettingError
        A setting is out of range.
    """
    src = Path(src)
    split = SplitRules(test_share, val_share, seed, buffer_px, block_px)
    split.check()
    rules = ChipRules(chip_px, chip_px if stride_px is None else stride_px, min_valid, min_label)
    if patch_px is not None:
        check_patch(patch_px)
    check_free(Path(out).absolute(), overwrite=overwrite)
    scenes, skipped = find_scenes(src, labels, layers)
    _stop_if_strict(strict, skipped)
    class_list = read_classes(src, classes, scenes[0].labels.path, pixels=patch_px is not None)
    intake = Intake(class_list, agree_modalities(scenes, nodata), nodata, skipped=skipped)
    about = {
        "name": name or src.resolve().name,
        "source": f"{len(scenes)} scene(s) of {src.resolve().name}",
        "synthetic": is_synthetic(src) if synthetic is None else synthetic,
    }
    read = _read_chips(rules) if patch_px is None else _read_pixels(patch_px)
    with staged_folder(out, overwrite=overwrite) as folder:
        side = chip_px if patch_px is None else None
        writer = StoreWriter(folder, intake.modalities, side)
        try:
            _read_all(scenes, writer, intake, read, strict, progress)
        finally:
            writer.abandon()
        about |= _records(intake)
        if patch_px is None:
            finish_chips(writer, intake.columns, class_list, rules, split, about)
        else:
            finish_pixels(writer, intake.pixels, class_list, patch_px, split, about)
    return Store.open(out)


def _stop_if_strict(strict: bool, skipped: list[Skipped]) -> None:
    refused = [item for item in skipped if item.refused]
    if strict and refused:
        raise DataError(f"{refused[0].path}: {refused[0].reason} (strict: nothing is skipped)")


def _records(intake: Intake) -> dict[str, Any]:
    return {
        "scenes": intake.scenes,
        "skipped": intake.skipped,
        "notes": [f"{note} ({count} scene(s))" for note, count in intake.notes.items()],
        "left_out": intake.left_out,
    }


def _read_all(
    scenes: list[Scene],
    writer: StoreWriter,
    intake: Intake,
    read: Reader,
    strict: bool,
    progress: Callback | None,
) -> None:
    """Read every scene; what a broken one has given is taken back."""
    with reporting(progress) as report:
        for done, scene in enumerate(scenes):
            report(scene.name, done, len(scenes))
            before, kept = writer.rows, len(intake.columns)
            try:
                _read_scene(scene, writer, intake, read)
            except UnknownLabelError:
                raise
            except DataError as error:
                writer.roll_back(before)
                del intake.columns[kept:]
                intake.skipped.append(Skipped(path=scene.name, reason=str(error)))
                _stop_if_strict(strict, intake.skipped)
        report("done", len(scenes), len(scenes))
    if not intake.scenes:
        reasons = [item for item in intake.skipped if item.refused]
        raise DataError(f"no scene can be used: {reasons[0].path}: {reasons[0].reason}")


def _read_scene(scene: Scene, writer: StoreWriter, intake: Intake, read: Reader) -> None:
    grid = grid_of(scene.reference)
    for file in [f for layer in scene.layers for f in layer.files] + [scene.labels]:
        check_alignable(file, grid)
    with ExitStack() as stack:
        reader = SceneReader(stack, scene, grid, intake.modalities, intake.nodata)
        read(reader, writer, intake)
    intake.scenes.append(_scene_meta(scene, grid))
    intake.notes.update(alignment_notes(scene, grid))


def _scene_meta(scene: Scene, grid: Grid) -> SceneMeta:
    t = grid.transform
    return SceneMeta(
        name=scene.name,
        folder=scene.folder,
        height=grid.height,
        width=grid.width,
        transform=(t.a, t.b, t.c, t.d, t.e, t.f),
        crs=grid.crs_text,
    )


def _read_chips(rules: ChipRules) -> Reader:
    def read(reader: SceneReader, writer: StoreWriter, intake: Intake) -> None:
        before = writer.rows
        left: list[tuple[int, int]] = []
        for row in cut_scene(reader, rules, intake.classes):
            left.append((row.no_data, row.no_label))
            if len(row.columns["label"]):
                writer.append(row.arrays)
                intake.columns.append(row.columns)
        if writer.rows == before:
            why = "no window has enough valid and labelled pixels" if left else "too small"
            grid = reader.grid
            raise DataError(
                f"no chip of {rules.chip_px} px in {grid.height}×{grid.width} px: {why}"
            )
        intake.left(sum(a for a, _ in left), sum(b for _, b in left))

    return read


def _read_pixels(patch_px: int) -> Reader:
    def read(reader: SceneReader, writer: StoreWriter, intake: Intake) -> None:
        scene = write_scene(reader, writer, patch_px, intake.classes)
        twin = [other for other in intake.pixels if other.digest == scene.digest]
        if twin:
            raise DataError(f"the same pixels as scene {twin[0].scene.name}")
        if not scene.usable.any():
            raise DataError("no pixel is labelled and valid")
        intake.pixels.append(scene)

    return read
