from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc.site_weights import MEDIAN_FACTOR, WeightRules, parse_chip_limits

COUNTS = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), st.integers(1, 10**9))


def test_an_honest_federation_is_not_changed() -> None:
    counts = {"oslo": 4000, "porto": 250, "quito": 900, "lima": 210}
    assert WeightRules().limits(counts) == counts
    assert WeightRules(1.0).limits(counts) == counts
    assert WeightRules().limits({"oslo": 10**9}) == {"oslo": 10**9}


@pytest.mark.parametrize("num_sites", [2, 3, 10])
def test_a_claim_does_not_own_the_model(num_sites: int) -> None:
    counts = {f"site-{number}": 100 + number for number in range(num_sites - 1)}
    limits = WeightRules().limits(counts | {"liar": 10**15})
    assert {name: limits[name] for name in counts} == counts
    assert limits["liar"] <= MEDIAN_FACTOR * (100 + num_sites)
    limits = WeightRules(0.25 if num_sites > 3 else 0.5).limits(counts | {"liar": 10**15})
    share = limits["liar"] / sum(limits.values())
    assert share <= (0.25 if num_sites > 3 else 0.5)


def test_the_operators_limits_go_first() -> None:
    rules = WeightRules(chips={"oslo": 300, "lima": 10})
    assert rules.limits({"oslo": 4000, "porto": 250}) == {"oslo": 300, "porto": 250}


@given(COUNTS, st.floats(0.01, 1.0))
def test_no_site_has_more_than_its_share(counts: dict[str, int], share: float) -> None:
    limits = WeightRules(share).limits(counts)
    assert limits.keys() == counts.keys()
    assert all(1 <= limits[name] <= count for name, count in counts.items())
    if counts:
        equal = 1 / len(counts)
        largest = max(limits.values())
        allowed = max(share, equal) * sum(limits.values())
        assert largest <= allowed * (1 + 1e-9) or largest == min(counts.values())


@given(COUNTS)
def test_the_default_limits_what_is_far_above_the_others(counts: dict[str, int]) -> None:
    limits = WeightRules().limits(counts)
    for name, limit in limits.items():
        others = sorted(count for other, count in counts.items() if other != name)
        most = MEDIAN_FACTOR * others[(len(others) - 1) // 2] if others else counts[name]
        assert limit == min(counts[name], most)


def test_limits_are_read_from_a_text() -> None:
    assert parse_chip_limits("") == {}
    assert parse_chip_limits(" oslo = 5000,porto=2 ") == {"oslo": 5000, "porto": 2}


@pytest.mark.parametrize(
    "text", ["oslo", "oslo=", "oslo=0", "oslo=-1", "oslo=1.5", "=1", "a=1,a=2"]
)
def test_a_text_that_is_no_list_of_limits_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write each site once, with a number from 1"):
        parse_chip_limits(text)
