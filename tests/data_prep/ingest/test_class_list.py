from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data_prep.ingest.archive import Archive, open_archive
from data_prep.ingest.chips import majority_codes
from data_prep.ingest.class_list import distinct, given_classes, named_classes, raster_classes
from rsdgc.errors import DataError


@given(arrays(np.int64, st.integers(0, 30), elements=st.integers(-5, 9) | st.just(10**6)))
def test_distinct_codes_are_those_of_unique(codes: np.ndarray) -> None:
    np.testing.assert_array_equal(distinct(codes), np.unique(codes))


@given(
    codes=arrays(np.int64, (4, 11), elements=st.integers(0, 3)),
    labeled=arrays(np.bool_, (4, 11)),
    stride=st.integers(1, 4),
)
def test_majorities_equal_those_of_plain_counting(
    codes: np.ndarray, labeled: np.ndarray, stride: int
) -> None:
    cols = np.arange(0, 8, stride)
    majority, share = majority_codes(codes, labeled, cols, 4)
    for i, col in enumerate(cols):
        inside = codes[:, col : col + 4][labeled[:, col : col + 4]]
        assert share[i] == inside.size / 16
        if inside.size:
            assert majority[i] == np.bincount(inside).argmax()


def test_an_open_list_takes_the_codes_that_occur(tmp_path: Path) -> None:
    classes = raster_classes(tmp_path / "labels.tif")
    assert classes.settle(np.array([7, 2, 7])) == ([2, 7], ["class 2", "class 7"])
    assert not classes.zero_is_unlabeled
    assert raster_classes(tmp_path / "labels.tif", pixels=True).zero_is_unlabeled


def test_names_of_polygons_are_numbered_and_codes_kept() -> None:
    assert named_classes(["wood", "field", "wood"]).names == {1: "field", 2: "wood"}
    assert named_classes([3, 7]).code_of(7, "x") == 7
    mixed = named_classes([3, "wood"])
    assert mixed.names == {1: "3", 2: "wood"}


def test_lists_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    assert given_classes(archive, None) is None
    for wrong, message in (({}, "empty"), ({1: "a", 2: "a"}, "repeats")):
        with pytest.raises(DataError, match=message):
            given_classes(archive, wrong)
    with pytest.raises(DataError, match=r"gone.json cannot be read"):
        given_classes(archive, tmp_path / "gone.json")


MARKED = {
    "utf-8-sig": "{}",
    "utf-16": "{}",
    "utf-16-le": "\ufeff{}",
    "utf-16-be": "\ufeff{}",
}


@pytest.mark.parametrize("encoding", MARKED)
@pytest.mark.parametrize("kind", ["json", "csv"])
def test_lists_are_read_in_what_their_mark_says(tmp_path: Path, encoding: str, kind: str) -> None:
    text = (
        '{"1": "Fore\u0302t", "20": "\u6c34"}'
        if kind == "json"
        else "code;name\n1;Fore\u0302t\n20;\u6c34\n"
    )
    path = tmp_path / f"classes.{kind}"
    path.write_bytes(MARKED[encoding].format(text).encode(encoding))
    classes = given_classes(open_archive(tmp_path), path)
    assert classes is not None
    assert classes.names == {1: "For\u00eat", 20: "\u6c34"}
    assert classes.code_of("Fore\u0302t", "x") == classes.code_of("For\u00eat", "x") == 1


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "mac-roman"])
def test_lists_in_other_encodings_are_refused_with_the_remedy(
    tmp_path: Path, encoding: str
) -> None:
    path = tmp_path / "list.json"
    path.write_bytes('{"1": "zone b\u00e2tie"}'.encode(encoding))
    with pytest.raises(DataError, match=r"list.json cannot be used: .*: save it as UTF-8"):
        given_classes(open_archive(tmp_path), path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("code,class\n1,a\n", "it has no column name"),
        ("code,name\n1,a\n1,b\n", "code '1' stands twice"),
        ("code,name\nx,a\n", "code 'x' is not a whole number"),
    ],
)
def test_tables_of_classes_are_checked(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "classes.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        given_classes(open_archive(tmp_path), tmp_path / "classes.csv")


@pytest.mark.parametrize("values", [["3", "12", "7"], ["-1", "0", "2.0"], ["0112", "0211"]])
def test_texts_that_are_numbers_are_codes(values: list[str]) -> None:
    classes = named_classes(values)
    assert classes.names == {}
    assert [classes.code_of(value, "x") for value in values] == [int(float(v)) for v in values]
    listed = given_classes(Archive(Path(), Path(), ""), {int(float(v)): f"c{v}" for v in values})
    assert listed is not None
    assert [listed.code_of(value, "x") for value in values] == [int(float(v)) for v in values]


def test_texts_of_which_two_are_one_number_are_names() -> None:
    assert named_classes(["01", "1", "2"]).names == {1: "01", 2: "1", 3: "2"}
    assert named_classes(["1", "a"]).code_of("1", "x") == 1
