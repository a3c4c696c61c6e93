"""Files of text from others are read whole or refused in one line."""

from __future__ import annotations

import os
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from rsdgc.documents import (
    MAX_DEPTH,
    DocumentError,
    explain_invalid,
    parse_json,
    parse_table,
    parse_toml,
    read_json,
    read_text,
    read_toml,
    shorten,
)

REFUSED = {
    "[" * 10**6: "nested too deeply",
    '{"a":' * 10**6: "nested too deeply",
    "[" * MAX_DEPTH + "]" * MAX_DEPTH: None,
    "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1): "nested too deeply",
    "": "not JSON",
    "{": "not JSON",
    "9" * 5000: "not JSON",
    str(2**64): "64 bits",
    str(2**64 - 1): None,
    str(-(2**64)): "64 bits",
    '{"a": [NaN]}': "is not a number of JSON",
    "[-Infinity]": "is not a number of JSON",
    "1e999": "is not a number of JSON",
    '"\\ud800"': "not valid Unicode",
    '{"\\udfff": 1}': "not valid Unicode",
    '"\\ud83d\\ude00"': None,
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:20] or "empty")
def test_json_is_read_whole_or_refused(text: str) -> None:
    reason = REFUSED[text]
    if reason is None:
        parse_json(text)
        return
    with pytest.raises(DocumentError, match=reason) as caught:
        parse_json(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


@given(st.text(alphabet='[]{}",:\\u0123789dDeE.-+ \nNaInfity#=\'"tru', max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for parse in (parse_json, parse_toml, parse_table):
        with suppress(DocumentError):
            parse(text)


def test_checkpoints_may_hold_what_json_does_not_have() -> None:
    assert parse_json("[Infinity]", finite=False) == [float("inf")]


@pytest.mark.parametrize("text", ["a = " + "[" * 10**5, "a = inf", "a = 99999999999999999999", "="])
def test_toml_is_read_whole_or_refused(text: str) -> None:
    with pytest.raises(DocumentError):
        parse_toml(text)


def test_a_table_has_all_its_cells() -> None:
    columns, rows = parse_table("a,b\n1\n2,3,4\n")
    assert columns == {"a", "b"}
    assert rows == [{"a": "1", "b": ""}, {"a": "2", "b": "3"}]


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DocumentError, match="not a regular file"):
        read_json(tmp_path / "pipe")
    with pytest.raises(DocumentError, match="not a regular file"):
        read_toml(Path("/dev/zero"))
    with pytest.raises(OSError, match="it is a folder"):
        read_text(tmp_path)
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**40)
    tracemalloc.start()
    with pytest.raises(DocumentError, match="1099511627776 bytes"):
        read_json(tmp_path / "huge")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 100_000
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(DocumentError, match=r"not in UTF-8 \(byte 3\)"):
        read_text(tmp_path / "latin")


def test_values_in_messages_are_short_and_printable() -> None:
    assert shorten("\x1b[2J\u202e") == r"'\x1b[2J\u202e'"
    assert len(shorten("x" * 10**6)) == 60


def test_pydantic_s_first_error_is_one_line() -> None:
    class Model(BaseModel):
        a: dict[str, int]

    with pytest.raises(ValidationError) as caught:
        Model.model_validate({"a": {"\n\x1b" * 500: "x" * 500}})
    text = explain_invalid(caught.value)
    assert text.startswith(r"a.\n\x1b\n\x1b")
    assert "it is 'xxx" in text
    assert text.isprintable()
    assert len(text) < 300
