import numpy as np
import pytest
from numpy.typing import NDArray

from rsdgc import Compressor, ModelSpec, Scheme, Stamp, make_indicator
from rsdgc.errors import SettingError
from rsdgc.ratios import least_bytes
from strategies.rate_control import Policy, RateControl, typical_bytes

SPEC = ModelSpec.from_shapes(
    {
        "stem.weight": (16, 3, 3, 3),
        "stem.bias": (16,),
        "body.weight": (64, 16, 3, 3),
        "tail.weight": (64, 64, 3, 3),
        "head.weight": (10, 64),
    }
)


def update(seed: int, loud: int = -1) -> NDArray[np.float32]:
    flat = np.random.default_rng(seed).standard_t(3, SPEC.size).astype(np.float32)
    if loud >= 0:
        SPEC.views(flat)[loud][:] *= 20
    return flat


def control(policy: Policy, times: float = 20.0) -> RateControl:
    rates = RateControl(SPEC, Scheme(), policy, SPEC.dense_bytes / times)
    rates.begin(update(0))
    return rates


def encoded_bytes(rates: RateControl, seed: int) -> int:
    compressor = Compressor(SPEC, Scheme(), make_indicator("nsi"))
    sent = compressor.compress(update(seed), rates.ratios, Stamp(1, 1, 0), rates.target_bytes)
    return len(sent.payload)


@pytest.mark.parametrize("policy", ["weight", "update", "uniform"])
def test_the_loop_keeps_uploads_with_their_overhead_on_budget(policy: Policy) -> None:
    rates, overhead = control(policy), 400
    for number in range(12):
        measured = encoded_bytes(rates, number) + overhead
        rates.adjust(update(number), update(number + 50), measured)
    assert measured == pytest.approx(rates.budget_bytes, rel=0.02)


def test_a_loud_layer_gets_more_under_the_update_policy() -> None:
    rates = control("update", times=100.0)
    before = rates.ratios.copy()
    for number in range(4):
        rates.adjust(update(0), update(number, loud=2), rates.budget_bytes)
    assert rates.ratios[2] > 2 * before[2]
    assert (rates.ratios > 0).all()


def test_a_budget_of_the_whole_model_sends_everything() -> None:
    rates = control("update", times=1.0)
    assert (rates.ratios == 1.0).all()
    rates.adjust(update(0), update(1), 2.0 * SPEC.dense_bytes)
    assert (rates.ratios == 1.0).all()


def test_replies_of_about_one_size_count_as_their_mean() -> None:
    replies = [(1000, 1.0), (940, 1.0), (1060, 1.0), (510, 0.5)]
    assert typical_bytes(replies) == (1000 + 940 + 1060 + 510) / 3.5


@pytest.mark.parametrize("wild", [0, 1, 799, 1251, 4000, 10**12])
def test_a_wild_reply_does_not_change_the_budget_of_the_others(wild: int) -> None:
    honest = [(1000 + number, 1.0) for number in range(-2, 3)]
    alone = typical_bytes(honest)
    assert typical_bytes([*honest, (wild, 1.0)]) == pytest.approx(alone, rel=2e-3)


def test_one_wild_measurement_moves_the_level_little() -> None:
    rates = control("uniform")
    rates.adjust(update(0), update(1), 100 * rates.budget_bytes)
    assert rates.target_bytes == pytest.approx(rates.budget_bytes / 1.25)


def test_a_warm_up_begins_with_a_quarter_of_the_model_and_keeps_the_run_on_budget() -> None:
    rates = RateControl(
        SPEC, Scheme(), "uniform", SPEC.dense_bytes / 20, rounds=30, warm_up_rounds=5
    )
    asked = []
    for _ in range(30):
        asked.append(rates.reply_bytes)
        rates.adjust(update(0), update(1), rates.reply_bytes)
    assert np.mean(asked) == pytest.approx(rates.budget_bytes)
    assert asked[0] / asked[-1] == pytest.approx(5.0)
    assert (np.diff(asked) <= 0).all()
    assert asked[5] == asked[-1]


def test_a_warm_up_goes_on_where_it_was_whichever_sites_are_there_now() -> None:
    def begun(warm_up_rounds: int) -> RateControl:
        budget = SPEC.dense_bytes / 20
        return RateControl(
            SPEC, Scheme(), "uniform", budget, rounds=30, warm_up_rounds=warm_up_rounds
        )

    first, resumed = begun(5), begun(9)
    first.adjust(update(0), update(1), first.reply_bytes)
    resumed.restore(first.state())
    for _ in range(29):
        assert resumed.reply_bytes == first.reply_bytes
        for rates in (first, resumed):
            rates.adjust(update(0), update(1), rates.reply_bytes)
    old = first.state()
    del old.values["warm_up_rounds"]
    begun(5).restore(old)


def test_a_method_that_sends_layers_whole_does_so_on_any_budget() -> None:
    scheme = Scheme(dense_values="int8")
    rates = RateControl(SPEC, scheme, "whole", SPEC.dense_bytes / 100)
    assert (rates.ratios == 1.0).all()


@pytest.mark.parametrize("policy", ["weight", "update", "uniform"])
def test_overhead_that_takes_most_of_a_small_budget_does_not_end_the_run(policy: Policy) -> None:
    least = least_bytes(SPEC, Scheme())
    rates = RateControl(SPEC, Scheme(), policy, 1.1 * least)
    rates.begin(update(0), overhead_bytes=int(0.9 * least))
    for number in range(8):
        assert rates.target_bytes == pytest.approx(least, rel=0.11)
        rates.adjust(update(0), update(number), 2 * least)
    with pytest.raises(SettingError, match="allow at least"):
        RateControl(SPEC, Scheme(), policy, 0.99 * least)
