import numpy as np
import pytest

from rsdgc import Compressor, Scheme, SettingError, Stamp, make_indicator
from rsdgc.momentum import accumulate, mask
from tests.rsdgc.examples import MIXED, normal


def test_velocity_is_the_decaying_sum_of_changes():
    velocity = np.zeros(5, np.float32)
    for number in range(3):
        change = np.full(5, number + 1, np.float32)
        accumulate(velocity, change, 0.5)
        assert np.array_equal(change, velocity)
    assert velocity.tolist() == [0.25 * 1 + 0.5 * 2 + 3] * 5


def test_without_momentum_the_change_is_sent_as_it_is():
    velocity, change = normal(7), normal(7, 1)
    accumulate(velocity, change, 0.0)
    assert np.array_equal(change, normal(7, 1))


@pytest.mark.parametrize("scheme", [Scheme(values="float32"), Scheme(neighborhood="tile")])
def test_velocity_is_masked_where_something_was_sent(scheme):
    update = normal(MIXED.size)
    compressor = Compressor(MIXED, scheme, make_indicator("nsi"))
    sent = compressor.compress(update, [0.3] * 7 + [1.0], Stamp(), 600)
    velocity = np.ones(MIXED.size, np.float32)
    mask(velocity, sent)
    for view, part in zip(MIXED.views(velocity), sent.parts, strict=True):
        ids = np.arange(part.hoods.count) if part.ids is None else part.ids
        inside = np.zeros(view.size, bool)
        inside[part.hoods.elements(ids)] = True
        assert not view[inside].any()
        assert (view[~inside] == 1).all()


@pytest.mark.parametrize("momentum", [-0.1, 1.0, np.nan])
def test_momentum_out_of_range_is_refused(momentum):
    with pytest.raises(SettingError, match="momentum correction"):
        accumulate(normal(3), normal(3), momentum)
