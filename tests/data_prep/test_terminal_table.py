"""At any width, every digit of every number is shown."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from data_prep.terminal_table import Column, fold, print_table, terminal

COLUMNS = [Column("band"), Column("type"), *(Column(f"n{i}", number=True) for i in range(5))]


def shown(rows: list[list[str]], width: int) -> str:
    text = io.StringIO()
    print_table(COLUMNS, rows, title="bands", console=Console(file=text, width=width))
    return text.getvalue()


@given(
    st.lists(
        st.lists(st.integers(0, 10**12), min_size=5, max_size=5).map(
            lambda numbers: ["B02", "uint16", *(f"{number}.25" for number in numbers)]
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(30, 130),
)
def test_numbers_are_never_cut(rows: list[list[str]], width: int) -> None:
    text = shown(rows, width)
    assert max(map(len, text.splitlines())) <= width
    for row in rows:
        for number in row[2:]:
            assert number in text.split() or f"{number} " in text


def test_columns_are_folded_and_the_first_is_repeated() -> None:
    row = ["landsat_red", "uint16", "691.58", "1927000", "12.75", "0", "65535"]
    assert list(fold(COLUMNS, [row], 130)) == [[0, 1, 2, 3, 4, 5, 6]]
    parts = list(fold(COLUMNS, [row], 40))
    assert [part[0] for part in parts] == [0] * len(parts)
    assert sorted(index for part in parts for index in part[1:]) == [1, 2, 3, 4, 5, 6]
    assert shown([row], 40).count("landsat_red") == len(parts)


def test_brackets_are_not_markup() -> None:
    assert "[red]" in shown([["[red]", "[/]", "1", "2", "3", "4", "5"]], 100)


def test_a_file_is_wide_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal().width == 200
    monkeypatch.setenv("COLUMNS", "60")
    assert terminal().width == 60
