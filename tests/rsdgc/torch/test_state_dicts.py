import copy

import pytest
import torch
from torch import nn

from rsdgc import SettingError, WireError
from rsdgc.torch import Compression, StateDictCompressor, apply_to_state_dict


def network(dtype=torch.float32):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(576, 5)
    return nn.Sequential(*layers).to(dtype)


def train(model, seed=0):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    for _ in range(3):
        optimizer.zero_grad()
        model(images.to(next(model.parameters()).dtype)).square().mean().backward()
        optimizer.step()
    return copy.deepcopy(model.state_dict())


def test_five_lines_send_what_training_changed():
    model = network()
    compressor = StateDictCompressor(model, Compression("10x"))
    before = copy.deepcopy(model.state_dict())
    after = train(model)
    payload = compressor.compress(before, after)
    arrived = apply_to_state_dict(before, payload)
    network().load_state_dict(arrived)
    assert len(payload) < 4 * sum(p.numel() for p in model.parameters()) / 10 + 300
    assert arrived["1.num_batches_tracked"] == 3
    assert torch.allclose(arrived["1.running_var"], after["1.running_var"], rtol=1e-3)
    changed, left = (
        torch.linalg.norm(state["4.weight"] - after["4.weight"]) for state in (before, arrived)
    )
    assert left < 0.7 * changed


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes_are_kept(dtype):
    before = network(dtype).state_dict()
    after = {n: v + v.abs().mean() if v.is_floating_point() else v for n, v in before.items()}
    arrived = apply_to_state_dict(
        before, StateDictCompressor(before, Compression("4x")).compress(before, after)
    )
    assert [v.dtype for v in arrived.values()] == [v.dtype for v in before.values()]
    assert not torch.equal(arrived["4.weight"], before["4.weight"])


def test_a_buffer_of_any_name_is_not_added_up():
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(64, 64))
    model.register_buffer("average", torch.zeros(64))
    compressor = StateDictCompressor(model, Compression("10x"))
    before = copy.deepcopy(model.state_dict())
    after = {"weight": torch.randn(64, 64), "average": torch.full((64,), 3.0)}
    assert torch.equal(
        apply_to_state_dict(before, compressor.compress(before, after))["average"],
        after["average"],
    )


def test_a_buffer_of_two_names_is_not_added_up():
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(64, 64))
    model.first = nn.BatchNorm1d(64)
    model.second = model.first
    compressor = StateDictCompressor(model, Compression("30x"))
    before = copy.deepcopy(model.state_dict())
    after = {n: v + torch.randn(v.shape).abs() if v.dim() else v for n, v in before.items()}
    for key in ("running_mean", "running_var"):
        after[f"second.{key}"] = after[f"first.{key}"]
    arrived = apply_to_state_dict(before, compressor.compress(before, after))
    for key in ("running_mean", "running_var"):
        assert torch.equal(arrived[f"second.{key}"], arrived[f"first.{key}"])
        torch.testing.assert_close(
            arrived[f"second.{key}"], after[f"second.{key}"], rtol=1e-3, atol=0
        )


def test_a_checkpoint_resumes_to_the_bit(tmp_path):
    model = network()
    states = [copy.deepcopy(model.state_dict()), *(train(model, seed) for seed in range(4))]
    whole = StateDictCompressor(states[0], Compression("10x"))
    payloads = []
    for number in range(4):
        payloads.append(whole.compress(states[number], states[number + 1]))
        if number == 1:
            torch.save(whole.state_dict(), tmp_path / "checkpoint")
    resumed = StateDictCompressor(states[0], Compression("10x"))
    resumed.load_state_dict(torch.load(tmp_path / "checkpoint"))
    assert [resumed.compress(states[n], states[n + 1]) for n in (2, 3)] == payloads[2:]


def test_errors_name_the_cause():
    state = network().state_dict()
    compressor = StateDictCompressor(state, Compression("10x"))
    half = {name: value.bfloat16() for name, value in state.items()}
    with pytest.raises(SettingError, match=r"'0.weight' is torch.bfloat16"):
        compressor.compress(state, half)
    with pytest.raises(SettingError, match="names, shapes or dtypes"):
        compressor.compress(state, {"a": torch.zeros(3)})
    with pytest.raises(SettingError, match="pass tensors only"):
        StateDictCompressor({"a": 3})
    with pytest.raises(WireError):
        apply_to_state_dict(state, b"RSDC")
    payload = compressor.compress(state, train(network()))
    compressor.roll_back(payload)
    with pytest.raises(WireError):
        compressor.roll_back(payload[:-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (8, 4, 3, 3, 3), (2, 1, 2, 1, 2, 1, 2)])
def test_entries_of_any_shape_arrive(dtype, shape):
    before = {"weight": torch.zeros(40, 40), "odd": torch.zeros(shape, dtype=dtype)}
    after = {name: entry + 1 for name, entry in before.items()}
    payload = StateDictCompressor(before, Compression("3x")).compress(before, after)
    arrived = apply_to_state_dict(before, payload)["odd"]
    assert (arrived.shape, arrived.dtype) == (shape, dtype)
    torch.testing.assert_close(arrived, after["odd"], rtol=0.05, atol=0)


@pytest.mark.parametrize(
    "entry",
    [
        torch.eye(3).to_sparse(),
        torch.empty(3, device="meta"),
        torch.zeros(3, dtype=torch.float8_e5m2),
        torch.zeros(3, dtype=torch.complex64),
    ],
    ids=["sparse", "meta", "float8", "complex"],
)
def test_an_entry_that_cannot_be_sent_is_named(entry):
    with pytest.raises(SettingError, match="'odd' "):
        StateDictCompressor({"weight": torch.zeros(9), "odd": entry})


def test_strides_do_not_matter():
    dense = torch.randn(8, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    payloads = set()
    for end in (dense, dense.to(memory_format=torch.channels_last), dense.mT.contiguous().mT):
        before = {"weight": torch.zeros_like(end)}
        compressor = StateDictCompressor(before, Compression("9x"))
        payloads.add(compressor.compress(before, {"weight": end}))
    assert len(payloads) == 1


def test_payloads_may_be_any_bytes():
    model = network()
    compressor = StateDictCompressor(model, Compression("10x"))
    before = copy.deepcopy(model.state_dict())
    payload = compressor.compress(before, train(model))
    expected = apply_to_state_dict(before, payload)
    for passed in (bytearray(payload), memoryview(payload)):
        arrived = apply_to_state_dict(before, passed)
        assert all(torch.equal(arrived[name], expected[name]) for name in expected)
        compressor.roll_back(passed)
    for passed in (7, "text", [payload], None):
        kind = type(passed).__name__
        for use in (lambda it: apply_to_state_dict(before, it), compressor.roll_back):
            with pytest.raises(SettingError, match=f"the payload is of type {kind}: pass what"):
                use(passed)
