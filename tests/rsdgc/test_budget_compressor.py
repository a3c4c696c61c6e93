import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsdgc import BudgetCompressor, Compression, RsdgcError, Scheme, SettingError, decode
from rsdgc.compression import budget_of_step
from tests.rsdgc.examples import MIXED, exact_schemes, gentle, normal, specs, vectors
from tests.rsdgc.models import small_resnet

EXACT = Scheme(values="float32", dense_values="float32")


def gradients(spec, seed):
    return spec.views(normal(spec.size, seed))


@given(st.data())
@settings(max_examples=100)
def test_what_is_sent_and_what_is_kept_add_up_to_the_gradients(data):
    spec, scheme = data.draw(specs), data.draw(exact_schemes)
    ratios = {layer.name: data.draw(st.floats(0, 1)) for layer in spec.layers}
    compressor = BudgetCompressor(spec, Compression(scheme=scheme, ratios=ratios))
    first, second = data.draw(vectors(spec.size, gentle)), data.draw(vectors(spec.size, gentle))
    sent = np.zeros(spec.size, np.float64)
    for vector in (first, second):
        before = vector.copy()
        sent += decode(compressor.compress(spec.views(vector)).payload, spec).to_dense()
        assert np.array_equal(vector, before)
    np.testing.assert_allclose(sent + compressor.residual, first + second, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("policy", ["update", "weight", "uniform"])
def test_payloads_keep_to_the_budget(policy):
    spec = small_resnet()
    compressor = BudgetCompressor(spec, Compression("100x", policy=policy))
    weights = normal(spec.size, 99)
    sizes = [
        len(compressor.compress(gradients(spec, seed), lambda: weights).payload)
        for seed in range(3)
    ]
    assert sizes == pytest.approx([spec.dense_bytes / 100] * 3, rel=0.011)


def test_the_ratios_follow_the_ranking_of_neurons():
    spec = small_resnet()
    scheme = Scheme("tile", values="float32")
    compressor = BudgetCompressor(
        spec, Compression("50x", policy="weight", scheme=scheme, ratios_every=2)
    )
    even = normal(spec.size, 1)
    compressor.compress(gradients(spec, 2), lambda: even)
    before = compressor.ratios.copy()
    large = even.copy()
    spec.views(large)[6][:] *= 1000  # the convolution whose neurons are now the top
    compressor.compress(gradients(spec, 3), lambda: large)
    assert np.array_equal(compressor.ratios, before)
    compressor.compress(gradients(spec, 4), lambda: large)
    assert compressor.ratios[6] > before[6]


def test_weights_are_needed_to_rank_neurons():
    first, second = (
        BudgetCompressor(small_resnet(), Compression(policy="weight")) for _ in range(2)
    )
    values = gradients(first.spec, 0)
    with pytest.raises(SettingError, match="pass weights"):
        first.compress(values)
    # With them it goes on as if nothing had been.
    weights = normal(first.spec.size, 99)
    payloads = [each.compress(values, lambda: weights).payload for each in (first, second)]
    assert payloads[0] == payloads[1]
    assert np.array_equal(first.residual, second.residual)


def test_momentum_is_corrected_and_masked():
    spec = MIXED
    ratios = dict.fromkeys((layer.name for layer in spec.layers), 0.3)
    compressor = BudgetCompressor(
        spec, Compression(scheme=EXACT, ratios=ratios, momentum=0.9, clip_norm=0.0)
    )
    velocity, residual = np.zeros(spec.size), np.zeros(spec.size)
    for seed in range(4):
        gradient = normal(spec.size, seed)
        sent = compressor.compress(spec.views(gradient)).to_dense()
        velocity = 0.9 * velocity + gradient
        residual = residual + velocity - sent
        velocity[sent != 0] = 0
        np.testing.assert_allclose(compressor.residual, residual, atol=1e-5)
        np.testing.assert_allclose(compressor.state().velocity, velocity, atol=1e-5)


def test_each_worker_clips_by_the_square_root_of_their_number():
    spec = MIXED
    ratios = dict.fromkeys((layer.name for layer in spec.layers), 0.0)
    compressor = BudgetCompressor(
        spec, Compression(scheme=EXACT, ratios=ratios, clip_norm=2.0), workers=4
    )
    gradient = normal(spec.size)
    compressor.compress(spec.views(gradient))
    assert np.linalg.norm(compressor.residual) == pytest.approx(2.0 / 2)
    compressor.residual[:] = 0
    compressor.compress(spec.views(gradient * np.float32(1e-3)))
    assert np.array_equal(compressor.residual, gradient * np.float32(1e-3))


def test_a_layer_without_a_gradient_takes_no_part():
    spec = MIXED
    ratios = dict.fromkeys((layer.name for layer in spec.layers), 0.5)
    compressor = BudgetCompressor(spec, Compression(scheme=EXACT, ratios=ratios, momentum=0.9))
    compressor.compress(gradients(spec, 0))
    before = [view.copy() for view in spec.views(compressor.residual)]
    velocity = spec.views(compressor.state().velocity)[6].copy()
    absent = list(gradients(spec, 1))
    absent[0] = None
    absent[6] = np.zeros_like(absent[6])
    sent = compressor.compress(absent)
    assert sent.layers[0].kept == sent.layers[6].kept == 0
    assert sent.layers[7].kept > 0
    after = spec.views(compressor.residual)
    assert np.array_equal(after[0], before[0])
    assert np.array_equal(after[6], before[6])
    assert np.array_equal(spec.views(compressor.state().velocity)[6], velocity)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_names_its_layer_and_changes_nothing(bad):
    spec = small_resnet()
    compressor = BudgetCompressor(spec, Compression(momentum=0.9))
    compressor.compress(gradients(spec, 0))
    state = compressor.state()
    before = state.residual.copy(), state.velocity.copy()
    vector = normal(spec.size, 1)
    spec.views(vector)[4][7] = bad
    with pytest.raises(RsdgcError, match=spec.layers[4].name):
        compressor.compress(spec.views(vector))
    assert np.array_equal(compressor.residual, before[0])
    assert np.array_equal(compressor.state().velocity, before[1])
    assert compressor.step == 1


@pytest.mark.parametrize(
    "wrong",
    [
        lambda last: last[:1],  # NumPy would add it to every element
        lambda last: last.reshape(-1, 1),
        lambda last: last.astype(np.float64),
        lambda last: last.tolist(),
    ],
)
def test_a_gradient_of_another_shape_or_type_is_refused_and_changes_nothing(wrong):
    spec = small_resnet()
    compressor = BudgetCompressor(spec, Compression(momentum=0.9))
    *others, last = gradients(spec, 0)
    with pytest.raises(SettingError, match=f"the gradient of layer '{spec.layers[-1].name}' is"):
        compressor.compress([*others, wrong(last)])
    with pytest.raises(SettingError, match=f"pass {len(spec.layers)}, one for each layer"):
        compressor.compress(others)
    assert not compressor.residual.any()
    assert compressor.step == 0


def test_a_dense_step_is_one_of_plain_momentum():
    spec = small_resnet()
    compressor = BudgetCompressor(spec, Compression(momentum=0.5, dense_steps=2))
    velocity = np.zeros(spec.size)
    for seed in range(2):
        assert compressor.is_dense
        compressor.add(gradients(spec, seed))
        velocity = 0.5 * velocity + normal(spec.size, seed)
        np.testing.assert_allclose(compressor.send_everything(), velocity, atol=1e-5)
        assert not compressor.residual.any()
    assert not compressor.is_dense


def test_the_warm_up_has_the_stages_of_dgc():
    compression = Compression("1000x", dense_steps=3, warm_up_steps=8)
    kept = [budget_of_step(compression, 10**6, step) / 10**6 for step in range(12)]
    assert kept[:3] == [1.0] * 3
    expected = np.repeat([1000**-0.2, 1000**-0.4, 1000**-0.6, 1000**-0.8], 2)
    assert kept[3:11] == pytest.approx(list(expected))
    assert kept[11] == pytest.approx(1e-3)
    assert kept[3] == pytest.approx(0.25, rel=0.01)


def test_uploads_shrink_stage_by_stage():
    spec = small_resnet()
    compressor = BudgetCompressor(spec, Compression("200x", warm_up_steps=4, ratios_every=100))
    sizes = [len(compressor.compress(gradients(spec, seed)).payload) for seed in range(5)]
    expected = [spec.dense_bytes / 200 ** (stage / 5) for stage in range(1, 6)]
    assert sizes[1:] == pytest.approx(expected[1:], rel=0.011)
    assert sizes[0] > sizes[1]


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 3, 5])
@pytest.mark.parametrize("policy", ["update", "weight"])
def test_a_resumed_training_equals_an_uninterrupted_one(at, policy):
    spec = small_resnet()
    compression = Compression(
        "100x", policy=policy, momentum=0.9, dense_steps=1, warm_up_steps=3, ratios_every=4
    )

    def step(compressor, seed):
        weights = normal(spec.size, 1000 + seed)
        present = compressor.add(gradients(spec, seed))
        if compressor.is_dense:
            return compressor.send_everything().tobytes()
        return compressor.encode(present, lambda: weights).payload

    whole = BudgetCompressor(spec, compression)
    expected = [step(whole, seed) for seed in range(8)]
    interrupted = BudgetCompressor(spec, compression)
    assert [step(interrupted, seed) for seed in range(at)] == expected[:at]
    resumed = BudgetCompressor(spec, compression)
    resumed.restore(interrupted.state())
    assert [step(resumed, seed) for seed in range(at, 8)] == expected[at:]


def test_a_state_of_another_model_or_other_settings_is_refused():
    state = BudgetCompressor(small_resnet()).state()
    with pytest.raises(SettingError, match="residual has"):
        BudgetCompressor(small_resnet(classes=5)).restore(state)
    with pytest.raises(SettingError, match="velocity has 0 elements"):
        BudgetCompressor(small_resnet(), Compression(momentum=0.9)).restore(state)


def test_what_did_not_arrive_is_sent_again():
    spec = small_resnet()
    compressor = BudgetCompressor(spec)
    lost = compressor.compress(gradients(spec, 0))
    compressor.roll_back(lost)
    np.testing.assert_allclose(compressor.residual, normal(spec.size, 0), atol=1e-6)


def test_a_budget_that_is_too_small_is_refused_at_once():
    with pytest.raises(SettingError, match="allow at least"):
        BudgetCompressor(small_resnet(), Compression("100"))


@pytest.mark.parametrize("names", [["stem.weight"], ["missing"]])
def test_ratios_are_named_as_the_layers(names):
    with pytest.raises(SettingError, match=r"has no ratio|is not in the model"):
        BudgetCompressor(MIXED, Compression(ratios=dict.fromkeys(names, 0.1)))
