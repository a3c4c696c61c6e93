import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import AGGREGATORS, ModelSpec, NormClip, SettingError, SparseUpdate
from rsdgc.clipping import DEFAULT_MULTIPLE, GROWTH, WINDOW

SPEC = ModelSpec.from_shapes({"conv.weight": (4, 3, 3, 3), "head.weight": (3, 4)})
norms = st.floats(1e-6, 1e6)
rounds = st.lists(norms, min_size=1, max_size=12)


def by_site(values):
    return {f"site-{number:02}": value for number, value in enumerate(values)}


@given(st.lists(st.floats(1, DEFAULT_MULTIPLE), min_size=1, max_size=12))
def test_norms_within_the_multiple_of_each_other_are_not_clipped(values):
    clip = NormClip()
    for _ in range(3):
        assert clip.shares(by_site(values)) == {}
        clip.record(by_site(values), {})


@given(rounds, st.permutations(range(12)), st.lists(rounds, max_size=4))
def test_the_order_of_the_sites_does_not_matter(values, order, history):
    clip = NormClip(2)
    for before in history:
        clip.record(by_site(before), {})
    sites = by_site(values)
    shuffled = {name: sites[name] for name in (f"site-{i:02}" for i in order) if name in sites}
    assert clip.shares(sites, sites) == clip.shares(shuffled, shuffled)
    assert clip.reference(sites) == clip.reference(shuffled)


@given(st.lists(st.floats(0.7, 2), min_size=3, max_size=9), st.floats(0, 1e30), st.data())
def test_what_a_scaled_minority_counts_by_is_bounded_whatever_its_length(honest, length, data):
    hostile = data.draw(st.integers(1, (len(honest) - 1) // 2))
    clip = NormClip(DEFAULT_MULTIPLE)
    sites = by_site(honest) | {f"zz-{i}": length for i in range(hostile)}
    shares = clip.shares(sites)
    assert clip.reference(sites) <= max(honest)
    for name, norm in sites.items():
        assert norm * shares.get(name, 1.0) <= DEFAULT_MULTIPLE * max(honest) * (1 + 1e-9)
    assert not set(by_site(honest)) & set(shares)


@given(st.floats(1.01, 100))
def test_the_further_beyond_the_limit_the_less_an_update_counts(step):
    counted = [
        norm * NormClip().shares({"a": 1.0, "b": 1.0, "c": norm})["c"]
        for norm in (DEFAULT_MULTIPLE * step, DEFAULT_MULTIPLE * step**2)
    ]
    assert counted[1] < counted[0] < DEFAULT_MULTIPLE


def test_a_site_with_more_chips_and_one_that_missed_rounds_have_a_higher_limit():
    sites = {"a": 1.0, "b": 1.0, "c": 1.0, "late": 5.9, "large": 5.9}
    weights = {"a": 100, "b": 100, "c": 90, "late": 50, "large": 200}
    clip = NormClip(3)
    assert set(clip.shares(sites)) == {"late", "large"}
    assert set(clip.shares(sites, weights)) == {"late"}
    assert clip.shares(sites, weights, {"late": 3}) == {}
    assert clip.shares({**sites, "late": 6.1}, weights, {"late": 1000}).keys() == {"late"}


def test_history_holds_in_a_round_with_a_hostile_majority():
    clip = NormClip()
    for _ in range(3):
        clip.record({"a": 1.0, "b": 1.1, "c": 0.9}, {})
    assert clip.reference({"x": 100.0, "y": 100.0, "a": 1.0}) == GROWTH * 1.0
    shares = clip.shares({"x": 100.0, "y": 100.0, "a": 1.0})
    assert shares == pytest.approx({"x": 3**2 / 50**3, "y": 3**2 / 50**3})


@given(st.lists(rounds, min_size=1, max_size=30))
def test_the_history_goes_through_a_checkpoint_bit_for_bit(history):
    one, other = NormClip(), NormClip()
    for number, values in enumerate(history):
        if number == len(history) // 2:
            other.medians = json.loads(json.dumps(one.medians))
        for clip in (one, other) if number >= len(history) // 2 else (one,):
            clip.record(by_site(values), clip.shares(by_site(values)))
    assert one.medians == other.medians
    assert len(one.medians) == min(WINDOW, len(history))


def test_updates_of_no_length_do_not_lower_the_reference():
    assert NormClip().reference({"a": 0.0, "b": 0.0, "c": 0.0, "d": 3.0}) == 3.0
    clip = NormClip()
    assert clip.shares({"a": 0.0, "b": 0.0}) == {}
    clip.record({"a": 0.0}, {})
    assert clip.medians == []


def test_zero_turns_clipping_off():
    clip = NormClip(0)
    assert clip.shares({"a": 1.0, "b": 1.0, "c": 1e30}) == {}
    clip.record({"a": 1.0}, {})
    assert clip.medians == []


@pytest.mark.parametrize("multiple", [-1, 0.5, math.inf, math.nan])
def test_other_multiples_are_refused(multiple):
    with pytest.raises(SettingError, match="choose 0 or from 1"):
        NormClip(multiple)


@given(
    st.sampled_from(["mean", "trimmed-mean"]),
    st.integers(3, 8),
    st.floats(0, 1e12),
    st.integers(0, 2**32 - 1),
)
def test_one_site_moves_the_model_by_a_bounded_length(rule, count, factor, seed):
    """With real aggregation: at most its share of the weight times its limit, for the mean."""
    rng = np.random.default_rng(seed)
    updates = rng.standard_normal((count, SPEC.size)).astype(np.float32)
    updates[-1] *= -np.float32(factor)

    def combined(updates):
        uploads = AGGREGATORS[rule](SPEC)
        for number, update in enumerate(updates):
            uploads.add(f"site-{number}", SparseUpdate.from_dense(SPEC, update), 1.0)
        uploads.clip(NormClip().shares(uploads.norms))
        return uploads.combine(), NormClip().reference(uploads.norms)

    with_site, reference = combined(updates)
    silent = updates.copy()
    silent[-1] = 0
    if rule == "mean":
        moved = np.linalg.norm(with_site - combined(silent)[0])
        assert moved <= DEFAULT_MULTIPLE * reference / count * (1 + 1e-4)
    assert np.linalg.norm(with_site) <= (1 + DEFAULT_MULTIPLE / count) * max(
        np.linalg.norm(updates[:-1], axis=1)
    )
