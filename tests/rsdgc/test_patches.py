from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import NSI, Compressor, Scheme, Stamp
from rsdgc.errors import WireError
from rsdgc.patches import (
    FINGERPRINT_BYTES,
    apply_patches,
    fingerprint,
    pack_patches,
    read_patch,
    unpack_patches,
)
from tests.rsdgc.examples import MIXED

RUN = 7


def patch(version: int, run: int = RUN, base: int | None = None) -> bytes:
    rng = np.random.default_rng(version)
    update = rng.standard_normal(MIXED.size).astype(np.float32)
    stamp = Stamp(run, version, version - 1 if base is None else base)
    compressor = Compressor(MIXED, Scheme(values="int8"), NSI())
    return compressor.compress(update, np.full(len(MIXED.layers), 0.5), stamp).payload


def start() -> np.ndarray:
    return np.random.default_rng(99).standard_normal(MIXED.size).astype(np.float32)


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_what_is_packed_is_unpacked(patches: list[bytes]) -> None:
    assert unpack_patches(pack_patches(patches)) == patches


@given(st.lists(st.binary(max_size=20), max_size=4), st.data())
def test_a_buffer_of_another_length_is_refused(patches: list[bytes], data: st.DataObject) -> None:
    packed = pack_patches(patches)
    cut = data.draw(st.integers(0, len(packed) - 1))
    for wrong in (packed[:cut], packed + b"x"):
        with pytest.raises(WireError):
            unpack_patches(wrong)


@given(st.binary(max_size=60))
def test_anything_else_is_refused_or_read(buffer: bytes) -> None:
    with suppress(WireError):
        assert pack_patches(unpack_patches(buffer)) == buffer


def test_a_claim_of_more_than_arrived_takes_no_memory() -> None:
    with pytest.raises(WireError, match="it is not valid, resend it"):
        unpack_patches(b"RSDP" + b"\xff" * 4 + bytes(100))
    with pytest.raises(WireError, match="resend"):
        unpack_patches(b"RSDP" + (1).to_bytes(4, "little") + b"\xff" * 8)


def test_patches_add_up_in_any_packets() -> None:
    patches = [patch(version) for version in range(1, 6)]
    one, two = start(), start()
    assert apply_patches(one, 0, patches, MIXED, RUN) == 5
    version = 0
    for first, last in ((0, 2), (0, 3), (1, 4), (4, 5), (3, 5)):  # overlaps are passed over
        version = apply_patches(two, version, patches[first:last], MIXED, RUN)
        assert version == last
    assert fingerprint(one) == fingerprint(two)


@pytest.mark.parametrize(
    "patches",
    [
        [patch(2)],
        [patch(1), patch(3)],
        [patch(2), patch(1)],
        [patch(1, run=8)],
        [patch(2, base=0)],
        [patch(1)[:-1]],
        [b""],
    ],
    ids=["gap", "later gap", "backwards", "foreign", "leap", "short", "empty"],
)
def test_patches_that_do_not_follow_on_are_refused(patches: list[bytes]) -> None:
    with pytest.raises(WireError):
        apply_patches(start(), 0, patches, MIXED, RUN)


def test_a_patch_says_where_it_leads() -> None:
    assert read_patch(patch(4), MIXED, RUN).stamp == Stamp(RUN, 4, 3)


def test_a_fingerprint_tells_single_bits_apart() -> None:
    one = start()
    assert len(fingerprint(one)) == FINGERPRINT_BYTES
    assert fingerprint(one) == fingerprint(one.copy())
    for index in (0, MIXED.size - 1):
        two = one.copy()
        two.view(np.uint32)[index] ^= 1
        assert fingerprint(two) != fingerprint(one)
    assert fingerprint(np.array([0.0], np.float32)) != fingerprint(np.array([-0.0], np.float32))
    golden = np.array([1.5, -2.0], np.float32)
    assert fingerprint(golden).hex() == "252b3318179cc24998f3670913d52d39"
