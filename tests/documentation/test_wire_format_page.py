"""docs/wire-format.md has the fields, codes and limits that the code has."""

from __future__ import annotations

import re
import struct

import pytest

from rsdgc import VALUE_CODINGS
from rsdgc.codec import header
from rsdgc.codec.indices import INDEX_CODES
from rsdgc.neighborhoods import MAX_TILE_PX, NEIGHBORHOOD_CODES
from tests.documentation.pages import PAGES

PAGE = PAGES["docs/wire-format.md"]
FIELDS = re.findall(r"^\| (\d+) \| (\d+) \| (\w+) \| (.+) \|$", PAGE, re.MULTILINE)[:15]


def test_the_header_has_these_fields() -> None:
    formats = re.findall(r"\d*[sBIQ]", header._FIELDS.format + header._CHECKSUM.format.strip("<"))
    sizes = [struct.calcsize(f"<{each}") for each in formats]
    offsets = [sum(sizes[:number]) for number in range(len(sizes))]
    assert [(int(offset), int(size)) for offset, size, _, _ in FIELDS] == [
        *zip(offsets, sizes, strict=True)
    ]
    assert sum(sizes) == header.HEADER_BYTES
    assert f"# Wire format, version {header.VERSION}\n" in PAGE
    assert f"`{header.MAGIC.decode()}`" in FIELDS[0][3]


@pytest.mark.parametrize(
    ("field", "codes"),
    [
        ("neighborhood", NEIGHBORHOOD_CODES),
        ("indices", INDEX_CODES),
        ("values", {name: VALUE_CODINGS[name].code for name in VALUE_CODINGS}),
    ],
)
def test_the_codes_are_listed(field: str, codes: dict[str, int]) -> None:
    (text,) = (meaning for _, _, name, meaning in FIELDS if name == field)
    listed = {int(code): name for code, name in re.findall(r"(\d+) ([\w–-]+)", text)}
    names = {"rice": "Golomb–Rice", "deadzone": "dead-zone"}
    for name, code in codes.items():
        if code < 128:  # others are from outside: of other tests
            assert listed[code] == names.get(name, name)


def test_limits_and_transforms_are_listed() -> None:
    (text,) = (meaning for _, _, name, meaning in FIELDS if name == "neighborhood")
    for channels, code in header.CHANNELS_CODES.items():
        assert re.search(rf"plus {code} in [\w ]+ bases of at most {channels}\b", text)
    assert f"| edge of a tile | {MAX_TILE_PX} |" in PAGE
