import math

import pytest

from data_prep.number_format import (
    MISSING,
    bytes_text,
    bytes_tick,
    count_text,
    decimal_text,
    percent_text,
    plural,
    seconds_text,
    times_text,
)


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (12_345, "12.3 kB"),
        (999_949, "1.00 MB"),
        (999_999, "1.00 MB"),
        (12_300_000, "12.3 MB"),
        (753_000_000, "753 MB"),
        (4.56e12, "4.56 TB"),
        (7e18, "7000 PB"),
    ],
)
def test_bytes_have_a_unit_and_three_digits(count: float, text: str) -> None:
    assert plain(bytes_text(count)) == text


@pytest.mark.parametrize(
    ("factor", "text"),
    [(1.0, "1.0×"), (9.94, "9.9×"), (9.97, "10×"), (97.3, "97×"), (1234.5, "1,234×")],
)
def test_factors_have_no_more_digits_than_mean_something(factor: float, text: str) -> None:
    assert times_text(factor) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (9412, "9,412"),
        (12_345, "12.3 k"),
        (999_400, "999 k"),
        (999_900, "1 M"),
        (1_240_000, "1.24 M"),
    ],
)
def test_counts(count: int, text: str) -> None:
    assert plain(count_text(count)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (59.97, "1 min 0 s"),
        (212.4, "3 min 32 s"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert plain(seconds_text(seconds)) == text


@pytest.mark.parametrize(
    "write", [bytes_text, times_text, percent_text, decimal_text, count_text, seconds_text]
)
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_was_not_recorded_is_a_dash(write, value: float | None) -> None:
    assert write(value) == MISSING


def test_decimals_of_huge_numbers_are_short() -> None:
    assert decimal_text(0.85349) == "0.853"
    assert decimal_text(-123456.7891) == "-123456.789"
    assert decimal_text(2.4e38) == "2.4e+38"
    assert decimal_text(-2.5e7) == "-2.5e+07"


def test_percent_ticks_and_plurals() -> None:
    assert plain(percent_text(0.8733)) == "87.3 %"
    assert plain(bytes_tick(20_000_000)) == "20 MB"
    assert plain(bytes_tick(1_500_000)) == "1.5 MB"
    assert bytes_tick(0) == "0"
    assert plural(1, "round") == "1 round"
    assert plural(2, "class", "classes") == "2 classes"
