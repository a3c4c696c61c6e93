from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsdgc import (
    RMS,
    Compressor,
    ErrorFeedback,
    ModelSpec,
    RsdgcError,
    Scheme,
    SettingError,
    Stamp,
    WireError,
    decode,
    make_indicator,
)
from rsdgc.feedback import correct_momentum, mask_velocity, step_ahead_share
from tests.rsdgc.examples import (
    MIXED,
    budgets,
    exact_schemes,
    gentle,
    indicators,
    normal,
    ratio_vectors,
    schemes,
    specs,
    vectors,
)


def feedback(spec, scheme, indicator=None, residual=None):
    return ErrorFeedback(Compressor(spec, scheme, indicator or make_indicator("nsi")), residual)


def same_bits(left, right):
    """Equal to the last bit; zeros may differ in sign, which no sum can keep."""
    return np.array_equal(left + np.float32(0), right + np.float32(0))


@given(st.data())
def test_sent_plus_residual_is_the_change_exactly(data):
    spec, scheme = data.draw(specs), data.draw(exact_schemes)
    change = data.draw(vectors(spec.size))
    site = feedback(spec, scheme, data.draw(indicators))
    payload = site.compress(change.copy(), data.draw(ratio_vectors(spec)), Stamp())
    sent = decode(payload, spec).to_dense()
    assert same_bits(sent + site.residual, change)
    assert not (sent.astype(bool) & site.residual.astype(bool)).any()


@given(st.data())
def test_exact_too_with_a_residual_from_before(data):
    spec, scheme = data.draw(specs), data.draw(exact_schemes)
    change, old = (data.draw(vectors(spec.size, gentle)) for _ in range(2))
    site = feedback(spec, scheme, residual=old.copy())
    payload = site.compress(change.copy(), data.draw(ratio_vectors(spec)), Stamp())
    assert same_bits(decode(payload, spec).to_dense() + site.residual, change + old)


@given(st.data())
def test_roll_back_restores_exactly(data):
    spec, scheme = data.draw(specs), data.draw(exact_schemes)
    change, old = (data.draw(vectors(spec.size, gentle)) for _ in range(2))
    site = feedback(spec, scheme, residual=old.copy())
    site.roll_back(site.compress(change.copy(), data.draw(ratio_vectors(spec)), Stamp()))
    assert same_bits(site.residual, change + old)


@given(st.data())
def test_rounding_of_values_is_fed_back(data):
    spec, scheme = data.draw(specs), data.draw(schemes)
    change = data.draw(vectors(spec.size, gentle))
    site = feedback(spec, scheme)
    ratios, budget = data.draw(ratio_vectors(spec)), data.draw(budgets(spec))
    payload = site.compress(change.copy(), ratios, Stamp(), budget)
    sent = decode(payload, spec).to_dense()
    assert np.abs(sent + site.residual - change).max() <= 1e-5
    site.roll_back(payload)
    assert np.abs(site.residual - change).max() <= 1e-5


@pytest.mark.slow
@given(
    st.lists(st.booleans(), min_size=1, max_size=30),
    st.integers(0, 3),
    st.sampled_from(["deadzone", "int8", "ternary"]),
)
@settings(max_examples=max(20, settings.default.max_examples // 50))  # of up to 30 rounds
def test_conservation_over_rounds_with_lost_uploads(accepted, seed, values):
    rng = np.random.default_rng(seed)
    site = feedback(MIXED, Scheme(values=values))
    received = np.zeros(MIXED.size, np.float64)
    changes = np.zeros(MIXED.size, np.float64)
    for number, arrives in enumerate(accepted):
        change = rng.standard_normal(MIXED.size).astype(np.float32)
        changes += change
        payload = site.compress(change, [0.1] * 8, Stamp(round=number), 150)
        if arrives:
            received += decode(payload, MIXED).to_dense()
        else:
            site.roll_back(payload)
    scale = np.abs(changes).max()
    assert np.abs(received + site.residual - changes).max() <= 1e-5 * scale


def test_everything_is_sent_in_time():
    site = feedback(MIXED, Scheme(values="float32", dense_values="float32"))
    change = normal(MIXED.size)
    received = decode(site.compress(change.copy(), [0.2] * 8, Stamp()), MIXED).to_dense()
    for _ in range(12):
        received += decode(site.compress(change * 0, [0.2] * 8, Stamp()), MIXED).to_dense()
    assert np.array_equal(received, change)
    assert not site.residual.any()


def test_levels_send_nearly_everything_in_time():
    site = feedback(MIXED, Scheme())
    change = normal(MIXED.size)
    received = np.zeros(MIXED.size, np.float32)
    for number in range(40):
        step = change.copy() if number == 0 else change * 0
        received += decode(site.compress(step, [0.5] * 8, Stamp(), 200), MIXED).to_dense()
    assert np.square(site.residual).sum() < 1e-6 * np.square(change).sum()
    assert received == pytest.approx(change, abs=1e-2)


def test_the_memory_of_change_and_residual_is_used():
    old, change = normal(MIXED.size), normal(MIXED.size, 1)
    before = old.copy()
    site = feedback(MIXED, Scheme(), residual=old)
    assert site.residual is old
    payload = site.compress(change, [0.1] * 8, Stamp(), 200)
    assert site.residual is change
    assert np.array_equal(old, before)
    site.roll_back(payload)
    assert site.residual is change


def test_errors_leave_the_residual_as_it_was():
    site = feedback(MIXED, Scheme(), residual=normal(MIXED.size))
    site.compress(normal(MIXED.size, 1), [0.1] * 8, Stamp(), 200)
    before = site.residual.copy()
    bad = normal(MIXED.size)
    bad[5] = np.nan
    with pytest.raises(RsdgcError):
        site.compress(bad, [0.1] * 8, Stamp(), 200)
    with pytest.raises(SettingError):
        site.compress(normal(MIXED.size), [2.0] * 8, Stamp(), 200)
    with pytest.raises(SettingError, match="allow more"):
        site.compress(normal(MIXED.size), [0.1] * 8, Stamp(), 20)
    with pytest.raises(SettingError):
        site.compress(normal(3), [0.1] * 8, Stamp(), 200)
    with pytest.raises(WireError):
        site.roll_back(b"not an upload")
    assert np.array_equal(site.residual, before)


def test_overflow_is_an_error_not_an_infinity():
    largest = np.full(MIXED.size, np.finfo(np.float32).max, np.float32)
    site = feedback(MIXED, Scheme(), residual=largest)
    with pytest.raises(RsdgcError, match="inf"):
        site.compress(largest.copy(), [0.1] * 8, Stamp(), 200)
    assert np.array_equal(site.residual, largest)


def test_residuals_that_do_not_fit_are_refused():
    with pytest.raises(SettingError, match="the residual"):
        feedback(MIXED, Scheme(), residual=np.zeros(3, np.float32))


def test_velocity_is_the_decaying_sum_of_changes():
    velocity = np.zeros(5, np.float32)
    for number in range(3):
        change = np.full(5, number + 1, np.float32)
        correct_momentum(velocity, change, 0.5)
        assert np.array_equal(change, velocity)
    assert velocity.tolist() == [0.25 * 1 + 0.5 * 2 + 3] * 5


def test_without_momentum_the_change_is_sent_as_it_is():
    velocity, change = normal(7), normal(7, 1)
    correct_momentum(velocity, change, 0.0)
    assert np.array_equal(change, normal(7, 1))


@pytest.mark.parametrize("scheme", [Scheme(values="float32"), Scheme(neighborhood="tile")])
def test_velocity_is_masked_where_something_was_sent(scheme):
    update = normal(MIXED.size)
    compressor = Compressor(MIXED, scheme, make_indicator("nsi"))
    sent = compressor.compress(update, [0.3] * 7 + [1.0], Stamp(), 600)
    velocity = np.ones(MIXED.size, np.float32)
    mask_velocity(velocity, sent)
    for view, part in zip(MIXED.views(velocity), sent.layers, strict=True):
        ids = np.arange(part.grid.count) if part.ids is None else part.ids
        inside = np.zeros(view.size, bool)
        inside[part.grid.elements(ids)] = True
        assert not view[inside].any()
        assert (view[~inside] == 1).all()


@pytest.mark.parametrize("momentum", [-0.1, 1.0, np.nan])
def test_momentum_out_of_range_is_refused(momentum):
    with pytest.raises(SettingError, match="momentum correction"):
        correct_momentum(normal(3), normal(3), momentum)


@given(
    residual=st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=9),
    last_change=st.floats(0, 100),
    bound=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
)
def test_a_step_ahead_is_never_longer_than_its_bound(residual, last_change, bound):
    vector = np.array(residual, np.float32)
    share = step_ahead_share(vector, last_change, bound)
    length = float(np.linalg.norm(vector.astype(np.float64)))
    assert 0 <= share <= 1
    assert share * length <= bound * last_change * (1 + 1e-9)
    if 0 < length <= bound * last_change:
        assert share == 1
    if bound == 0 or last_change == 0 or length == 0:
        assert share == 0


def test_a_transform_is_refused_where_it_is_not_applied() -> None:
    spec = ModelSpec.from_shapes({"conv.weight": (8, 8, 3, 3)})
    compressor = Compressor(spec, Scheme(transform="channels"), RMS())
    with pytest.raises(SettingError, match="transform='none', or compress_with_feedback"):
        ErrorFeedback(compressor)
