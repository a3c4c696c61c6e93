"""The report, the data page, the comparison and the documentation in headless Chromium.

They need Playwright and axe (``pip install 'rsdgc[browser]'``) and a Chromium: the one that
``playwright install chromium`` gets, or another that is on the path.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.data_page import write_data_page
from data_prep.dataset import Dataset
from data_prep.ingest.scenes import ingest_scenes
from data_prep.manifest import column
from data_prep.partition import partition
from data_prep.store import Store
from fl_app.compare import compare_page, method_pairs
from fl_app.compare.method_pairs import SharedChips
from fl_app.compare.trials import Trial
from fl_app.report import imagery, write_report
from fl_app.runs.records import Run, read_run
from tests.data_prep.archives import LEFT, noise, write_scene, write_tif
from tests.fl_app.report.fake_run import make_run

pytestmark = pytest.mark.browser

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    reason = "needs Playwright and axe: pip install 'rsdgc[browser]'"
    api = pytest.importorskip("playwright.sync_api", reason=reason)
    pytest.importorskip("axe_playwright_python", reason=reason)
    with api.sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, CHROMIUMS)), None)
        try:
            # without its sandbox, which containers do not allow; the pages are our own
            chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"needs Chromium: playwright install chromium ({error.message[:80]})")
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two sites with a scene of imagery and elevation each."""
    folder = tmp_path_factory.mktemp("browser")
    for i in range(2):
        scene, left = folder / "src" / f"scene-{i}", LEFT + 5000 * i
        write_scene(scene, seed=i, left=left)
        write_tif(scene / "dem.tif", noise((96, 96), i + 9), left=left)
    store = ingest_scenes(folder / "src", folder / "store", chip_px=8)
    return partition(store.path, folder / "data", scheme="scene", sites=2)


@pytest.fixture(scope="module")
def pages(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All three pages, with predictions that are right for two of three chips."""

    def predict(run: Run, store: Store, chips: np.ndarray) -> np.ndarray:
        labels = column(store.manifest, "label")[chips].astype(np.int64)
        wrong = (chips + len(run.summary.method)) % 3 == 0
        return np.where(wrong, (labels + 1) % len(store.classes), labels)

    folder = tmp_path_factory.mktemp("pages")
    rows = []
    facts = {"classes": data.store.classes, "data_path": str(data.path), "rounds": 4}
    for method in ("fedavg", "rs-dgc"):
        for seed in (0, 1):
            trial = Trial(method, "" if method == "fedavg" else "100x", seed)
            run = make_run(
                folder / trial.folder, method=method, seed=seed, sites=data.sites, **facts
            )
            rows.append((trial, read_run(run)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imagery, "predict", predict)
        patch.setattr(method_pairs, "predict", predict)
        report = write_report(folder / rows[-1][0].folder, baseline=folder / rows[0][0].folder)
        compare_page.write_page(folder / "compare.html", rows, 4, SharedChips(data.path))
    return {
        "report": report,
        "data": write_data_page(data.path, folder / "data.html"),
        "compare": folder / "compare.html",
    }


@pytest.fixture
def opened(browser: Any, pages: dict[str, Path]) -> Iterator[Any]:
    """Return what opens a page, and fails if it fetches anything or reports an error."""
    contexts, faults = [], []

    def note_request(request: Any) -> None:
        if not request.url.startswith(("file:", "data:")):
            faults.append(request.url)

    def open_page(name: str, scheme: str = "light", width: int = 1280) -> Any:
        context = browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": 900}, accept_downloads=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("file:", "data:")) or faults.append(request.url)
            ),
        )
        page.goto(pages[name].as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["report", "data", "compare"])
def test_a_page_fetches_nothing_and_everybody_can_read_it(
    opened: Any, name: str, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415  # an extra

    page = opened(name, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    result = Axe().run(page)
    assert result.violations_count == 0, result.generate_report()


@pytest.mark.parametrize("name", ["report", "data", "compare"])
def test_a_phone_shows_a_page_without_scrolling_sideways(opened: Any, name: str) -> None:
    page = opened(name, width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("name", ["report", "data", "compare"])
@pytest.mark.parametrize("width", [1024, 1280])
def test_a_screen_shows_tables_whole(opened: Any, name: str, width: int) -> None:
    page = opened(name, width=width)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    cut = """() => [...document.querySelectorAll(".scroll")]
        .filter(each => each.scrollWidth > each.clientWidth + 1)
        .map(each => each.getAttribute("aria-label"))"""
    assert page.evaluate(cut) == []


@pytest.mark.parametrize("name", ["report", "data", "compare"])
def test_print_cuts_nothing_and_has_all_pictures(opened: Any, name: str) -> None:
    """On A4 with margins of 1 cm, as a browser prints it by default."""
    page = opened(name, width=718)
    page.emulate_media(media="print")
    cut = """() => [...document.querySelectorAll("table, .plot svg, img, h1, pre")]
        .filter(each => each.getBoundingClientRect().right > innerWidth + 1)
        .map(each => each.closest("section")?.id + " " + each.tagName)"""
    assert page.evaluate(cut) == []
    beside = """() => [...document.querySelectorAll(".plot svg")].filter(each =>
        each.getBoundingClientRect().right > each.parentElement.getBoundingClientRect().right + 1
        ).map(each => each.closest("section")?.id)"""
    assert page.evaluate(beside) == []
    blank = "[...document.images].filter(each => !each.naturalWidth).map(each => each.alt)"
    assert page.evaluate(blank) == []


@pytest.mark.parametrize("name", ["report", "data"])
def test_scenes_are_chosen_by_mouse_and_by_keys(opened: Any, name: str) -> None:
    page = opened(name)
    assert page.locator(".scene:visible").count() == 1
    before = page.locator(".scene:visible h3").inner_text()
    page.locator(".choice:not(:has(:checked)) > label").first.click()
    after = page.locator(".scene:visible h3").inner_text()
    assert {before, after} == {"scene-0", "scene-1"}
    page.keyboard.press("ArrowRight")  # around to the other one
    assert page.locator(".scene:visible h3").inner_text() == before


@pytest.mark.parametrize("kind", ["SVG", "CSV"])
def test_figures_can_be_kept(opened: Any, tmp_path: Path, kind: str) -> None:
    page = opened("report")
    with page.expect_download() as download:
        page.locator(f".files a:text('{kind}')").first.click()
    download.value.save_as(tmp_path / "file")
    text = (tmp_path / "file").read_text()
    assert text.startswith("<?xml" if kind == "SVG" else "round,accuracy")
    assert download.value.suggested_filename.endswith(kind.lower())


THEMES_OWN = ("landmark-unique", "scrollable-region-focusable")
"""Rules that the theme's script breaks: copy buttons of one label, tables in scrolling boxes."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="needs pip install 'rsdgc[docs]'")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    root = Path(__file__).parents[1]
    subprocess.run(words, cwd=root, check=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_read_the_documentation(browser: Any, site: Path, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415  # an extra

    rules = {rule: {"enabled": False} for rule in THEMES_OWN}
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    for name in ("index", "tutorial", "data", "method", "api", "commands"):
        page.goto((site / f"{name}.html").as_uri())
        result = Axe().run(page, options={"rules": rules})
        assert result.violations_count == 0, f"{name}: {result.generate_report()}"
    context.close()
