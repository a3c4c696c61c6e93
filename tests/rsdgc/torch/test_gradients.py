import copy

import numpy as np
import pytest
import torch
from torch import nn

from rsdgc import RsdgcError, Scheme, SettingError, WireError
from rsdgc.torch import Compression, GradientCompressor, load_gradients


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 5))


def backward(model, seed):
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    model.zero_grad()
    model(images).square().mean().backward()


def test_five_lines_compress_and_decompress():
    model, other = network(), network()
    compressor = GradientCompressor(model, Compression("10x"))
    backward(model, 1)
    payload = compressor.compress()
    load_gradients(other, payload)
    dense = 4 * sum(p.numel() for p in model.parameters())
    assert len(payload) == pytest.approx(dense / 10, rel=0.02)
    full = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    sent = torch.cat([p.grad.reshape(-1) for p in other.parameters()])
    assert torch.linalg.norm(full - sent) < 0.8 * torch.linalg.norm(full)


def test_the_mean_of_several_workers_is_taken():
    exact = Compression("1x", scheme=Scheme(values="float32", dense_values="float32"))
    workers = [network(), network()]
    payloads = []
    for seed, worker in enumerate(workers):
        compressor = GradientCompressor(worker, exact, workers=2)
        backward(worker, seed)
        payloads.append(compressor.compress())
    model = network()
    load_gradients(model, payloads)
    for p, a, b in zip(*(m.parameters() for m in (model, *workers)), strict=True):
        assert torch.allclose(p.grad, (a.grad + b.grad) / 2, atol=1e-6)


def test_half_precision_and_missing_gradients():
    model = network().to(torch.bfloat16)
    model[0].bias.grad = torch.zeros_like(model[0].bias)
    model[3].weight.grad = torch.ones_like(model[3].weight)
    payload = GradientCompressor(model, Compression("10x")).compress()
    load_gradients(model, payload)
    assert model[3].weight.grad.dtype == torch.bfloat16
    assert model[3].weight.grad.any()
    assert not model[0].weight.grad.any()


@pytest.mark.parametrize("policy", ["update", "weight"])
def test_a_checkpoint_resumes_to_the_bit(tmp_path, policy):
    compression = Compression("10x", momentum=0.9, policy=policy, warm_up_steps=4, ratios_every=3)
    model = network()
    whole = GradientCompressor(model, compression)
    expected = []
    for seed in range(8):
        backward(model, seed)
        expected.append(whole.compress())
        if seed == 3:
            torch.save(whole.state_dict(), tmp_path / "checkpoint")
    resumed = GradientCompressor(model, compression)
    resumed.load_state_dict(torch.load(tmp_path / "checkpoint"))
    for seed in range(4, 8):
        backward(model, seed)
        assert resumed.compress() == expected[seed]


def test_errors_name_the_cause():
    model = network()
    compressor = GradientCompressor(model, Compression("10x"))
    backward(model, 0)
    model[3].weight.grad[0, 0] = torch.inf
    with pytest.raises(RsdgcError, match=r"layer '3.weight': the values hold inf"):
        compressor.compress()
    backward(model, 0)
    payload = compressor.compress()
    other = nn.Linear(5, 5)
    with pytest.raises(WireError):
        load_gradients(other, payload)
    assert other.weight.grad is None
    with pytest.raises(SettingError, match="other layers"):
        GradientCompressor(other, Compression("1x")).load_state_dict(compressor.state_dict())
    frozen = copy.deepcopy(model).requires_grad_(False)
    with pytest.raises(SettingError, match="freeze fewer"):
        GradientCompressor(frozen)
    with pytest.raises(SettingError, match="at least one worker"):
        load_gradients(model, [])


@pytest.mark.parametrize(
    ("layer", "cause"),
    [
        (nn.LazyLinear(4), "'weight' has no shape yet: run a batch"),
        (nn.Linear(4, 4, dtype=torch.complex64), "'weight' is torch.complex64"),
        (nn.Embedding(0, 4), "'weight' has shape"),
    ],
    ids=["lazy", "complex", "empty"],
)
def test_a_parameter_that_cannot_be_sent_is_named(layer, cause):
    with pytest.raises(SettingError, match=cause):
        GradientCompressor(layer)


def test_a_sparse_gradient_is_that_of_the_dense_one():
    payloads = []
    for is_sparse in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(50, 40, sparse=is_sparse), nn.Linear(40, 4))
        model(torch.tensor([1, 2, 1])).square().sum().backward()
        payloads.append(GradientCompressor(model, Compression("5x")).compress())
    assert payloads[0] == payloads[1]


def test_payloads_may_be_any_bytes():
    model, others = network(), [network() for _ in range(6)]
    backward(model, 1)
    payload = GradientCompressor(model, Compression("10x")).compress()
    array = np.frombuffer(payload, np.uint8)
    kinds = [payload, bytearray(payload), memoryview(payload), array]
    kinds += [[bytearray(payload)], (memoryview(payload),)]
    for other, passed in zip(others, kinds, strict=True):
        load_gradients(other, passed)
        for expected, parameter in zip(others[0].parameters(), other.parameters(), strict=True):
            assert torch.equal(expected.grad, parameter.grad)


@pytest.mark.parametrize(
    ("passed", "message"),
    [
        (5, "the payload is of type int: pass what compress"),
        ("text", "the payload is of type str"),
        (None, "the payload is of type NoneType"),
        (torch.zeros(3), "the payload is of type Tensor"),
        ([b"x", 7], "payload 1 is of type int"),
        ([["x"]], "payload 0 is of type list"),
    ],
)
def test_what_is_no_payload_is_refused_by_its_type(passed, message):
    with pytest.raises(SettingError, match=message):
        load_gradients(network(), passed)
