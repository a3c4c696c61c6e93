"""Hypothesis strategies and small models that the tests share."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rsdgc import INDICATORS, ModelSpec, Scheme, Stamp, make_indicator
from rsdgc.codec.header import HEADER_BYTES

MIXED = ModelSpec.from_shapes(
    {
        "stem.weight": (8, 3, 3, 3),
        "stem.bias": (8,),
        "point.weight": (4, 8, 1, 1),
        "norm.weight": (13,),
        "scalar": (),
        "one": (1,),
        "fc.weight": (5, 31),
        "volume.weight": (2, 3, 2, 3, 3),
    }
)

shapes = st.one_of(
    st.just(()),
    st.tuples(st.integers(1, 40)),
    st.tuples(st.integers(1, 7), st.integers(1, 30)),
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    st.tuples(*[st.integers(1, 3)] * 5),
)
specs = st.lists(shapes, min_size=1, max_size=6).map(
    lambda found: ModelSpec.from_shapes({f"layer{i}": shape for i, shape in enumerate(found)})
)
schemes = st.builds(
    Scheme,
    neighborhood=st.sampled_from(["kernel", "tile", "element"]),
    tile_px=st.integers(1, 4),
    values=st.sampled_from(["deadzone", "int8", "ternary", "float16", "float32"]),
    dense_values=st.sampled_from(["float32", "float16", "int8"]),
    indices=st.sampled_from(["rice", "int32"]),
)
exact_schemes = st.builds(
    Scheme,
    neighborhood=st.sampled_from(["kernel", "tile", "element"]),
    tile_px=st.integers(1, 4),
    values=st.just("float32"),
    dense_values=st.just("float32"),
    indices=st.sampled_from(["rice", "int32"]),
)
indicators = st.sampled_from(list(INDICATORS)).map(make_indicator)
stamps = st.builds(
    Stamp,
    run=st.integers(0, 2**64 - 1),
    round=st.integers(0, 2**32 - 1),
    base=st.integers(0, 2**32 - 1),
)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
"""All of float32: both zeros, subnormals, the largest."""
gentle = st.floats(-100, 100, width=32)


def vectors(size, elements=finite):
    return hnp.arrays(np.float32, size, elements=elements)


def ratio_vectors(spec):
    one = st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1))
    several = st.lists(one, min_size=len(spec.layers), max_size=len(spec.layers))
    return st.one_of(several, st.just([1.0] * len(spec.layers)), st.just([0.0] * len(spec.layers)))


def budgets(spec):
    """Bytes that hold at least an update that says nothing of its sparse layers."""
    least = HEADER_BYTES + 6 * len(spec.layers) + spec.dense_bytes
    return st.integers(least, least + 2 * spec.dense_bytes + 40)


def same_update(left, right):
    """Whether two decoded updates are equal bit for bit, also in what they say of their bytes."""
    parts = zip(left.layers, right.layers, strict=True)
    return (left.payload, left.stamp, left.scheme, left.spec) == (
        right.payload,
        right.stamp,
        right.scheme,
        right.spec,
    ) and all(
        a.grid == b.grid
        and a.num_bytes == b.num_bytes
        and (a.ids is None) == (b.ids is None)
        and (a.ids is None or (a.ids.dtype == b.ids.dtype and np.array_equal(a.ids, b.ids)))
        and a.values.dtype == b.values.dtype == np.float32
        and a.values.tobytes() == b.values.tobytes()
        for a, b in parts
    )


def normal(size, seed=0):
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def heavy_tailed(size, seed=0):
    return (np.random.default_rng(seed).standard_t(2, size) * 1e-3).astype(np.float32)
