"""The frame of all pages: escaped, marked as synthetic, and strict about what it is given."""

import re

import pytest
from jinja2 import UndefinedError

from data_prep.pictures.html_page import render_page
from data_prep.pictures.page_style import STYLE


def test_everything_from_the_data_is_escaped() -> None:
    page = render_page("<p>{{ name }}</p>", title="<b>", stem="", synthetic=False, name="<script>")
    assert "<title>&lt;b&gt;</title>" in page
    assert "<p>&lt;script&gt;</p>" in page
    assert "default-src 'none'" in page


def test_synthetic_data_get_a_badge() -> None:
    pages = [
        render_page("{{ mark() }}", title="", stem="", synthetic=flag) for flag in (True, False)
    ]
    assert ["synthetic data" in page for page in pages] == [True, False]


def test_numbers_have_units() -> None:
    page = render_page("{{ 12300|bytes }} {{ 0.5|percent }}", title="", stem="", synthetic=False)
    assert "12.3\u00a0kB 50.0\u00a0%" in page


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render_page("{{ absent }}", title="", stem="", synthetic=False)


def test_light_and_dark_set_the_same_variables_and_all_that_are_used() -> None:
    light, dark = (
        set(re.findall(r"--([a-z-]+):", block))
        for block in (STYLE.split("@media")[0], STYLE.split("@media")[1])
    )
    assert light == dark
    used = set(re.findall(r"var\(--([a-z-]+)", STYLE)) - {"width", "least", "ratio"}
    assert used <= light
