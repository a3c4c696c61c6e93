"""Paired tests against published values, direct counts and each other."""

from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_app.compare.paired_tests import difference_interval, holm, mcnemar, sign_flip


def test_mcnemar_s_p_is_a_binomial_tail() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 0) == pytest.approx(2 / 32)
    assert mcnemar(3, 9) == pytest.approx(2 * sum(comb(12, k) for k in range(4)) / 2**12)
    assert mcnemar(1000, 1200) == pytest.approx(2.2e-5, rel=0.05)  # sums that no float holds
    assert mcnemar(4, 4) == 1.0


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_symmetric_and_a_probability(one: int, two: int) -> None:
    assert 0 < mcnemar(one, two) == mcnemar(two, one) <= 1


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 400))
def test_an_interval_turns_with_its_models(one: int, two: int, both: int) -> None:
    count = one + two + both + 1
    interval, turned = (difference_interval(*pair, count) for pair in ((one, two), (two, one)))
    assert interval == pytest.approx((-turned.high, -turned.low))
    assert -1 <= interval.low <= (one - two) / (count + 2) <= interval.high <= 1


def test_signs_of_few_seeds_cannot_have_a_small_p() -> None:
    assert sign_flip([0.02, 0.03, 0.01]) == pytest.approx(2 / 8)
    assert sign_flip([0.02, 0.03, 0.01, 0.02, 0.05]) == pytest.approx(2 / 32)
    assert sign_flip([0.02, -0.02]) == 1.0
    assert sign_flip([0.0, 0.0, 0.0]) == 1.0
    assert sign_flip([]) == 1.0


def test_holm_s_values_rise_with_their_number() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
