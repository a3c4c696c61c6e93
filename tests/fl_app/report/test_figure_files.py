"""The report's figures: alike in the page, and written as files."""

from pathlib import Path

from PIL import Image

from fl_app.report.byte_charts import ratio_heat_map, site_bars
from fl_app.report.figure_files import write_figures
from fl_app.report.land_cover_map import draw_map, lay_out_tested, rank_scenes
from fl_app.report.learning_curves import accuracy_by_bytes, accuracy_by_round, loss_by_round
from fl_app.report.time_split import time_by_round
from fl_app.runs.records import read_run
from tests.data_prep.pictures.fake_store import CLASSES, scene_store
from tests.fl_app.report.fake_run import make_run

KINDS = ("svg", "png", "csv")


def test_every_figure_follows_the_page(run_folder: Path) -> None:
    run = read_run(run_folder)
    figures = [accuracy_by_round(run), accuracy_by_bytes(run), ratio_heat_map(run), site_bars(run)]
    figures += [loss_by_round(run), time_by_round(run)]
    for figure in figures:
        assert figure is not None
        assert figure.svg.startswith("<svg viewBox=")
        assert 'role="img" aria-label="' in figure.svg
        assert "var(--muted)" in figure.svg
        assert "#0101" not in figure.svg
        assert "http" not in figure.svg
        assert "<style" not in figure.svg


def test_figures_are_the_same_each_time(run_folder: Path) -> None:
    run = read_run(run_folder)
    assert accuracy_by_round(run).svg == accuracy_by_round(run).svg
    one, two = ratio_heat_map(run), ratio_heat_map(run)
    assert one is not None
    assert two is not None
    assert one.svg == two.svg
    assert one.svg_uri == two.svg_uri


def test_a_run_that_sent_nothing_has_no_byte_figures(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", rounds=0))
    assert accuracy_by_bytes(run) is None
    assert site_bars(run) is None
    assert accuracy_by_round(run)


def test_figures_and_maps_become_files(tmp_path: Path, run_folder: Path) -> None:
    store = scene_store(chip_px=8)
    scene = lay_out_tested(store, *rank_scenes(store)[0])
    labels = store.manifest.column("label").to_numpy()[scene.samples]
    drawn = draw_map(store, scene, labels, CLASSES)
    write_figures(tmp_path / "new" / "figures", [accuracy_by_round(read_run(run_folder))], [drawn])
    files = {path.name: path for path in (tmp_path / "new" / "figures").iterdir()}
    assert set(files) == {f"{key}.{kind}" for key in ("rounds", "map-1") for kind in KINDS}
    assert "water" in files["map-1.svg"].read_text()
    assert len(files["map-1.csv"].read_text().splitlines()) == 1 + len(scene.samples)
    with Image.open(files["map-1.png"]) as picture:
        assert picture.width > 1500
