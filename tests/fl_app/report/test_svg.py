"""Figures as inline SVG: those of the report, and what holds for any."""

from pathlib import Path

from fl_app.report.accuracy_curves import accuracy_by_bytes, accuracy_by_round
from fl_app.report.byte_charts import ratio_heat_map, site_bars
from fl_app.report.svg import draw
from fl_app.runs.records import read_run
from tests.fl_app.report.fake_run import make_run


def test_every_figure_follows_the_page(run_folder: Path) -> None:
    run = read_run(run_folder)
    figures = [accuracy_by_round(run), accuracy_by_bytes(run), ratio_heat_map(run), site_bars(run)]
    for figure in figures:
        assert figure is not None
        assert figure.startswith("<svg viewBox=")
        assert 'role="img" aria-label="' in figure
        assert "var(--muted)" in figure
        assert "#0101" not in figure
        assert "http" not in figure
        assert "<style" not in figure


def test_figures_are_the_same_each_time(run_folder: Path) -> None:
    run = read_run(run_folder)
    assert accuracy_by_round(run) == accuracy_by_round(run)
    assert ratio_heat_map(run) == ratio_heat_map(run)


def test_a_run_that_sent_nothing_has_no_byte_figures(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", rounds=0))
    assert accuracy_by_bytes(run) is None
    assert site_bars(run) is None
    assert accuracy_by_round(run)


def test_text_is_escaped_and_never_read_as_mathematics() -> None:
    figure = draw("k", 'a "label" <b>', (2, 2), lambda f: f.suptitle("<i>$x_1$ & 語") and None)
    assert "&lt;i&gt;$x_1$ &amp; 語" in figure
    assert 'aria-label="a &#34;label&#34; &lt;b&gt;"' in figure


def test_ids_do_not_collide() -> None:
    def paint(figure) -> None:
        figure.add_subplot().plot([1, 2])

    one, two = draw("one", "", (2, 2), paint), draw("two", "", (2, 2), paint)
    ids = [part.split('"')[0] for svg in (one, two) for part in svg.split(' id="')[1:]]
    assert len(ids) == len(set(ids))
    for svg in (one, two):
        for link in svg.split("url(#")[1:]:
            assert f'id="{link.split(")")[0]}"' in svg
