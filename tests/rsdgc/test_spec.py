import numpy as np
import pytest

from rsdgc import Layer, ModelSpec, SettingError
from tests.rsdgc.examples import MIXED


def test_sizes_and_offsets():
    spec = ModelSpec.from_shapes({"a": (2, 3), "b": (), "c": (4,)})
    assert [layer.size for layer in spec.layers] == [6, 1, 4]
    assert spec.size == 11
    assert spec.dense_bytes == 44
    assert spec.offsets.tolist() == [0, 6, 7, 11]
    assert spec.offsets.dtype == np.int64


def test_views_share_memory():
    flat = np.zeros(MIXED.size, np.float32)
    for number, view in enumerate(MIXED.views(flat)):
        view[:] = number + 1
    counts = np.diff(MIXED.offsets)
    assert np.array_equal(flat, np.repeat(np.arange(1, len(counts) + 1), counts))


def test_views_refuse_another_size():
    with pytest.raises(SettingError, match="shape"):
        MIXED.views(np.zeros(3, np.float32))


def test_signature_depends_on_names_shapes_and_order():
    variants = [
        {"a": (2, 3), "b": (4,)},
        {"b": (4,), "a": (2, 3)},
        {"a": (3, 2), "b": (4,)},
        {"a": (6,), "b": (4,)},
        {"ab": (2, 3), "": (4,)},
        {"a": (2, 3)},
    ]
    signatures = {ModelSpec.from_shapes(shapes).signature for shapes in variants}
    assert len(signatures) == len(variants)
    assert all(len(signature) == 8 for signature in signatures)


def test_signature_is_stable():
    assert ModelSpec.from_shapes({"a": (2, 3)}).signature.hex() == "c2e6700340a0b91c"


@pytest.mark.parametrize(
    "layers",
    [
        (),
        (Layer("a", (1,)), Layer("a", (2,))),
        (Layer("a", (0,)),),
        (Layer("a", (-1, -1)),),
        (Layer("a", (2**31,)),),
    ],
)
def test_bad_models_are_refused(layers):
    with pytest.raises(SettingError):
        ModelSpec(layers)
