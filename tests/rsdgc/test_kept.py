import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import Neighborhoods
from rsdgc.indices import code_ids
from rsdgc.kept import Kept, all_ids, whole_bytes
from tests.rsdgc.examples import normal


@given(st.lists(st.integers(0, 10_000), max_size=40), st.integers(1, 7))
def test_whole_bytes_add_up(eighths, divisor):
    bits = np.array(eighths, dtype=np.float64) / divisor
    found = whole_bytes(bits)
    assert len(found) == len(eighths)
    assert sum(found) == np.rint(bits.sum() / 8)
    assert (np.abs(np.array(found) - bits / 8) <= 1 + 1e-6).all()


def test_all_ids_are_left_out_where_they_say_nothing():
    assert all_ids(Neighborhoods(4, 13, 1, 9)) is None
    assert all_ids(Neighborhoods(4, 13, 2, 2)).tolist() == list(range(14))


def test_sizes_and_parts_of_what_is_coded():
    hoods = Neighborhoods(2, 20, 1, 5)
    layers = [
        Kept(hoods, ids, hoods.gather(normal(40), ids))
        for ids in (np.arange(8), np.array([1, 5]), np.arange(0))
    ]
    for indices, id_bytes in (("rice", 1), ("int32", 8)):
        coded = code_ids(layers, indices)
        assert coded.counts == b"\x02\x00"
        assert coded.size == 2 + len(coded.unary) + len(coded.plain) + len(coded.raw_ids)
        parts = coded.parts()
        assert parts[0].ids is None
        assert [part.kept for part in parts] == [8, 2, 0]
        assert [part.num_bytes for part in parts] == [0, id_bytes, 0]
        assert np.array_equal(parts[1].values, layers[1].values)
