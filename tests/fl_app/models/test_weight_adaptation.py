"""The first convolution takes other bands than those of a file of weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_app.models.weight_adaptation import adapt_bands

NAMES = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=6, unique=True)


def adapt(old: list[str], new: list[str]) -> torch.Tensor | None:
    """Return the filters of bands, of a weight whose slices are 0, 1, 2, …; None: as they are."""
    weight = torch.arange(float(len(old))).view(1, -1, 1, 1)
    pairs = ([("", band) for band in old], [("", band) for band in new])
    adaptation = adapt_bands((1, len(new), 1, 1), tuple(weight.shape), *pairs)
    return None if adaptation is None else adaptation[1](weight).flatten() * len(new) / len(old)


@given(NAMES, NAMES)
def test_bands_keep_their_filters_by_name(old: list[str], new: list[str]) -> None:
    filters = adapt(old, new)
    if filters is None:
        assert old == new or len(old) == len(new) == 1
        return
    mean = (len(old) - 1) / 2
    expected = [float(old.index(band)) if band in old else mean for band in new]
    torch.testing.assert_close(filters, torch.tensor(expected))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (["red", "nir", "swir"], ["vv", "vh", "hh"], [1, 1, 1]),  # the place means nothing
        ([], ["vv", "vh", "hh"], None),  # the file has no names
        (["red", "green", "blue"], ["band1", "band2", "band3"], None),  # nor have the images
        (["band1", "band2", "band3"], ["red", "green", "blue"], None),
        (["vv", "vh", "vv", "vh"], ["vh", "vv", "vv", "vh"], [1, 0, 2, 3]),  # of two passes
        (["vv", "vh"], ["vv", "vh", "vv", "vh"], [0, 1, 0, 1]),
    ],
)
def test_bands_without_a_name_in_common(
    old: list[str], new: list[str], expected: list[float] | None
) -> None:
    if not old:
        source = (4, 3, 1, 1)
        assert adapt_bands(source, source, [], [("", band) for band in new]) is None
        return
    filters = adapt(old, new)
    assert (None if filters is None else filters.tolist()) == expected
