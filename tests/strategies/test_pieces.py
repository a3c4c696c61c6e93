import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from flwr.supercore import constant as flower
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import protocol
from rsdgc.errors import WireError
from strategies import pieces
from strategies.pieces import MAX_PIECES, PIECE_BYTES, in_pieces, joined

THINNEST_BITS_PER_S = 100_000
REQUEST_TIMEOUT_S = 30


@given(size=st.integers(0, 5 * PIECE_BYTES), seed=st.integers(0, 9))
def test_what_is_joined_is_what_was_cut(size: int, seed: int) -> None:
    payload = np.random.default_rng(seed).bytes(size)
    record = in_pieces(payload)
    assert all(array.numpy().size <= PIECE_BYTES for array in record.values())
    assert len(record) == max(1, -(-size // PIECE_BYTES))
    assert joined(record) == payload


def test_a_small_upload_is_one_array() -> None:
    assert list(in_pieces(bytes(PIECE_BYTES))) == [protocol.PACKED]


def test_the_order_of_arrival_does_not_matter() -> None:
    payload = np.random.default_rng(0).bytes(3 * PIECE_BYTES)
    record = in_pieces(payload)
    assert joined(ArrayRecord(dict(reversed(list(record.items()))))) == payload


def broken() -> dict[str, ArrayRecord]:
    whole = in_pieces(bytes(3 * PIECE_BYTES))
    one = Array(np.zeros(4, np.uint8))
    unreadable = Array(dtype="uint8", shape=(4,), stype="numpy.ndarray", data=b"no array")
    names = list(whole)
    return {
        "nothing": ArrayRecord({}),
        "another name": ArrayRecord({"weights": one}),
        "a piece is missing": ArrayRecord({name: whole[name] for name in (names[0], names[2])}),
        "a piece too many": ArrayRecord({**whole, protocol.PACKED: one}),
        "floats": ArrayRecord({protocol.PACKED: Array(np.zeros(4, np.float32))}),
        "two dimensions": ArrayRecord({protocol.PACKED: Array(np.zeros((2, 2), np.uint8))}),
        "one piece of floats": ArrayRecord({**whole, names[1]: Array(np.zeros(4, np.float32))}),
        "not an array": ArrayRecord({protocol.PACKED: unreadable}),
        "too many": ArrayRecord({f"packed-{i:04}": one for i in range(MAX_PIECES + 1)}),
    }


@pytest.mark.parametrize("name", list(broken()))
def test_what_is_no_upload_is_refused(name: str) -> None:
    with pytest.raises(WireError):
        joined(broken()[name])


def test_two_pieces_pass_a_thin_link_before_flower_gives_up() -> None:
    """Flower sends two objects side by side and waits so long for either."""
    beside = flower.FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PUSHES
    seconds = beside * pieces.PIECE_BYTES * 8 / THINNEST_BITS_PER_S
    assert seconds < REQUEST_TIMEOUT_S < flower.OBJECT_PUSH_SESSION_TTL_SECONDS
