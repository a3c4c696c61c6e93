"""Values of labels as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.ingest.label_values import (
    hex_color,
    label_value,
    normal_name,
    parse_color,
    parse_remap,
    whole_number,
)
from rsdgc.errors import DataError, SettingError


@given(st.integers(-(10**17), 10**17))
def test_numbers_are_the_same_in_every_spelling(number: int) -> None:
    assert label_value(number) == label_value(str(number)) == label_value(f" {number}.00 ")


def test_other_texts_are_no_numbers() -> None:
    for text in ("1.5", "1e3", "a1", "", "--1", "1 2"):
        assert whole_number(text) is None
    assert label_value("  Wald ") == "Wald"


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_colors_come_back(color: tuple[int, int, int]) -> None:
    assert parse_color(hex_color(color)) == parse_color("{}, {}, {}".format(*color)) == color
    assert label_value(hex_color(color).upper()) == hex_color(color)


@pytest.mark.parametrize("text", ["blue", "#12345", "1,2", "1,2,256", "-1,2,3"])
def test_texts_that_are_no_colors_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not #rrggbb"):
        parse_color(text)


def test_names_are_composed() -> None:
    assert normal_name("Fore\u0302t ") == "For\u00eat"
    assert normal_name("Prairie humide a\u0300 joncs") == "Prairie humide \u00e0 joncs"


def test_remappings_are_read_from_texts_and_tables(tmp_path: Path) -> None:
    table = tmp_path / "legend.csv"
    table.write_bytes("value;class\r\n7;\r\n#FF0000;bâti\r\n".encode("utf-16"))
    assert parse_remap(["water=11, 12,-3--1", "forest=Laubwald", str(table)]) == {
        11: "water",
        12: "water",
        -3: "water",
        -2: "water",
        -1: "water",
        "Laubwald": "forest",
        7: "",
        "#ff0000": "bâti",
    }


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a=1", "b=1.0"], "gives 1 to a and to b"),
        (["water="], "is not CLASS=VALUES"),
        (["=3"], "is not CLASS=VALUES"),
        (["a=9-3"], "smaller code first"),
        (["a=1-9999999"], "at most 65536 codes"),
        (["legend.csv"], "neither a file nor CLASS=VALUES"),
    ],
)
def test_remappings_that_mean_nothing_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        parse_remap(texts)


@pytest.mark.parametrize(
    ("text", "message"),
    [("value,name\n1,a\n", "no column class"), ("value,class\n,a\n", "line 2: value is empty")],
)
def test_tables_without_what_they_need_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "legend.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        parse_remap([str(tmp_path / "legend.csv")])
