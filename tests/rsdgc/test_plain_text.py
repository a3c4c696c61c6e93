import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rsdgc.plain_text import MAX_MARKS, is_plain, plain_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("no chips", "no chips"),
        ("  two\r\n\tlines\x85and\u2028more\u3000", "two lines and more"),
        ("no file a  b.tif in   c", "no file a  b.tif in c"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x1b[31mred\x9b2J", "\\x1b[31mred\\x9b2J"),
        ("abc\u202egpj.exe", "abc\\u202egpj.exe"),
        ("zero\u200bwidth\u2060\ufeff", "zero\\u200bwidth\\u2060\\ufeff"),
        ("\u3164\u115f\u2800", "\\u3164\\u115f\\u2800"),
        ("half \ud800 pair", "half \\ud800 pair"),
        ("a\x00b\x7f", "a\\x00b\\x7f"),
        ("e" + 5 * "\u0301", "e" + MAX_MARKS * "\u0301" + 2 * "\\u0301"),
        ("Ackerland, Wälder & Ödland", "Ackerland, Wälder & Ödland"),
        ("森林 · आर्द्रभूमि · ป่าไม้", "森林 · आर्द्रभूमि · ป่าไม้"),
    ],
)
def test_one_printable_line(text: str, line: str) -> None:
    assert plain_line(text) == line
    assert is_plain(line)
    assert is_plain(text) == (text == line)


def test_a_long_text_is_cut_between_words() -> None:
    assert plain_line("word " * 400, 20) == "word word word …"
    assert plain_line("x" * 10_000_000, 20) == "x" * 18 + " …"
    assert plain_line("x" * 20, 20) == "x" * 20
    # Cleaning makes a text longer, and the limit holds for what is shown.
    assert plain_line("\x1b" * 20, 20) == r"\x1b\x1b\x1b\x1b\x" + " …"


@pytest.mark.parametrize("text", ["", " ", " a", "a ", "a   b", "a\n", "a\tb", "n" * 101])
def test_a_name_that_would_change_is_not_plain(text: str) -> None:
    assert not is_plain(text)


@given(st.text(st.characters(codec=None), max_size=60), st.integers(4, 40))
@example("\U000e0100\U000e0001", 30)
def test_what_is_clean_is_one_line_and_stays_as_it_is(text: str, limit: int) -> None:
    line = plain_line(text, limit)
    assert len(line) <= limit
    assert line.isprintable()
    assert line.splitlines() == ([line] if line else [])
    assert not {unicodedata.category(c) for c in line} & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    assert plain_line(line, limit) == line
