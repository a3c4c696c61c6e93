"""The page about a store: self-contained, escaped, and showing what is there."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.ingest import ingest_scenes
from data_prep.page import write_page
from data_prep.page.canvas import mosaic, outline, paint, picture_bands, scene_maps, stretch
from data_prep.partition import partition
from data_prep.store import Store
from rsdgc.errors import DataError
from tests.data_prep.archives import LEFT, noise, stripes, write_scene, write_tif


class Tags(HTMLParser):
    """Collects what a page refers to, and whether its tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "input", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()


def test_a_partition_s_page_shows_maps_classes_bands_and_refusals(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for i in range(2):
        write_scene(src / f"scene-{i}", seed=i, left=LEFT + 5000 * i)
        write_tif(src / f"scene-{i}" / "dem.tif", noise((96, 96), i + 9), left=LEFT + 5000 * i)
    write_scene(src / "<b>broken", left=LEFT + 20_000)
    (src / "<b>broken" / "optical.tif").write_text("x")
    store = ingest_scenes(src, tmp_path / "store", chip_px=8)
    data = partition(store.path, tmp_path / "data", scheme="scene", sites=2)
    page = write_page(data.path, tmp_path / "page.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    assert not tags.open
    assert all(source.startswith("data:image/png;base64,") for source in tags.sources)
    assert "http" not in page
    for words in ("scene-0", "scene-1", "class 3", "site-01", "band4", "dem of scene-0"):
        assert words in page
    assert "<b>broken" not in page
    assert "&lt;b&gt;broken" in page
    assert "cannot be read" in page
    assert len(re.findall(r"<svg ", page)) == 5


def test_images_and_pixels_have_pages_too(
    images_store: Store, pixels_store: Store, tmp_path: Path
) -> None:
    page = write_page(images_store.path, tmp_path / "images.html").read_text(encoding="utf-8")
    assert "<h2>Maps</h2>" not in page
    assert "samples of class-2" in page
    page = write_page(pixels_store.path, tmp_path / "pixels.html").read_text(encoding="utf-8")
    assert "<h2>Maps</h2>" in page
    with pytest.raises(DataError, match="cannot be written"):
        write_page(images_store.path, tmp_path / "no" / "x.html")


def test_layers_of_several_resolutions_lie_on_each_other(tmp_path: Path) -> None:
    src = tmp_path / "src"
    coarse = noise((32, 32), 3, 1, 200)
    coarse[:, 12:] += 800
    fine = coarse.repeat(2, axis=0).repeat(2, axis=1)
    write_tif(src / "optical.tif", np.stack([fine, fine]))
    write_tif(src / "dem.tif", coarse, pixel=20.0)
    write_tif(src / "labels.tif", np.where(fine > 500, 2, 1).astype("uint8"))
    store = ingest_scenes(src, tmp_path / "store", chip_px=8)
    (scene,) = scene_maps(store, 1)
    assert [m.factor for m in store.meta.modalities] == [1, 2]
    pictures = [mosaic(store, scene, i)[..., 0] for i in range(2)]
    np.testing.assert_array_equal(pictures[0], fine)
    np.testing.assert_array_equal(pictures[1], fine)
    labels = store.manifest.column("label").to_numpy()[scene.samples]
    painted = paint(scene, labels.astype(np.int64), ["#000000", "#ffffff"], 255)
    np.testing.assert_array_equal(painted[..., 0] == 255, fine > 500)
    blocks = outline(scene, (np.arange(64) // 8 >= 4).astype(str))
    assert set(np.flatnonzero(blocks[..., 3].any(axis=1))) == {32}


def test_large_scenes_are_thinned_and_holes_stay_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.page.canvas.CANVAS_PX", 20)
    src = tmp_path / "src"
    values = noise((3, 96, 96), 1, 10, 20)
    values[:, :24] = 0
    write_tif(src / "optical.tif", values, nodata=0)
    write_tif(src / "labels.tif", stripes(96, 96, 8, (1, 2)))
    store = ingest_scenes(src, tmp_path / "store", chip_px=24)
    (scene,) = scene_maps(store, 1)
    assert (scene.step, scene.side, scene.shape) == (6, 4, (16, 16))
    picture = stretch(mosaic(store, scene, 0))
    assert not picture[:4, :, 3].any()
    assert picture[4:, :, 3].all()


def test_familiar_bands_make_the_picture() -> None:
    assert picture_bands(["blue", "green", "red", "nir"]) == [2, 1, 0]
    assert picture_bands(["B02", "B03", "B04", "B08"]) == [2, 1, 0]
    assert picture_bands(["a", "b"]) == [0]
    assert picture_bands([str(i) for i in range(200)]) == [50, 25, 12]


def test_pictures_are_png(images_store: Store, tmp_path: Path) -> None:
    page = write_page(images_store.path, tmp_path / "page.html").read_text(encoding="utf-8")
    for data in re.findall(r"base64,([^\"]+)", page):
        assert Image.open(io.BytesIO(base64.b64decode(data))).size[1] == 72
