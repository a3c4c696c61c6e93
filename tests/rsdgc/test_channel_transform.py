"""The transform to the principal axes of the input channels: orthogonal, exact, worth its name."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsdgc import NSI, Compressor, ModelSpec, Scheme, Stamp, decode
from rsdgc.channel_transform import (
    MAX_CHANNELS,
    WIDE_MODEL_CHANNELS,
    ChannelTransform,
    block_limit,
    find_transform,
    is_transformed,
    transformed_part,
    transformed_size,
)
from rsdgc.errors import SettingError

SPEC = ModelSpec.from_shapes(
    {
        "stem.weight": (8, 3, 3, 3),
        "conv.weight": (24, 16, 3, 3),
        "depthwise.weight": (16, 1, 3, 3),
        "point.weight": (12, 24, 1, 1),
        "fc.weight": (5, 31),
        "fc.bias": (5,),
    }
)


def vector(seed: int, spec: ModelSpec = SPEC) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(spec.size).astype(np.float32)


def low_rank(seed: int, spec: ModelSpec = SPEC, rank: int = 3) -> np.ndarray:
    """Return a vector of which each convolution has few axes of input channels."""
    flat = vector(seed, spec)
    for layer, view in zip(spec.layers, spec.views(flat), strict=True):
        if is_transformed(layer):
            rng = np.random.default_rng(sum(layer.shape))  # the same axes for every seed
            out, channels = layer.shape[:2]
            axes = rng.standard_normal((channels, rank))
            parts = np.random.default_rng(seed).standard_normal((out, rank, layer.shape[2] ** 2))
            view[:] = np.einsum("cr,ork->ock", axes, parts).reshape(-1)
    return flat


def transform(progress: np.ndarray, spec: ModelSpec = SPEC) -> ChannelTransform:
    return ChannelTransform(spec, progress, np.zeros(transformed_size(spec), np.float32))


@given(st.integers(0, 2**32 - 1), st.floats(-30, 30), st.booleans())
@settings(max_examples=40)
def test_the_inverse_undoes_it_and_norms_stay(seed: int, scale: float, few_axes: bool) -> None:
    turned = transform(low_rank(seed + 1) if few_axes else vector(seed + 1))
    original = (vector(seed) * 10**scale).astype(np.float32)
    values = original.copy()
    turned.forward(values)
    parts = (values, original)
    lengths = [[np.linalg.norm(view.astype(float)) for view in SPEC.views(part)] for part in parts]
    np.testing.assert_allclose(*lengths, rtol=1e-5)
    turned.inverse(values)
    np.testing.assert_allclose(values, original, atol=1e-5 * np.abs(original).max())


def test_only_convolutions_with_several_channels_and_progress_are_changed() -> None:
    progress = vector(1)
    names = [layer.name for layer in SPEC.layers]
    SPEC.views(progress)[names.index("point.weight")][:] = 0.0
    original = vector(2)
    values = original.copy()
    transform(progress).forward(values)
    parts = zip(names, SPEC.views(values), SPEC.views(original), strict=True)
    assert [name for name, new, old in parts if not np.array_equal(new, old)] == ["conv.weight"]


def test_energy_moves_to_the_first_channels() -> None:
    values = low_rank(5)
    transform(low_rank(4)).forward(values)
    view = SPEC.views(values)[1].reshape(24, 16, 9)
    assert np.square(view[:, :3]).sum() > 0.999 * np.square(view).sum()


def test_an_upload_of_the_same_size_says_more_in_the_basis() -> None:
    progress, change = low_rank(4), low_rank(5)
    noise = vector(6)
    change += 0.1 * noise
    captured = {}
    for kind in ("none", "channels"):
        scheme = Scheme(transform=kind)
        turned, values = transform(progress), change.copy()
        if kind == "channels":
            turned.forward(values)
        compressor = Compressor(SPEC, scheme, NSI())
        update = compressor.compress(values, np.full(6, 0.3), Stamp(), 500)
        assert decode(update.payload, SPEC).scheme == scheme
        sent = np.zeros(SPEC.size, np.float32)
        if kind == "channels":
            turned.add_to(update, sent)
        else:
            update.add_to(sent)
        captured[kind] = 1 - np.square(change - sent).sum() / np.square(change).sum()
    assert captured["channels"] > captured["none"] + 0.1


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_adding_an_update_is_the_inverse_of_its_values(seed: int) -> None:
    turned = transform(vector(seed))
    compressor = Compressor(SPEC, Scheme(transform="channels"), NSI())
    update = compressor.compress(vector(seed + 1), np.full(6, 0.5), Stamp(), 2000)
    expected = update.to_dense()
    turned.inverse(expected)
    target = np.zeros(SPEC.size, np.float32)
    turned.add_to(update, target)
    np.testing.assert_array_equal(target, expected)


WIDE = ModelSpec.from_shapes(
    {
        "wide.weight": (4, MAX_CHANNELS + 64, 1, 1),
        "conv.weight": (4, MAX_CHANNELS, 1, 1),
        "small.weight": (4, WIDE_MODEL_CHANNELS, 1, 1),
    }
)


def test_a_model_with_a_wide_layer_is_transformed_in_small_blocks() -> None:
    values = vector(1, WIDE)
    turned = transform(vector(2, WIDE), WIDE)
    turned.forward(values)
    assert block_limit(WIDE) == WIDE_MODEL_CHANNELS
    parts = zip(WIDE.views(vector(1, WIDE)), WIDE.views(values), (192, 256, 256), strict=True)
    for original, result, channels in parts:
        old, new = (
            np.split(part.reshape(4, -1), len(part) // 4 // channels, axis=1)
            for part in (original, result)
        )
        for block, of_block in zip(old, new, strict=True):
            assert not np.allclose(block, of_block)
            assert np.linalg.norm(of_block) == pytest.approx(np.linalg.norm(block), rel=1e-5)


def test_a_model_without_one_has_whole_bases() -> None:
    spec = ModelSpec(WIDE.layers[1:])
    assert block_limit(spec) == MAX_CHANNELS
    values = vector(1, spec)
    transform(vector(2, spec), spec).forward(values)
    halves = np.split(spec.views(values)[0].reshape(4, -1), 2, axis=1)
    originals = np.split(spec.views(vector(1, spec))[0].reshape(4, -1), 2, axis=1)
    for half, original in zip(halves, originals, strict=True):
        assert np.linalg.norm(half) != pytest.approx(np.linalg.norm(original), rel=1e-3)


LARGER = ModelSpec.from_shapes({"a.weight": (6, 129, 1, 1), "b.weight": (5, 265, 1, 1)})
"""Bases that are orthonormalized a part at a time."""

CHILD = """
import hashlib, sys
import numpy as np
from tests.rsdgc.test_channel_transform import LARGER, SPEC, low_rank, transform, vector
digest = hashlib.sha256()
for progress in (vector(1), low_rank(2)):
    values = vector(3)
    transform(progress).inverse(values)
    digest.update(values.tobytes())
print(digest.hexdigest())
digest = hashlib.sha256()
for progress in (vector(1, LARGER), low_rank(2, LARGER)):
    values = vector(3, LARGER)
    values[values < 1.5] = 0.0
    transform(progress, LARGER).inverse(values)
    digest.update(values.tobytes())
sys.stdout.write(digest.hexdigest())
"""


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["Haswell", "Prescott", "Sandybridge"])
def test_the_bits_do_not_depend_on_the_machine(kernels: str) -> None:
    """Sums of products differ between these kernels of OpenBLAS and with the number of threads."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", CHILD],
            check=True,
            capture_output=True,
            text=True,
            env={
                "PYTHONPATH": ":".join(sys.path),
                "OPENBLAS_CORETYPE": kernels,
                "OPENBLAS_NUM_THREADS": threads,
                "NPY_DISABLE_CPU_FEATURES": features,
            },
        ).stdout
        for threads, features in (("1", ""), ("2", "AVX2 FMA3"))
    }
    assert digests == {GOLDEN}


GOLDEN = """\
a2a5a9776d53e7b1c2676568d3ac6895781b53099ea072099ec9f31d6e659570
0796c8c040008f8774d1fa6663d1746b94d45378dcc8d648fe084073dd1d7e7d"""


def test_the_last_transforms_are_kept() -> None:
    published, reference = vector(1), transformed_part(SPEC, vector(2))
    first = find_transform(SPEC, published, reference)
    assert find_transform(SPEC, published.copy(), reference.copy()) is first
    assert find_transform(SPEC, vector(3), reference) is not first


def test_a_reference_of_another_model_is_refused() -> None:
    with pytest.raises(SettingError, match="the reference has 3 elements, not 3744"):
        ChannelTransform(SPEC, vector(1), np.zeros(3, np.float32))
