"""Ingest every raster of some folders by itself, and compare the store with a plain read.

The folders are source archives of other projects, whose test suites hold the odd rasters that
users have reported: unpacked copies of rasterio, rio-tiler, rioxarray, ….

    python -m benchmarks.real_files rasterio/ rio-tiler/ rioxarray/

Each file becomes an archive of one scene with labels on its own grid. The outcome is ``right`` (all
valid values are those that rasterio reads), ``warped`` (rotated, south-up or placed by control
points, and the values are those of :func:`rasterio.warp.reproject` on the same grid), ``refused``
in one line, ``traceback``, or ``wrong``. Exit status 1 if there is any of the last two.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.warp import reproject

from data_prep.foreign_errors import is_foreign
from data_prep.ingest.archive import is_raster
from data_prep.ingest.scenes import ingest_scenes
from data_prep.rasters import RasterFile, open_raster, read_header, real_values
from data_prep.schema import SceneMeta
from data_prep.store import Store
from rsdgc.errors import RsdgcError

#: Largest file, and most pixels of one, that are tried.
MOST_BYTES = 64 * 2**20
MOST_PIXELS = 3500 * 3500
CHIP_PX = 16
#: Two warps that approximate positions differently, by an eighth of a pixel at most, agree if all
#: but this share of the values is within this share of the range of the image, or within a count.
ASTRAY, TOLERANCE = 0.01, 0.02


def rasters(folder: Path) -> Iterator[Path]:
    """Yield the rasters under a folder that are not too large."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and is_raster(path.name) and path.stat().st_size <= MOST_BYTES:
            yield path


def make_archive(path: Path, header: RasterFile, work: Path) -> Path:
    """Make an archive of one scene: the file where it lies, by a link, and labels on its grid.

    The file is not copied, as others beside it may belong to it (a VRT's sources, a mask).
    """
    src = work / "src"
    src.mkdir(parents=True)
    (src / "scenes.csv").write_text(
        f'scene,modality,file,labels\ns,image,"{path.resolve()}",labels.tif\n', encoding="utf-8"
    )
    rows, cols = np.mgrid[: header.height, : header.width]
    codes = (1 + (rows // CHIP_PX + cols // CHIP_PX) % 2).astype(np.uint8)
    place = {} if header.transform.is_identity else {"transform": header.transform}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            src / "labels.tif",
            "w",
            driver="GTiff",
            count=1,
            height=header.height,
            width=header.width,
            dtype="uint8",
            crs=header.crs,
            **place,
        ) as target:
            target.write(codes, 1)
    return src / "scenes.csv"


def is_warped(header: RasterFile) -> bool:
    """Tell whether ingestion brings a file to a north-up grid."""
    t = header.transform
    return header.gcps or (header.crs is not None and bool(t.b or t.d or t.a < 0 or t.e > 0))


def plain_read(header: RasterFile) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Read all values with rasterio alone (C, H, W), and which of them are data."""
    indexes = list(header.indexes)
    with open_raster(header.path) as source:
        values, valid = source.read(indexes), source.read_masks(indexes) > 0
        table = source.colormap(1) if header.expand else {}
    if not header.expand:
        values = real_values(values, header)
        return values, valid & np.isfinite(values)
    colors = np.zeros((256, 3), np.uint8)
    for index, color in table.items():
        colors[index] = color[:3]
    opaque = np.isin(values[0], [index for index, color in table.items() if color[3]])
    return np.moveaxis(colors[values[0]], -1, 0), np.repeat(valid & opaque, 3, axis=0)


def plain_warp(
    header: RasterFile, scene: SceneMeta
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Warp all values to a scene's grid with rasterio alone (C, H, W), and mark which are data."""
    values, valid = plain_read(header)
    with open_raster(header.path) as source:
        place = {"gcps": source.gcps[0]} if header.gcps else {"src_transform": source.transform}
        raw = source.read(list(header.indexes)) if header.complex_mode else values
    place |= {
        "src_crs": header.crs,
        "dst_crs": scene.crs,
        "dst_transform": Affine(*scene.transform),
    }
    shape = (len(values), scene.height, scene.width)
    # what data and others are mixed to is neither
    shares = warped(valid.astype(np.float64), shape, Resampling.bilinear, place)
    filled = np.where(valid, raw, 0)
    method = Resampling.nearest if header.expand else Resampling.bilinear
    parts = [filled.real, filled.imag] if header.complex_mode else [filled]
    # complex numbers become amplitudes once they are warped
    moved = [warped(part.astype(np.float64), shape, method, place) for part in parts]
    return np.hypot(*moved) if len(moved) > 1 else moved[0], shares > 1 - 1e-6


def warped(
    values: NDArray[np.float64], shape: tuple[int, ...], method: Resampling, place: dict[str, Any]
) -> NDArray[np.float64]:
    """Call :func:`rasterio.warp.reproject`."""
    out = np.zeros(shape)
    reproject(values, out, resampling=method, **place)
    return out


def differing_warp(store: Store, header: RasterFile) -> str:
    """Say how a store of a warped file differs from a plain warp; empty if it does not."""
    expected, valid = plain_warp(header, store.meta.scenes[0])
    (chips,) = store.take(np.arange(len(store)))
    (masks,) = store.valid(np.arange(len(store)), [chips])
    table = store.manifest.to_pydict()
    gaps = []
    for number, (row, col) in enumerate(zip(table["row"], table["col"], strict=True)):
        window = np.s_[:, row : row + CHIP_PX, col : col + CHIP_PX]
        wanted = expected[window]
        inside = np.s_[:, : wanted.shape[1], : wanted.shape[2]]
        both = valid[window] & masks[number][inside]
        gaps.append(np.abs(chips[number][inside].astype(np.float64) - wanted)[both])
    gap = np.concatenate(gaps)
    known = expected[valid]
    if not len(gap) and not valid.any():
        return ""  # an image without data
    if len(gap) < 0.9 * valid.sum():
        return f"{len(gap)} values are data, and of a plain warp {valid.sum()}"
    allowed = max(1.0, TOLERANCE * float(np.ptp(known)))
    astray = float((gap > allowed).mean())
    if astray > ASTRAY:
        return f"{astray:.1%} of the values differ from a plain warp by more than {allowed:g}"
    return ""


def differing(store: Store, header: RasterFile) -> str:
    """Say in which chip a store differs from a plain read; empty if it does not."""
    expected, valid = plain_read(header)
    table = store.manifest.to_pydict()
    (chips,) = store.take(np.arange(len(store)))
    for number, (row, col) in enumerate(zip(table["row"], table["col"], strict=True)):
        window = np.s_[:, row : row + CHIP_PX, col : col + CHIP_PX]
        wanted = expected[window]
        # a window over the edge is filled by reflection
        got = chips[number][:, : wanted.shape[1], : wanted.shape[2]]
        if ((got != wanted) & valid[window]).any():
            return f"chip {number} at row {row}, column {col} differs"
    if Affine(*store.meta.scenes[0].transform) != header.transform:
        return "the scene lies elsewhere"
    return ""


def outcome(path: Path) -> tuple[str, str]:
    """Ingest one file; return the outcome and what was said."""
    with tempfile.TemporaryDirectory(prefix="real_files-") as folder:
        work = Path(folder)
        try:
            # a color table is replaced by its colors, as where a modality names such a file
            header = read_header(path, complex_mode="amp").expanded()
            if header.height * header.width > MOST_PIXELS:
                return "too large", f"{header.height}×{header.width} px"
            src = make_archive(path, header, work)
            store = ingest_scenes(
                src,
                work / "store",
                processes=1,
                chip_px=CHIP_PX,
                edge="pad",
                min_valid=0,
                min_label=0,
                test_share=0,
                complex_mode="amp",
            )
            notes = " | ".join(store.meta.notes)
            kind = "warped" if is_warped(header) else "right"
            fault = (differing_warp if kind == "warped" else differing)(store, header)
            return ("wrong", fault) if fault else (kind, notes)
        except RsdgcError as error:
            text = str(error)
            return ("refused", text) if "\n" not in text else ("wrong", "more than one line")
        except Exception as error:
            kind = "foreign " if is_foreign(error) else ""
            return "traceback", f"{kind}{type(error).__name__}: {error}"
        finally:
            shutil.rmtree(work, ignore_errors=True)


def main() -> None:
    """Print the counts of each folder, and what is not right."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", nargs="+", type=Path)
    parser.add_argument("--all", action="store_true", help="print every file with its outcome")
    args = parser.parse_args()
    total: Counter[str] = Counter()
    for folder in args.folder:
        counts: Counter[str] = Counter()
        for path in rasters(folder):
            kind, said = outcome(path)
            counts[kind] += 1
            if args.all or kind in ("traceback", "wrong"):
                print(f"{kind}: {path.relative_to(folder)}: {said}", flush=True)
        print(f"{folder.name}: {_line(counts)}", flush=True)
        total += counts
    print(f"all: {_line(total)}")
    sys.exit(bool(total["traceback"] or total["wrong"]))


def _line(counts: Counter[str]) -> str:
    kinds = ("right", "warped", "refused", "traceback", "wrong", "too large")
    return ", ".join(f"{counts[kind]} {kind}" for kind in kinds)


if __name__ == "__main__":
    main()
