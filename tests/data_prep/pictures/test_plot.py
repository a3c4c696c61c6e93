"""Figures as inline SVG and as files: what holds for any."""

import base64
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.pictures.csv_table import CsvTable
from data_prep.pictures.page_style import LIGHT_COLORS
from data_prep.pictures.plot import INK, draw


def test_text_is_escaped_and_never_read_as_mathematics() -> None:
    figure = draw("k", 'a "label" <b>', (2, 2), lambda f: f.suptitle("<i>$x_1$ & 語") and None)
    assert "&lt;i&gt;$x_1$ &amp; 語" in figure.svg
    assert 'aria-label="a &#34;label&#34; &lt;b&gt;"' in figure.svg


def test_ids_do_not_collide() -> None:
    def paint(figure) -> None:
        figure.add_subplot().plot([1, 2])

    one, two = draw("one", "", (2, 2), paint), draw("two", "", (2, 2), paint)
    ids = [part.split('"')[0] for svg in (one.svg, two.svg) for part in svg.split(' id="')[1:]]
    assert len(ids) == len(set(ids))
    for svg in (one.svg, two.svg):
        for link in svg.split("url(#")[1:]:
            assert f'id="{link.split(")")[0]}"' in svg


def test_files_have_the_light_page_s_colors(tmp_path: Path) -> None:
    table = CsvTable(["name", "value"], [["=1+1", 0.1234567], ["a, b", None]])

    def paint(figure) -> None:
        figure.add_subplot().fill_between([0, 1], [1, 1], color=INK)

    plot = draw("ink", "", (1, 1), paint, table)
    svg, png, csv = plot.write(tmp_path)
    assert LIGHT_COLORS["ink"] in svg.read_text()
    assert "var(--" not in svg.read_text()
    assert base64.b64decode(plot.svg_uri.partition(",")[2]) == svg.read_bytes()
    with Image.open(png) as picture:
        middle = np.asarray(picture.convert("RGB"))[picture.height // 2, picture.width // 2]
    assert "#" + bytes(middle.tolist()).hex() == LIGHT_COLORS["ink"]
    # a spreadsheet must not take a name for a formula
    assert csv.read_text() == 'name,value\n\'=1+1,0.123457\n"a, b",\n'
    assert "var(--ink)" in draw("again", "", (1, 1), paint).svg  # after a PNG, too
