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

from data_prep.data_page import write_data_page
from data_prep.ingest.scenes import ingest_scenes
from data_prep.inspect import describe
from data_prep.manifest import column
from data_prep.partition import partition
from data_prep.pictures import mosaic as mosaics
from data_prep.pictures.images import stretch
from data_prep.pictures.map_colors import class_colors, hex_color
from data_prep.pictures.mosaic import mosaic
from data_prep.pictures.scene_grid import SceneGrid, lay_out, outline_path, samples_by_scene
from data_prep.store import Store
from rsdgc.errors import DataError
from tests.data_prep.archives import LEFT, noise, stripes, write_scene, write_tif


class Tags(HTMLParser):
    """Collects what a page refers to, and whether its tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in ("meta", "link", "img", "input", "path", "image", "use"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()


def only_scene(store: Store) -> SceneGrid:
    ((name, samples),) = samples_by_scene(store).items()
    return lay_out(store, name, samples)


def test_a_partition_s_page_shows_maps_classes_bands_and_refusals(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for i in range(2):
        write_scene(src / f"scene-{i}", seed=i, left=LEFT + 5000 * i)
        write_tif(src / f"scene-{i}" / "dem.tif", noise((96, 96), i + 9), left=LEFT + 5000 * i)
    write_scene(src / "<b>broken", left=LEFT + 20_000)
    (src / "<b>broken" / "optical.tif").write_text("x")
    store = ingest_scenes(src, tmp_path / "store", chip_px=8)
    data = partition(store.path, tmp_path / "data", scheme="scene", sites=2)
    page = write_data_page(data.path, tmp_path / "page.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    assert not tags.open
    assert all(
        re.match(r"data:((image/(png|webp|svg\+xml)|text/csv);base64)?,|#", link)
        for link in tags.sources
    )
    assert {link[1:] for link in tags.sources if link.startswith("#")} <= set(tags.ids)
    assert len(set(tags.ids)) == len(tags.ids)
    assert "http" not in page.replace("http-equiv", "")
    for words in ("scene-0", "scene-1", "class 3", "site-01", "band4", "dem of scene-0"):
        assert words in page
    assert "<b>broken" not in page
    assert "&lt;b&gt;broken" in page
    assert "cannot be read" in page
    assert page.count('fill="currentColor"') == 5  # histograms
    assert "UTM zone" in page
    assert "natural color" not in page  # of bands without names


def test_images_and_pixels_have_pages_too(
    images_store: Store, pixels_store: Store, tmp_path: Path
) -> None:
    page = write_data_page(images_store.path, tmp_path / "images.html").read_text(encoding="utf-8")
    assert "<h2>Maps" not in page
    assert "Sample 1 of class-2" in page
    page = write_data_page(pixels_store.path, tmp_path / "pixels.html").read_text(encoding="utf-8")
    assert "<h2>Maps" in page
    with pytest.raises(DataError, match="cannot be written"):
        write_data_page(images_store.path, tmp_path / "no" / "x.html")


def test_modalities_of_several_resolutions_lie_on_each_other(tmp_path: Path) -> None:
    src = tmp_path / "src"
    coarse = noise((32, 32), 3, 1, 200)
    coarse[:, 12:] += 800
    fine = coarse.repeat(2, axis=0).repeat(2, axis=1)
    write_tif(src / "optical.tif", np.stack([fine, fine]))
    write_tif(src / "dem.tif", coarse, pixel=20.0)
    write_tif(src / "labels.tif", np.where(fine > 500, 2, 1).astype("uint8"))
    store = ingest_scenes(src, tmp_path / "store", chip_px=8)
    grid = only_scene(store)
    assert [m.factor for m in store.meta.modalities] == [1, 2]
    pictures = [mosaic(store, grid, i)[..., 0] for i in range(2)]
    np.testing.assert_array_equal(pictures[0], fine)
    np.testing.assert_array_equal(pictures[1], fine)
    labels = grid.fill(column(store.manifest, "label")[grid.samples])
    np.testing.assert_array_equal(labels == 1, fine[::8, ::8] > 500)
    blocks = grid.fill(1 + (np.arange(64) // 8 >= 4))
    assert outline_path(blocks) == "M0 0h8M0 4h8M0 8h8M0 0v8M8 0v8"


def test_large_scenes_are_thinned_and_holes_stay_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mosaics, "MAX_PX", 20)
    src = tmp_path / "src"
    values = noise((3, 96, 96), 1, 10, 20)
    values[:, 24:42] = 0
    write_tif(src / "optical.tif", values, nodata=0)
    write_tif(src / "labels.tif", stripes(96, 96, 8, (1, 2)))
    store = ingest_scenes(src, tmp_path / "store", chip_px=24)
    picture = stretch(mosaic(store, only_scene(store), 0))
    assert picture.shape == (16, 16, 4)
    assert not picture[4:7, :, 3].any()
    assert picture[:4, :, 3].all()
    assert picture[8:, :, 3].all()


def test_classes_have_the_colors_of_all_maps(tmp_path: Path) -> None:
    write_scene(tmp_path / "src")
    (tmp_path / "src" / "classes.json").write_text('{"1": "water", "2": "forest", "3": "quarry"}')
    store = ingest_scenes(tmp_path / "src", tmp_path / "store", chip_px=8)
    page = write_data_page(store.path, tmp_path / "page.html").read_text(encoding="utf-8")
    for name, color in zip(store.classes, class_colors(store.classes), strict=True):
        assert f'background:{hex_color(color)}"></span>{name}' in page


def test_given_facts_are_not_collected_again(images_store: Store, tmp_path: Path) -> None:
    facts = describe(images_store.path)
    page = write_data_page(images_store.path, tmp_path / "a.html", facts).read_bytes()
    assert page == write_data_page(images_store.path, tmp_path / "b.html").read_bytes()


def test_examples_are_small_pictures(images_store: Store, tmp_path: Path) -> None:
    page = write_data_page(images_store.path, tmp_path / "page.html").read_text(encoding="utf-8")
    pictures = re.findall(r"image/\w+;base64,([^\"]+)", page)
    assert len(pictures) == 8 * 3
    for data in pictures:
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (8, 8)
