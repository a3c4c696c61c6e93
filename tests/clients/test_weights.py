from __future__ import annotations

import numpy as np
import pytest
import torch

from clients.weights import load_vector, model_spec, model_to_vector
from rsdgc.errors import SettingError
from tests.clients.toys import TinyNet


def test_spec_holds_float_buffers_and_leaves_integer_ones_out() -> None:
    names = [layer.name for layer in model_spec(TinyNet()).layers]
    assert "norm.running_var" in names
    assert "norm.num_batches_tracked" not in names


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_flat_and_back_in_place(memory_format: torch.memory_format) -> None:
    model = TinyNet().to(memory_format=memory_format)
    spec = model_spec(model)
    pointers = [p.data_ptr() for p in model.parameters()]
    flat = np.linspace(0, 1, spec.size, dtype=np.float32)
    flat.flags.writeable = False
    load_vector(model, spec, flat)
    np.testing.assert_array_equal(model_to_vector(model, spec), flat)
    assert [p.data_ptr() for p in model.parameters()] == pointers
    assert model.conv.weight.flatten()[5] == flat[spec.offsets[0] + 5]


def test_flatten_shares_no_memory() -> None:
    model = TinyNet()
    flat = model_to_vector(model, model_spec(model))
    flat[:] = 7
    assert not (model_to_vector(model, model_spec(model)) == 7).any()


def test_negative_running_variance_is_raised_to_zero() -> None:
    model = TinyNet()
    spec = model_spec(model)
    load_vector(model, spec, np.full(spec.size, -0.5, np.float32))
    assert (model.norm.running_var == 0).all()
    assert (model.norm.running_mean == -0.5).all()
    assert torch.isfinite(model.eval()(torch.ones(1, 2, 8, 8))).all()


def test_wrong_size_is_refused() -> None:
    model = TinyNet()
    spec = model_spec(model)
    with pytest.raises(SettingError, match=f"{spec.size + 1} values"):
        load_vector(model, spec, np.zeros(spec.size + 1, np.float32))
