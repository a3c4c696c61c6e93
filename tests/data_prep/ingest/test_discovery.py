"""Archives as sensors and colleagues leave them: names, folders, masks, descriptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

from data_prep.ingest.scenes import ingest_scenes
from data_prep.ingest.sensors import date_of, modality_name, split_band
from data_prep.manifest import column
from data_prep.store import Store
from rsdgc.errors import DataError, SettingError
from tests.data_prep.archives import LEFT, TOP, UTM, noise, stripes, write_polygons, write_tif

RESOLUTIONS = {
    10: ("B02", "B03", "B04", "B08"),
    20: ("B05", "B06", "B07", "B8A", "B11", "B12"),
    60: ("B01", "B09", "B10"),
}


def ingest(src: Path, **options: Any) -> Store:
    return ingest_scenes(src, src.parent / "store", **({"chip_px": 12} | options))


def write_jp2(path: Path, values: np.ndarray, pixel: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"count": 1, "height": len(values), "width": len(values), "dtype": values.dtype}
    place = {"crs": UTM, "transform": Affine(pixel, 0, LEFT, 0, -pixel, TOP)}
    with rasterio.open(
        path, "w", driver="JP2OpenJPEG", QUALITY=100, REVERSIBLE="YES", **profile, **place
    ) as target:
        target.write(values, 1)


def write_sentinel(folder: Path, size: int = 96) -> dict[str, np.ndarray]:
    """A folder of ``*_B01.jp2`` … ``*_B12.jp2`` at 10, 20 and 60 m."""
    written = {}
    for pixel, bands in RESOLUTIONS.items():
        side = size * 10 // pixel
        for i, band in enumerate(bands):
            written[band] = noise((side, side), 100 * pixel + i)
            write_jp2(folder / f"T33UUP_20220702T100611_{band}.jp2", written[band], pixel)
    return written


def test_a_flat_sentinel_2_folder_with_polygons(tmp_path: Path) -> None:
    src = tmp_path / "S2_FOLDER"
    written = write_sentinel(src)
    write_jp2(src / "T33UUP_20220702T100611_TCI.jp2", noise((96, 96), 1, 1, 255, "uint8"), 10)
    landuse = write_polygons(
        tmp_path / "landuse.gpkg",
        [((0, 0, 48, 96), "forest"), ((48, 0, 96, 96), "meadow")],
        column="fclass",
    )
    store = ingest(src, labels=str(landuse), label_column="fclass")
    found = {m.name: (m.bands, m.factor) for m in store.meta.modalities}
    assert found == {
        "s2_10m": (list(RESOLUTIONS[10]), 1),
        "s2_20m": (["B05", "B06", "B07", "B8A", "B11", "B12"], 2),
        "s2_60m": (list(RESOLUTIONS[60]), 6),
    }
    assert store.classes == ["forest", "meadow"]
    assert store.meta.scenes[0].date == "2022-07-02"
    assert [item.path for item in store.meta.skipped] == ["T33UUP_20220702T100611_TCI.jp2"]
    arrays = store.take(np.arange(len(store)))
    for chips, modality in zip(arrays, store.meta.modalities, strict=True):
        side = 12 // modality.factor
        for chip, row in zip(chips, store.manifest.to_pylist(), strict=True):
            r, c = row["row"] // modality.factor, row["col"] // modality.factor
            for values, band in zip(chip, modality.bands, strict=True):
                np.testing.assert_array_equal(values, written[band][r : r + side, c : c + side])


def test_chips_that_coarse_pixels_do_not_divide_are_warped(tmp_path: Path) -> None:
    write_sentinel(tmp_path / "src")
    write_tif(tmp_path / "src" / "labels.tif", stripes(96, 96, 8, (1, 2)))
    store = ingest(tmp_path / "src", chip_px=32, buffer_px=0)
    assert {m.name: m.factor for m in store.meta.modalities} == {
        "s2_10m": 1,
        "s2_20m": 2,
        "s2_60m": 1,
    }
    assert any("B01.jp2 warped from EPSG:32633 at 60" in text for text in store.meta.notes)


def test_level_2a_folders_by_resolution_are_one_scene(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for pixel, bands in ((10, ("B02", "B03")), (20, ("B02", "B05", "SCL"))):
        for i, band in enumerate(bands):
            side = 960 // pixel
            values = np.full((side, side), 4, "uint8") if band == "SCL" else noise((side, side), i)
            if band == "SCL":
                values[:6, :6] = 9
            name = f"T33UUP_20220702T100611_{band}_{pixel}m.jp2"
            write_jp2(src / "IMG_DATA" / f"R{pixel}m" / name, values, pixel)
    labels = write_tif(tmp_path / "labels.tif", stripes(96, 96, 8, (1, 2)))
    plain = ingest(src, labels=str(labels))
    assert [m.name for m in plain.meta.modalities] == ["s2_10m", "s2_20m"]
    assert [m.bands for m in plain.meta.modalities] == [["B02", "B03"], ["B05"]]
    reasons = {Path(item.path).name: item.reason for item in plain.meta.skipped}
    assert "finer resolution" in reasons["T33UUP_20220702T100611_B02_20m.jp2"]
    assert "by-product" in reasons["T33UUP_20220702T100611_SCL_20m.jp2"]
    clear = ingest(src, labels=str(labels), masks=["*_SCL_20m=3,8,9,10"], overwrite=True)
    assert len(clear) == len(plain) - 1
    assert clear.meta.left_out["no_data"] == 1


def test_masks_by_bits(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write_tif(src / "optical.tif", noise((2, 48, 48)))
    write_tif(src / "labels.tif", stripes(48, 48, 8, (1, 2)))
    quality = np.full((48, 48), 0b100001, "uint16")
    quality[:12, :9] |= 0b1000
    write_tif(src / "LC08_QA_PIXEL.tif", quality)
    store = ingest(src, masks=["*QA_PIXEL=bits:3,4"], min_valid=0.0)
    assert [m.name for m in store.meta.modalities] == ["optical"]
    assert column(store.manifest, "valid")[0] == 0.25
    assert (column(store.manifest, "valid")[1:] == 1).all()
    with pytest.raises(SettingError, match="mask 'QA' is not GLOB=VALUES"):
        ingest(src, masks=["QA"])
    with pytest.raises(DataError, match=r"has no mask like \*SCL"):
        ingest(src, masks=["*SCL=3"], overwrite=True)


def test_names_are_taken_apart() -> None:
    name = split_band("T33UUP_20220702T100611_B8A_20m")
    assert (name.prefix, name.band, name.resolution_m) == ("T33UUP_20220702T100611", "B8A", 20)
    assert split_band("landsat_b10").band == "b10"
    assert split_band("optical").band == ""
    assert modality_name("T33UUP_20220702T100611") == "s2"
    assert modality_name("LC08_L2SP_038034_20150612_20200909_02_T1_SR") == "LC08_L2SP_02_T1_SR"
    assert modality_name("20220702") == "bands"
    assert date_of(["x", "S2A_20220702T100611"]) == "2022-07-02"
    assert date_of(["x-2015-06-30", "20220702"]) == "2015-06-30"
    assert date_of(["20229999"]) == ""


TOML = """
label_column = "name"
labels = "landuse.gpkg"

[[scene]]
name = "north"
date = 2020-05-01
folder = "agency"
split = "train"
[scene.modalities]
optical = ["n_b*.tif"]
dem = { files = ["n_dem.tif"], bands = ["elevation"], nodata = 7, scale = 0.1, offset = 5 }

[[scene]]
name = "south"
date = 2021-05-01
split = "test"
labels = "south.tif"
[scene.modalities]
optical = ["s_b1.tif", "s_b2.tif"]
dem = { files = ["s_dem.tif"], bands = ["elevation"], nodata = 7, scale = 0.1, offset = 5 }
"""


@pytest.fixture
def described(tmp_path: Path) -> Path:
    home = tmp_path / "data"
    for i, (letter, left) in enumerate((("n", LEFT), ("s", LEFT + 5000))):
        for band in (1, 2):
            write_tif(home / f"{letter}_b{band}.tif", noise((48, 48), 10 * i + band), left=left)
        write_tif(home / f"{letter}_dem.tif", noise((48, 48), 50 + i), left=left)
    write_polygons(home / "landuse.gpkg", [((0, 0, 24, 48), 1), ((24, 0, 48, 48), 2)])
    write_tif(home / "south.tif", stripes(48, 48, 8, (1, 2)), left=LEFT + 5000)
    (home / "classes.json").write_text('{"1": "a", "2": "b"}')
    (home / "scenes.toml").write_text(TOML)
    return home


@pytest.mark.parametrize("key", ["modalities", "layers"])
def test_a_toml_description_says_what_is_what(described: Path, key: str) -> None:
    home = described
    (home / "scenes.toml").write_text(TOML.replace("[scene.modalities]", f"[scene.{key}]"))
    store = ingest(
        home / "scenes.toml", split_by="given", classes=home / "classes.json", buffer_px=0
    )
    assert [s.name for s in store.meta.scenes] == ["north", "south"]
    assert [s.date for s in store.meta.scenes] == ["2020-05-01", "2021-05-01"]
    optical, dem = store.meta.modalities
    assert (dem.bands, dem.nodata, dem.scale, dem.offset) == (["elevation"], 7, [0.1], [5.0])
    assert optical.bands == ["b1", "b2"]
    scene = column(store.manifest, "scene")
    assert set(column(store.manifest, "split")[scene == "north"]) == {"train"}
    assert set(column(store.manifest, "split")[scene == "south"]) == {"test"}
    assert set(column(store.manifest, "folder")) == {"agency", ""}
    with rasterio.open(home / "s_b2.tif") as source:
        first = int(np.flatnonzero(scene == "south")[0])
        np.testing.assert_array_equal(store.take([first])[0][0, 1], source.read(1)[:12, :12])


def test_scenes_are_split_by_date_and_as_wholes(described: Path) -> None:
    options = {"classes": described / "classes.json", "test_share": 0.5}
    store = ingest(described / "scenes.toml", split_by="date", **options)
    scene, split = column(store.manifest, "scene"), column(store.manifest, "split")
    assert set(split[scene == "south"]) == {"test"}
    assert set(split[scene == "north"]) == {"train"}
    assert any("same ground" in text for text in store.meta.splits.notes)
    store = ingest(described / "scenes.toml", split_by="scene", overwrite=True, **options)
    split = column(store.manifest, "split")
    assert {str(set(split[scene == name])) for name in ("north", "south")} == {
        "{'train'}",
        "{'test'}",
    }


def test_keys_of_a_description_are_options_that_say_what_the_data_are(tmp_path: Path) -> None:
    home = tmp_path / "data"
    write_tif(home / "a.tif", noise((2, 32, 32)))
    write_tif(home / "labels.tif", stripes(32, 32, 8, (11, 12, 21, 255)))
    scene = '[[scene]]\nname = "a"\nmodalities = {image = "a.tif"}\n'
    keys = 'labels = "labels.tif"\nnodata = 0\n'
    command = {"remap": ["water=11,12", "roof=21"], "label_nodata": ["255"], "labels": "labels.tif"}
    small: dict[str, Any] = {"chip_px": 8, "buffer_px": 0, "overwrite": True}
    expected = ingest(home, **command, **small)
    (home / "legend.csv").write_text("value,class\n11,water\n12,water\n21,roof\n")
    for remap, marks in (
        ("remap = {water = [11, 12], roof = 21}", "label-nodata = 255"),
        ('remap = ["water=11,12", "roof=21"]', 'label_nodata = ["255"]'),
        ('remap = "legend.csv"', "label-nodata = [255]"),
    ):
        (home / "scenes.toml").write_text(f"{remap}\n{marks}\n{keys}{scene}")
        store = ingest(home / "scenes.toml", **small)
        assert store.classes == ["water", "roof"]
        assert store.meta.modalities[0].nodata == 0
        for name in ("label", "split"):
            values = column(store.manifest, name).tolist()
            assert values == column(expected.manifest, name).tolist()
        # an option that is given counts in place of the key
        other = ingest(home / "scenes.toml", **small, remap=["a=11,12,21"])
        assert other.classes == ["a"]
    # a file that a description names is one that the store was made of
    (home / "legend.csv").write_text("value,class\n11,water\n12,water\n21,street\n")
    assert ingest(home / "scenes.toml", **small).classes == ["water", "street"]


def test_a_description_says_more_of_each_scene_and_modality(tmp_path: Path) -> None:
    home = tmp_path / "data"
    for i, name in enumerate("ab"):
        place = {"left": LEFT + 5000 * i}
        write_tif(home / f"{name}.tif", noise((2, 32, 32), i), **place)
        dem = write_tif(home / f"{name}_dem.tif", noise((32, 32), i), **place)
        with rasterio.open(dem, "r+") as file:
            file.crs = "EPSG:3857"
        labels = stripes(32, 32, 8, (1, 2, 9 - i))
        write_tif(home / f"{name}_labels.tif", labels, crs="EPSG:32632", **place)
    text = 'classes = {1 = "water", 2 = {name = "roof", color = "#ff0000"}}\n'
    for i, name in enumerate("ab"):
        text += (
            f'[[scene]]\nname = "{name}"\nlabels = "{name}_labels.tif"\nlabel-crs = "utm.prj"\n'
            f'label-nodata = {9 - i}\n[scene.modalities]\nimage = "{name}.tif"\n'
            f'dem = {{files = "{name}_dem.tif", crs = "EPSG:32633"}}\n'
        )
    (home / "utm.prj").write_text(CRS.from_epsg(32633).to_wkt())
    (home / "scenes.toml").write_text(text)
    store = ingest(home / "scenes.toml", chip_px=8)
    assert store.classes == ["water", "roof"]
    assert not [note for note in store.meta.notes if "warped" in note]
    assert {scene.name for scene in store.meta.scenes} == {"a", "b"}


def test_a_wrong_key_of_a_description_is_named_with_its_file(described: Path) -> None:
    for key, message in (
        ("label-year = 19", r"scenes.toml: --label-year is 19"),
        ('crs = "EPSG:0"', r"scenes.toml: 'EPSG:0' is not a CRS"),
        ('classes = {one = "a"}', r"classes: code 'one' is not a whole number"),
        ("label-nodat = 1", "label_nodat: Extra inputs"),
    ):
        (described / "scenes.toml").write_text(f"{key}\n{TOML}")
        with pytest.raises((DataError, SettingError), match=message):
            ingest(described / "scenes.toml")


@pytest.mark.parametrize("key", ["modality", "layer"])
def test_a_csv_description_is_the_same(described: Path, key: str) -> None:
    lines = [f"scene,{key},file,labels,split"]
    for name, letter, labels in (("north", "n", "landuse.gpkg"), ("south", "s", "south.tif")):
        split = "train" if name == "north" else "test"
        lines += [f"{name},optical,{letter}_b{band}.tif,{labels},{split}" for band in (1, 2)]
        lines.append(f"{name},dem,{letter}_dem.tif,{labels},{split}")
    (described / "scenes.csv").write_text("\n".join(lines))
    options = {"split_by": "given", "classes": described / "classes.json", "buffer_px": 0}
    store = ingest(described / "scenes.csv", label_column="name", **options)
    assert [m.name for m in store.meta.modalities] == ["optical", "dem"]
    assert store.meta.splits.method == "given"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[scene]]\nname = ", "is not TOML"),
        ("", "scene: Field required"),
        ('[[scene]]\nname = "a"\nmodalities = {}', r"scene.0.modalities"),
        ('[[scene]]\nname = "a"\nbands = 3\nmodalities = {x = "a.tif"}', r"scene.0.bands"),
        ('[[scene]]\nname = "a"\nsplit = "tset"\nmodalities = {x = "a.tif"}', "split 'tset'"),
        (
            '[[scene]]\nname = "a"\nmodalities = {x = "a"}\n' * 2,
            "names the scene a twice",
        ),
        ('[[scene]]\nname = "a"\nmodalities = {x = "gone.tif"}', r"gone.tif cannot be read"),
        ('[[scene]]\nname = "a"\nmodalities = {x = "g*.tif"}', r"has no file like g\*.tif"),
        ('[[scene]]\nname = "a"\nmodalities = {x = "n_b1.tif"}', "no labels"),
        (
            '[[scene]]\nname = "a"\nmodalities = {x = {files = ["n_b1.tif"], bands = ["u", "v"]}}',
            "names 2 bands, its files have 1",
        ),
    ],
    ids=range(10),
)
def test_wrong_descriptions_are_named(described: Path, text: str, message: str) -> None:
    (described / "scenes.toml").write_text(text)
    with pytest.raises(DataError, match=message):
        ingest(described / "scenes.toml")


def test_a_csv_without_its_columns_is_named(described: Path) -> None:
    (described / "scenes.csv").write_text("scene,file\na,b\n")
    with pytest.raises(DataError, match="no column modality"):
        ingest(described / "scenes.csv")


def test_splits_that_are_not_there_are_named(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write_tif(src / "optical.tif", noise((2, 48, 48)))
    write_tif(src / "labels.tif", stripes(48, 48, 8, (1, 2)))
    for method, message in (
        ("date", "scene src has no date"),
        ("scene", "all samples are of one scene"),
    ):
        with pytest.raises(DataError, match=message):
            ingest(src, split_by=method)
