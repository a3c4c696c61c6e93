"""Each refusal of ``rsdgc ingest`` and ``rsdgc partition``, and the remedy that its line names.

An archive is made, the command is refused, what the line says is done, and the command works.
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from typer.main import get_command
from typer.testing import CliRunner

import data_prep
from data_prep.store import Store
from fl_app.cli import app
from fl_app.settings import Settings
from rsdgc.errors import RsdgcError
from tests.data_prep.archives import (
    LEFT,
    SITE_GRID,
    TOP,
    noise,
    stripes,
    write_class_folders,
    write_polygons,
    write_tif,
)

pytestmark = pytest.mark.slow

SIZE = 32
#: Makes or mends an archive. What it returns are options, as on the command line.
Step = Callable[[Path], str | None]
Box = tuple[float, float, float, float]
HALVES: list[tuple[Box, object]] = [((0, 0, 16, 32), "a"), ((16, 0, 32, 32), "b")]


def scene(src: Path, name: str = "", seed: int = 0, dtype: str = "uint16") -> None:
    """Write a scene of three bands with labels of the classes 1 and 2; several lie apart."""
    place = {"left": LEFT + 5000 * seed}
    write_tif(src / name / "img.tif", noise((3, SIZE, SIZE), seed, dtype=dtype), **place)
    write_tif(src / name / "labels.tif", stripes(SIZE, SIZE, 8, (1, 2)), **place)


def scenes(src: Path) -> None:
    for seed, name in enumerate("ab"):
        scene(src, name, seed)


def polygons(name: str, boxes: list[tuple[Box, object]], **kind: str | None) -> Step:
    def write(src: Path) -> None:
        write_polygons(src / name, boxes, **kind)

    return write


def steps(*several: Step) -> Step:
    def make(src: Path) -> str | None:
        return [step(src) for step in several][-1]

    return make


def then(step: Step, options: str) -> Step:
    """A remedy of two parts: the archive is mended, and options are given."""

    def mend(src: Path) -> str:
        step(src)
        return options

    return mend


def removed(name: str) -> Step:
    return lambda src: (src / name).unlink()


def renamed(old: str, new: str) -> Step:
    def rename(src: Path) -> None:
        (src / new).parent.mkdir(parents=True, exist_ok=True)
        (src / old).rename(src / new)

    return rename


def raster(name: str, values: np.ndarray, **profile: object) -> Step:
    def write(src: Path) -> None:
        write_tif(src / name, values, **profile)

    return write


def text(name: str, content: str) -> Step:
    def write(src: Path) -> None:
        (src / name).write_text(content, encoding="utf-8")

    return write


def scale(src: Path) -> None:
    """Declare a scale in one scene alone."""
    with rasterio.open(src / "b" / "dem.tif", "r+") as file:
        file.scales = (0.1,)


def second_layer(src: Path) -> None:
    box = shapely.to_wkb(np.array([shapely.box(LEFT, TOP - 320, LEFT + 320, TOP)]))
    where = {"geometry_type": "Polygon", "crs": "EPSG:32633", "layer": "roads", "append": True}
    pyogrio.raw.write(src / "labels.gpkg", box, [np.array(["x"], object)], ["name"], **where)


def declare_utm34(src: Path) -> None:
    """Declare another CRS than the polygons' numbers are in."""
    info = pyogrio.raw.read(src / "labels.gpkg")
    pyogrio.raw.write(
        src / "labels.gpkg",
        info[2],
        list(info[3]),
        ["name"],
        geometry_type="Polygon",
        crs="EPSG:32634",
    )


def images(src: Path) -> None:
    write_class_folders(src, classes=2, images=3)


def paired(label_folder: str) -> Step:
    def write(src: Path) -> None:
        for seed, stem in enumerate("pq"):
            place = {"left": LEFT + 5000 * seed}
            write_tif(src / "images" / f"{stem}.tif", noise((3, SIZE, SIZE), seed), **place)
            write_tif(src / label_folder / f"{stem}.tif", stripes(SIZE, SIZE, 8, (1, 2)), **place)

    return write


ONE = """[[scene]]
name = "one"
modalities = { img = "img.tif" }
labels = "labels.tif"
"""
PAINTED = np.stack([stripes(SIZE, SIZE, 8, (0, 255)), *[np.zeros((SIZE, SIZE), "uint8")] * 2])
CODES = stripes(SIZE, SIZE, 8, (1, 2))
OTHER_CODES = then(raster("codes.tif", CODES), "--labels codes.tif --modality img=img.tif")
CLASSES = then(text("c.json", '{"1": "a", "2": "b"}'), "--classes {src}/c.json")
COLORS = '{"1": {"name": "a", "color": "#000000"}, "2": {"name": "b", "color": "255,0,0"}}'
POLYGONS = steps(scene, removed("labels.tif"), polygons("labels.gpkg", HALVES))
MIXED_BANDS = """<VRTDataset rasterXSize="32" rasterYSize="32">
<VRTRasterBand dataType="Byte" band="1"/><VRTRasterBand dataType="Int16" band="2"/></VRTDataset>"""

#: Archive, options, what the line says, and remedies: options, or steps that may return them.
REFUSED: dict[str, tuple[Step, str, str, list[str | Step]]] = {
    "a CRS that is none": (scene, "--crs UTM33", "as EPSG:32633", ["--crs EPSG:32633"]),
    "a label CRS that is none": (
        scene,
        "--label-crs gone.prj",
        "write --crs or --label-crs as EPSG",
        ["--label-crs 32633"],
    ),
    "a CRS without a geotransform": (
        steps(scene, raster("img.tif", noise((3, SIZE, SIZE)), crs=None)),
        "--crs EPSG:32633",
        "or leave out --crs",
        ["", steps(text("img.tfw", "10\n0\n0\n-10\n500005\n4999995\n"), lambda _: "--crs 32633")],
    ),
    "an unknown class list": (scene, "--classes gone.json", "correct --classes", [CLASSES]),
    "a class list of nothing": (
        steps(scene, text("classes.json", "{}")),
        "",
        "name at least one class",
        [CLASSES],
    ),
    "a class list of one name": (
        steps(scene, text("classes.json", '{"1": "a", "2": "a"}')),
        "",
        "give each code its own",
        [CLASSES],
    ),
    "a class list of one color": (
        steps(scene, text("classes.json", COLORS.replace("255,0,0", "0,0,0"))),
        "",
        "give each class its own",
        [text("classes.json", COLORS)],
    ),
    "a label that no class has": (
        steps(scene, text("classes.json", '{"1": "a"}')),
        "",
        "add it to --classes, mark it with --label-nodata, or use --unknown ignore",
        ["--label-nodata 2", "--unknown ignore", CLASSES],
    ),
    "fractions as labels": (
        steps(scene, raster("labels.tif", np.where(CODES == 1, 0.5, 2.0))),
        "",
        "choose another file with --labels, or mark the value with --label-nodata",
        ["--label-nodata 0.5", OTHER_CODES],
    ),
    "labels beyond 63 bits": (
        steps(scene, raster("labels.tif", np.where(CODES == 1, np.uint64(2**64 - 1), 2))),
        "",
        f"mark it with --label-nodata {2**64 - 1}",
        [f"--label-nodata {2**64 - 1}"],
    ),
    "labels of four bands": (
        steps(scene, raster("labels.tif", noise((4, SIZE, SIZE)))),
        "",
        "choose another file with --labels",
        [OTHER_CODES],
    ),
    "colors without classes": (
        steps(scene, raster("labels.tif", PAINTED)),
        "",
        "give each class its color in the file of --classes",
        [
            "--remap 'a=#000000' --remap 'b=#ff0000'",
            then(text("c.json", COLORS), "--classes {src}/c.json"),
        ],
    ),
    "colors that no class has": (
        steps(scene, raster("labels.tif", PAINTED)),
        "--remap 'b=#ff0000'",
        "mark them with --label-nodata '#000000', or use --unknown ignore",
        [
            "--remap 'b=#ff0000' --label-nodata '#000000'",
            "--remap 'b=#ff0000' --unknown ignore",
            "--remap 'b=#ff0000' --remap 'a=#000000'",
        ],
    ),
    "codes that no remapping names": (
        scene,
        "--remap a=1",
        "--remap, mark them with --label-nodata '2', or use --unknown ignore",
        ["--remap a=1 --remap b=2", "--remap a=1 --label-nodata 2", "--remap a=1 --unknown ignore"],
    ),
    "a remapping to no class of the list": (
        steps(scene, text("classes.json", '{"1": "a", "2": "b"}')),
        "--remap c=1,2",
        "choose one of them, or add it to --classes",
        ["--remap a=1 --remap b=2"],
    ),
    "a remapping in two ways": (
        scene,
        "--remap a=1,2 --remap b=2",
        "choose one",
        ["--remap a=1-2"],
    ),
    "a range from high to low": (scene, "--remap a=2-1", "smaller code first", ["--remap a=1-2"]),
    "a remapping without values": (scene, "--remap a=", "write water=11,12", ["--remap a=1,2"]),
    "a remapping of no file": (
        scene,
        "--remap legend.csv",
        "columns value and class",
        [then(text("legend.csv", "value,class\n1,a\n2,b\n"), "--remap {src}/legend.csv")],
    ),
    "polygons without a column": (
        POLYGONS,
        "",
        "name the column of the class, --label-column",
        ["--label-column name"],
    ),
    "a column that is not there": (
        POLYGONS,
        "--label-column class",
        "choose a --label-column from name",
        ["--label-column name"],
    ),
    "a column without classes": (
        steps(scene, removed("labels.tif"), polygons("labels.gpkg", [(HALVES[0][0], "")])),
        "--label-column name",
        "choose another --label-column",
        [then(polygons("labels.gpkg", HALVES, column="class"), "--label-column class")],
    ),
    "several layers": (
        steps(POLYGONS, second_layer),
        "--label-column name",
        "choose one with --label-layer",
        ["--label-column name --label-layer roads"],
    ),
    "a layer that is not there": (
        steps(POLYGONS, second_layer),
        "--label-column name --label-layer rivers",
        "choose a --label-layer from labels, roads",
        ["--label-column name --label-layer labels"],
    ),
    "polygons of classes that no list has": (
        steps(POLYGONS, text("classes.json", '{"1": "a"}')),
        "--label-column name",
        "add it to --classes, or use --unknown ignore",
        [
            "--label-column name --unknown ignore",
            then(CLASSES, "--label-column name --classes {src}/c.json"),
        ],
    ),
    "polygons that no remapping names": (
        POLYGONS,
        "--label-column name --remap x=a",
        "add it there, or use --unknown ignore",
        [
            "--label-column name --remap x=a --remap y=b",
            "--label-column name --remap x=a --unknown ignore",
        ],
    ),
    "polygons without a CRS": (
        steps(scene, removed("labels.tif"), polygons("labels.fgb", HALVES, crs=None)),
        "--label-column name",
        "name it with --label-crs",
        ["--label-column name --label-crs EPSG:32633"],
    ),
    "polygons elsewhere": (
        steps(
            scene,
            removed("labels.tif"),
            polygons("labels.gpkg", HALVES, crs="EPSG:4326"),
            declare_utm34,
        ),
        "--label-column name",
        "check its position and CRS .--crs, --label-crs",
        ["--label-column name --label-crs EPSG:4326"],
    ),
    "an area without a CRS": (
        steps(scene, polygons("aoi.fgb", HALVES, crs=None)),
        "--aoi {src}/aoi.fgb",
        "write it with a CRS, as with ogr2ogr",
        [then(polygons("aoi.fgb", HALVES), "--aoi {src}/aoi.fgb")],
    ),
    "a priority of no class": (
        POLYGONS,
        "--label-column name --priority c",
        "choose from a, b",
        ["--label-column name --priority b"],
    ),
    "no labels": (
        steps(scene, renamed("labels.tif", "cover.tif")),
        "",
        "name the label raster with --labels FILE",
        ["--labels cover.tif", "--labels {src}/cover.tif"],
    ),
    "labels of several years": (
        steps(scene, raster("labels_2018.tif", CODES), renamed("labels.tif", "labels_2021.tif")),
        "",
        "choose one with --label-year",
        ["--label-year 2021"],
    ),
    "labels of another year": (
        steps(scene, renamed("labels.tif", "labels_2018.tif")),
        "--label-year 2021",
        "choose a --label-year of 2018",
        ["--label-year 2018"],
    ),
    "labels of no year": (scene, "--label-year 2021", "leave --label-year out", [""]),
    "labels of the year of no date": (
        steps(scene, renamed("labels.tif", "cover2018.tif")),
        "--labels 'cover{year}.tif'",
        "name it with --label-year",
        ["--labels 'cover{year}.tif' --label-year 2018"],
    ),
    "labels that several files match": (
        steps(scene, raster("truth_a.tif", CODES), raster("truth_b.tif", CODES)),
        "--labels 'truth_*.tif'",
        "make --labels match one",
        ["--labels 'truth_a*.tif' --modality img=img.tif"],
    ),
    "labels of several formats": (
        steps(scenes, removed("b/labels.tif"), polygons("b/labels.gpkg", [((500, 0, 532, 32), 1)])),
        "--label-column name",
        "give a class list with --classes",
        [then(CLASSES, "--label-column name --classes {src}/c.json")],
    ),
    "codes that a warp does not keep": (
        steps(scene, raster("labels.tif", CODES.astype("int64") * 2**60, left=LEFT + 3)),
        "",
        "bring the labels to the images' grid",
        [raster("labels.tif", CODES.astype("int64") * 2**60), raster("labels.tif", CODES)],
    ),
    "scenes of several modalities": (
        steps(scenes, raster("a/dem.tif", noise((SIZE, SIZE)))),
        "",
        "choose modalities with --modality NAME=GLOB",
        ["--modality img=img.tif"],
    ),
    "scenes of several types": (
        steps(
            scenes,
            raster("a/dem.tif", CODES),
            raster("b/dem.tif", CODES.astype("int16"), left=LEFT + 5000),
        ),
        "",
        "write them in one type, as with rio convert --dtype, leave it out with --modality",
        [raster("a/dem.tif", CODES.astype("int16")), "--modality img=img.tif"],
    ),
    "scenes of several scales": (
        steps(
            scenes, raster("a/dem.tif", CODES), raster("b/dem.tif", CODES, left=LEFT + 5000), scale
        ),
        "",
        "leave it out with --modality NAME=GLOB",
        ["--modality img=img.tif"],
    ),
    "an unknown modality's nodata": (
        scene,
        "--nodata dem=0",
        "choose from the modalities, img",
        ["--nodata img=0"],
    ),
    "a nodata value beyond the type": (
        scene,
        "--nodata img=-9999",
        "give a value that they hold",
        ["--nodata img=0", ""],
    ),
    "an unknown modality's CRS": (
        scene,
        "--crs dem=EPSG:32633",
        "choose from the modalities, img",
        ["--crs img=EPSG:32633"],
    ),
    "two CRSs for all": (
        scene,
        "--crs EPSG:32633 --crs EPSG:4326",
        "choose one, or name the modality",
        ["--crs EPSG:32633", "--crs img=EPSG:32633 --crs EPSG:32633"],
    ),
    "a mask that is not there": (
        scene,
        "--mask 'clouds=1'",
        "add it, or leave --mask out",
        ["", then(raster("clouds.tif", CODES - 1), "--mask 'clouds=1' --min-valid 0")],
    ),
    "bits of fractions": (
        steps(scene, raster("clouds.tif", np.full((SIZE, SIZE), 0.5, "float32"))),
        "--mask clouds=bits:1",
        "name its values, as in --mask clouds=1",
        ["--mask clouds=1"],
    ),
    "a mask without values": (
        steps(scene, raster("clouds.tif", CODES)),
        "--mask clouds",
        "write \\*_SCL=3,8,9",
        ["--mask clouds=3"],
    ),
    "a bit that is none": (
        steps(scene, raster("clouds.tif", CODES)),
        "--mask clouds=bits:63",
        "bits are numbered from 0 to 62",
        ["--mask clouds=bits:4"],
    ),
    "a modality without files": (
        scene,
        "--modality dem=srtm*.tif",
        "correct --modality, or leave it out",
        ["", "--modality dem=im*.tif"],
    ),
    "a modality without a glob": (scene, "--modality dem", "dem=srtm", ["--modality dem=img.*"]),
    "a modality in two globs": (
        scene,
        "--modality m=img.tif --modality m=i*.tif",
        "write one glob for all its files",
        ["--modality m='im*.tif'"],
    ),
    "a modality of two types": (
        steps(scene, raster("imh.tif", CODES)),
        "--modality 'm=im*.tif'",
        "with a --modality of its own",
        ["--modality m=img.tif --modality n=imh.tif"],
    ),
    "complex values": (
        steps(scene, raster("sar.tif", np.ones((1, SIZE, SIZE), "complex64"))),
        "",
        "choose --complex amp or --complex db",
        ["--complex amp", "--complex db"],
    ),
    "a file that GDAL does not know": (
        steps(scene, text("dem.tif", "x")),
        "",
        "convert it to GeoTIFF .*, or remove it",
        [removed("dem.tif")],
    ),
    "an image of another suffix": (
        steps(scene, removed("img.tif"), raster("cube.dat", noise((3, SIZE, SIZE)), driver="ENVI")),
        "",
        "--modality 'image=\\*.dat'",
        ["--modality 'image=*.dat'"],
    ),
    "labels that no CRS places": (
        steps(scene, raster("labels.tif", stripes(40, 40, 8, (1, 2)), crs=SITE_GRID)),
        "",
        "name its CRS with --label-crs",
        ["--label-crs EPSG:32633"],
    ),
    "labels without a position": (
        steps(scene, raster("labels.tif", stripes(40, 40, 8, (1, 2)), crs=None)),
        "",
        "give it both, as with rio edit-info --crs --transform",
        [raster("labels.tif", stripes(40, 40, 8, (1, 2)))],
    ),
    "labels elsewhere": (
        steps(scene, raster("labels.tif", CODES, crs="EPSG:32733")),
        "",
        "CRS .--crs, --label-crs",
        ["--label-crs EPSG:32633"],
    ),
    "a scene smaller than a chip": (scene, "--chip 40", "--edge pad", ["--chip 40 --edge pad"]),
    "windows without enough data": (
        steps(scene, raster("img.tif", np.tile([[0, 0, 0, 7]], (3, SIZE, 8)).astype("uint8"))),
        "--nodata 0",
        "lack data, see --min-valid and --nodata",
        ["--nodata 0 --min-valid 0.2", ""],
    ),
    "windows without enough labels": (
        steps(
            scene, raster("labels.tif", np.tile([0, 0, 0, 7], (SIZE, 8)).astype("uint8"), nodata=0)
        ),
        "",
        "lack labels, see --min-label",
        ["--min-label 0.2"],
    ),
    "shares without a rest": (scene, "--test 0.6 --val 0.4", "a sum below 1", ["--val 0.4"]),
    "dates that scenes lack": (scenes, "--split-by date", "use another --split-by", [""]),
    "splits that scenes lack": (
        scenes,
        "--split-by given",
        "in folders train and test, or use another --split-by",
        [
            "--split-by scene",
            steps(renamed("a", "train/a"), renamed("b", "test/b"), lambda _: "--split-by given"),
        ],
    ),
    "a single scene to split": (scene, "--split-by scene", "use --split-by blocks", [""]),
    "an even patch": (scene, "--patch 4", "choose an odd number such as 3", ["--patch 3"]),
    "a patch beyond the scene": (scene, "--patch 99", "choose a smaller --patch", ["--patch 9"]),
    "a split that patches do not have": (
        scenes,
        "--patch 3 --split-by date",
        "leave it out, or use given",
        ["--patch 3"],
    ),
    "a strict ingestion": (
        steps(scenes, text("b/img.tif", "x")),
        "--strict",
        "--strict: nothing is skipped",
        ["", then(removed("b/img.tif"), "")],
    ),
    "two folders of labels": (
        steps(paired("masks"), paired("labels")),
        "",
        "choose one with --labels masks",
        ["--labels masks"],
    ),
    "a pair without labels": (
        steps(paired("masks"), removed("masks/p.tif")),
        "--strict",
        "add its labels",
        [then(paired("masks"), "--strict")],
    ),
    "pairs without a mask": (paired("masks"), "--mask 'clouds*=1'", "leave --mask out", [""]),
    "pairs that no glob names": (
        paired("masks"),
        "--modality 'image=photos/*'",
        "correct the GLOB",
        ["--modality 'image=images/*'"],
    ),
    "metadata that are none": (
        steps(scene, text("MTD_MSIL2A.xml", "<a/>")),
        "",
        "correct or remove it",
        [removed("MTD_MSIL2A.xml")],
    ),
    "a note that is none": (
        steps(scene, text("archive.json", "[]")),
        "",
        "correct or remove it",
        [removed("archive.json")],
    ),
    "bands of several types": (
        steps(scene, text("dem.vrt", MIXED_BANDS)),
        "",
        "write them in one type",
        [text("dem.vrt", MIXED_BANDS.replace("Int16", "Byte"))],
    ),
    "images of another layout": (
        images,
        "",
        "use --layout class-folders",
        ["--layout class-folders"],
    ),
    "an option of scenes": (
        images,
        "--layout class-folders --stride 4",
        "leave it out",
        ["--layout class-folders"],
    ),
    "images of a class that no list has": (
        steps(images, text("c.json", '{"1": "class-0"}')),
        "--layout class-folders --classes {src}/c.json",
        "leave it out with --unknown ignore",
        [
            "--layout class-folders --classes {src}/c.json --unknown ignore",
            then(
                text("c.json", '{"1": "class-0", "2": "class-1"}'),
                "--layout class-folders --classes {src}/c.json",
            ),
        ],
    ),
}

#: A description that is refused, what the line says, and a mended one.
DESCRIBED: dict[str, tuple[str, str, str]] = {
    "a scene twice": (ONE * 2, "give each scene its own name", ONE),
    "a key that is none": ("label = 1\n" + ONE, "correct the description", ONE),
    "other files": (
        ONE.replace("img.tif", "b*.tif"),
        "correct the description",
        ONE.replace("img.tif", "i*.tif"),
    ),
    "no labels": (
        ONE.partition("labels")[0],
        "name them in the description or with --labels",
        'labels = "labels.tif"\n' + ONE.partition("labels")[0],
    ),
    "too few bands": (
        ONE.replace('"img.tif"', '{ files = ["img.tif"], bands = ["x"] }'),
        "correct the description",
        ONE.replace('"img.tif"', '{ files = ["img.tif"], bands = ["x", "y", "z"] }'),
    ),
    "codes that are none": (
        'classes = { one = "a" }\n' + ONE,
        "correct the description",
        'classes = { 1 = "a", 2 = "b" }\n' + ONE,
    ),
    "a mask that is none": (
        'masks = ["clouds"]\n' + ONE,
        "write *_SCL=3,8,9",
        'masks = ["dem=3"]\n' + ONE,
    ),
    "files of several types": (
        ONE.replace('"img.tif"', '["img.tif", "dem.tif"]'),
        "name those of each type as a modality",
        ONE.replace('"img.tif"', '"img.tif", dem = "dem.tif"'),
    ),
}

#: Rows of a list of images, what the line says, and mended ones.
LISTED: dict[str, tuple[str, str, str]] = {
    "no column of labels": ("file\n0.tif\n", "correct the list", "file,label\n0.tif,a\n1.tif,b\n"),
    "an empty label": ("file,label\n0.tif,\n", "fill it in", "file,label\n0.tif,a\n1.tif,b\n"),
    "an unknown split": (
        "file,label,split\n0.tif,a,dev\n",
        "correct the list",
        "file,label,split\n0.tif,a,train\n1.tif,b,test\n",
    ),
    "splits of a part": (
        "file,label,split\n0.tif,a,train\n1.tif,b,\n",
        "fill in the column split",
        "file,label,split\n0.tif,a,train\n1.tif,b,test\n",
    ),
}

#: Options of a partition that are refused, what the line says, and what it names.
PARTITIONS: dict[str, tuple[str, str, list[str]]] = {
    "no number": ("--scheme iid", "set --sites", ["--scheme iid --sites 2"]),
    "an alpha of 0": (
        "--scheme dirichlet --sites 2 --alpha 0",
        "choose a number above 0",
        ["--scheme dirichlet --sites 2 --alpha 5"],
    ),
    "too many sites": (
        "--scheme dirichlet --sites 99",
        "choose a smaller --sites",
        ["--scheme dirichlet --sites 2 --alpha 5"],
    ),
    "too few classes": (
        "--scheme classes --sites 2 --classes-per-site 1",
        "choose --classes-per-site 2 or more, or a larger --sites",
        [
            "--scheme classes --sites 2 --classes-per-site 2",
            "--scheme classes --sites 3 --classes-per-site 1",
        ],
    ),
    "more classes than there are": (
        "--scheme classes --sites 2 --classes-per-site 9",
        "choose from 1 to the 3 classes",
        ["--scheme classes --sites 2 --classes-per-site 3"],
    ),
    "more sites than scenes": (
        "--scheme scene --sites 9",
        "choose --sites 4 or less, or --scheme block",
        ["--scheme scene --sites 4", "--scheme block --sites 9"],
    ),
    "other sites than folders": (
        "--scheme folder --sites 3",
        "leave out --sites, or choose another --scheme",
        ["--scheme folder", "--scheme block --sites 3"],
    ),
    "an unknown site": (
        "--scheme iid --sites 2 --without site-9=optical",
        "the sites are site-00, site-01",
        ["--scheme iid --sites 2"],
    ),
    "a site without modalities": (
        "--scheme iid --sites 2 --without site-00=optical",
        "name fewer of them",
        ["--scheme iid --sites 2"],
    ),
}


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, RsdgcError):
        return 2, str(result.exception)
    assert result.exception is None, result.exception
    return result.exit_code, ""


def ingest(src: Path, out: Path, options: str) -> tuple[int, str]:
    common = ["--buffer", "0", "--chip", "8"] if "class-folders" not in options else []
    given = shlex.split(options.replace("{src}", str(src)))
    words = [*common, "--test", "0", "--processes", "1", *given]
    return run("ingest", src, *words, "--out", out)


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
@pytest.mark.parametrize("case", REFUSED)
def test_what_a_line_names_helps(tmp_path: Path, case: str) -> None:
    make, options, line, remedies = REFUSED[case]
    for number, remedy in enumerate(remedies):
        src, out = tmp_path / f"src{number}", tmp_path / f"out{number}"
        src.mkdir()
        make(src)
        code, message = ingest(src, out, options)
        assert code == 2
        assert re.search(line, message), message
        assert "\n" not in message
        assert not out.exists()
        mended = remedy if isinstance(remedy, str) else remedy(src) or ""
        assert ingest(src, out, mended) == (0, "")


@pytest.mark.parametrize("case", DESCRIBED)
def test_what_is_wrong_in_a_description_is_mended_there(tmp_path: Path, case: str) -> None:
    refused, line, mended = DESCRIBED[case]
    scene(tmp_path)
    write_tif(tmp_path / "dem.tif", CODES)
    description, out = tmp_path / "scenes.toml", tmp_path / "out"
    description.write_text(refused)
    code, message = ingest(description, out, "")
    assert code == 2
    assert line in message
    description.write_text(mended)
    assert ingest(description, out, "") == (0, "")


@pytest.mark.parametrize("case", LISTED)
def test_what_is_wrong_in_a_list_is_mended_there(tmp_path: Path, case: str) -> None:
    refused, line, mended = LISTED[case]
    for number in range(2):
        image = noise((3, 8, 8), number, 0, 255, "uint8")
        write_tif(tmp_path / f"{number}.tif", image, crs=None)
    table, out = tmp_path / "list.csv", tmp_path / "out"
    table.write_text(refused)
    code, message = ingest(table, out, "--layout class-folders")
    assert code == 2
    assert line in message
    table.write_text(mended)
    assert ingest(table, out, "--layout class-folders") == (0, "")


@pytest.mark.parametrize("case", PARTITIONS)
def test_what_a_partition_lacks_is_named(tmp_path: Path, scenes_store: Store, case: str) -> None:
    refused, line, remedies = PARTITIONS[case]
    words = ["partition", scenes_store.path, "--out"]
    code, message = run(*words, tmp_path / "no", *shlex.split(refused))
    assert code == 2
    assert line in message
    for number, remedy in enumerate(remedies):
        assert run(*words, tmp_path / str(number), *shlex.split(remedy)) == (0, "")


def test_an_alpha_that_is_named_is_feasible(tmp_path: Path, scenes_store: Store) -> None:
    words = ["partition", scenes_store.path, "--scheme", "dirichlet", "--sites", "12", "--out"]
    code, message = run(*words, tmp_path / "no", "--alpha", "0.01")
    assert code == 2
    match = re.search(r"choose --alpha ([\d.e+-]+) or more", message)
    assert match, message
    assert run(*words, tmp_path / "data", "--alpha", match[1]) == (0, "")


def test_what_is_there_already_is_replaced_or_left(tmp_path: Path) -> None:
    src, out = tmp_path / "src", tmp_path / "out"
    scene(src)
    assert ingest(src, out, "") == (0, "")
    code, message = ingest(src, out, "--seed 1")
    assert (code, "choose another output folder, or replace the store with --force" in message) == (
        2,
        True,
    )
    assert ingest(src, tmp_path / "other", "--seed 1") == (0, "")
    assert ingest(src, out, "--seed 1 --force") == (0, "")
    # an archive is never replaced, and the option is not offered
    code, message = run("synth", out, "--sites", "1")
    assert (code, message) == (2, f"{out} is not empty: choose another output folder")


def test_an_ingestion_may_begin_without_room_for_every_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = tmp_path / "src"
    scene(src)
    full = shutil.disk_usage(tmp_path)._replace(free=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    code, message = ingest(src, tmp_path / "out", "")
    assert (code, "or try with --no-check-space" in message) == (2, True)
    assert ingest(src, tmp_path / "out", "--no-check-space") == (0, "")


ROOT = Path(data_prep.__file__).parent
#: Modules with messages; style sheets have names such as --page.
SOURCES = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if path.parent.name != "pictures" and path.name != "data_page_template.py"
]
ERRORS = ("DataError", "SettingError", "RunError", "UnknownLabelError")
#: Commands that can raise the errors of a module; of others, every command that reads data.
COMMANDS = {"ingest": ("ingest", "predict"), "synth": ("synth",), "partition.py": ("partition",)}
#: Options of other programs, each named with it.
OF_OTHERS = re.compile(r"(?:rio [\w-]+|gdal\w+|ogr2ogr)(?: --?[\w-]+(?: EPSG:\d+)?)+")
#: Errors that only a caller in Python, or a defect, can cause; and reasons that have a remedy.
WITHOUT = (
    "this is a defect",
    "is not one of {}",
    "bands of {} are named alike",
    "has two files {}",
    "chips have {} labels",
    "chip {} is not in",
)
OF_ANOTHER = re.compile(r"(reason|error|remedy|_REMEDY|seen|hint|_ONE_\w+|kept_out)", re.IGNORECASE)


def raised(path: Path) -> list[str]:
    """Texts of the errors that a module raises, with {} for what is put in."""
    return [
        text_of(node.args[0])
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ERRORS and node.args
    ]


def text_of(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text_of, node.values))
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    source = ast.unparse(node)
    return "{remedy}" if OF_ANOTHER.search(source) or "(" in source[:20] else "{}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_error_ends_with_a_remedy(path: Path) -> None:
    for text in raised(path):
        end = re.split(r"[:;] ", text)[-1] if re.search(r"[:;] ", text) else ""
        has_remedy = "{remedy}" in text or len(re.findall(r"[a-z]{2,}", end)) > 1
        assert has_remedy or any(known in text for known in WITHOUT), text


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_option_and_setting_in_a_message_exists(path: Path) -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    known = {
        name: {text for p in command.params for text in (*p.opts, *p.secondary_opts)}
        for name, command in commands.items()
    }
    places = [place for place in path.relative_to(ROOT).parts if place in COMMANDS]
    own = COMMANDS[places[0]] if places else ("ingest", "partition", "inspect", "predict")
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    documented = (ast.Module, ast.FunctionDef, ast.ClassDef)
    docs = {ast.get_docstring(n, clean=False) for n in nodes if isinstance(n, documented)}
    texts = {str(node.value) for node in nodes if isinstance(node, ast.Constant)} - docs
    for text in texts:
        # what has to be done beforehand, with another command, is named with it
        beforehand = "ingest with" in text or "ingest all with" in text
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", OF_OTHERS.sub("", text)):
            allowed = (*own, "ingest") if beforehand else own
            assert any(option in known[command] for command in allowed), (option, text)
        for setting in re.findall(r"train with ([\w-]+)=", text):
            assert setting.replace("-", "_") in Settings.model_fields, text
