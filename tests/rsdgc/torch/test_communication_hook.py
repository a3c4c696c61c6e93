import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from rsdgc import RsdgcError, RunError, Scheme, SettingError
from rsdgc.torch import Compression, GradientCompressor, NsiState, nsi_hook
from tests.rsdgc.torch.workers import process_group, run_workers

SMALL_BUCKETS_MB = 0.01


class Network(nn.Module):
    """Tied, frozen and unused parameters, and convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.again = nn.Conv2d(16, 16, 3, padding=1)
        self.again.weight = self.body.weight
        self.aside = nn.Linear(16, 5)
        self.frozen = nn.Linear(16, 16)
        self.frozen.requires_grad_(False)
        self.head = nn.Linear(16, 5)
        self.use_aside = False

    def forward(self, images):
        features = torch.relu(self.again(torch.relu(self.body(torch.relu(self.stem(images))))))
        features = self.frozen(features.mean((2, 3)))
        return self.head(features) + (self.aside(features) if self.use_aside else 0.0)


def build(dtype=torch.float32, memory_format=torch.contiguous_format):
    torch.manual_seed(0)
    return Network().to(dtype=dtype, memory_format=memory_format)


def batch(rank, step, dtype=torch.float32):
    generator = torch.Generator().manual_seed(100 * step + rank)
    images = torch.randn(4, 3, 8, 8, generator=generator).to(dtype)
    return images, torch.randint(0, 5, (4,), generator=generator)


def wrap(model, compression, **options):
    options = {"bucket_cap_mb": SMALL_BUCKETS_MB, "find_unused_parameters": True, **options}
    wrapped = DistributedDataParallel(model, **options)
    state = NsiState(wrapped, compression)
    wrapped.register_comm_hook(state, nsi_hook)
    return wrapped, state


def train(wrapped, steps, rank=0, dtype=torch.float32, rate=0.05):
    optimizer = torch.optim.SGD(wrapped.parameters(), rate)
    for step in steps:
        images, labels = batch(rank, step, dtype)
        optimizer.zero_grad()
        nn.functional.cross_entropy(wrapped(images), labels).backward()
        optimizer.step()


def weights(wrapped):
    return {name: value.clone() for name, value in wrapped.module.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.fixture
def alone(tmp_path):
    with process_group(tmp_path):
        yield


TRAINING = Compression(
    "10x", momentum=0.9, clip_norm=1.0, dense_steps=2, warm_up_steps=4, ratios_every=3
)
OPTIONS = [
    {},
    {"gradient_as_bucket_view": True},
    {"policy": "weight", "scheme": Scheme("tile", values="float32")},
    {"dtype": torch.bfloat16},
]


def _train_in_all_ways(rank):
    results = []
    for option in OPTIONS:
        settings = {k: v for k, v in option.items() if k in ("policy", "scheme")}
        compression = Compression("10x", momentum=0.9, dense_steps=2, warm_up_steps=4, **settings)
        dtype = option.get("dtype", torch.float32)
        options = {k: v for k, v in option.items() if k == "gradient_as_bucket_view"}
        wrapped, state = wrap(build(dtype), compression, **options)
        train(wrapped, range(8), rank, dtype)
        wrapped.module.use_aside = rank == 1  # used by one worker only
        train(wrapped, range(8, 12), rank, dtype)
        with wrapped.no_sync():
            images, labels = batch(rank, 12, dtype)
            nn.functional.cross_entropy(wrapped(images), labels).backward()
        train(wrapped, range(13, 15), rank, dtype)
        results.append((weights(wrapped), state.bytes_sent, state.compressor.step))
    return results


def _a_gradient_is_not_a_number_at_one_worker(rank):
    wrapped, _ = wrap(build(), Compression("10x"))
    train(wrapped, range(2), rank)
    if rank == 1:
        wrapped.module.head.bias.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(RunError) as raised:
        train(wrapped, range(2, 3), rank)
    return str(raised.value)


def _steps_differ(rank, dense_steps=0):
    wrapped, state = wrap(build(), Compression("10x", dense_steps=dense_steps))
    train(wrapped, range(2), rank)
    saved = state.state_dict()
    train(wrapped, range(2, 3), rank)
    if rank == 0:
        state.load_state_dict(saved)
    with pytest.raises(RunError) as raised:
        train(wrapped, range(3, 4), rank)
    return str(raised.value)


def _steps_or_forms_differ_in_dense_steps(rank):
    problems = [_steps_differ(rank, dense_steps) for dense_steps in (6, 3)]
    wrapped, _ = wrap(build(), Compression("10x", dense_steps=1 if rank == 1 else 0))
    with pytest.raises(RunError) as raised:
        train(wrapped, range(1), rank)
    return [*problems, str(raised.value)]


def _all(rank):
    return (
        _train_in_all_ways(rank),
        _a_gradient_is_not_a_number_at_one_worker(rank),
        _steps_differ(rank),
        _steps_or_forms_differ_in_dense_steps(rank),
    )


@pytest.fixture(scope="module")
def of_three_workers():
    return run_workers(_all, 3)


@pytest.mark.slow
def test_all_workers_end_with_the_same_bits(of_three_workers):
    runs = [ways for ways, *_ in of_three_workers]
    start = build().state_dict()
    for number, option in enumerate(OPTIONS):
        (first, bytes_sent, steps), *others = [ways[number] for ways in runs]
        assert all(same(first, other[0]) for other in others), option
        assert steps == 14
        assert not torch.equal(first["stem.weight"].float(), start["stem.weight"])
        assert not torch.equal(first["aside.weight"].float(), start["aside.weight"])
        dense = 4 * sum(p.numel() for p in build().parameters() if p.requires_grad)
        assert 2 * dense < bytes_sent < 7 * dense


@pytest.mark.slow
def test_all_workers_name_the_layer_that_is_not_finite(of_three_workers):
    for _, problem, *_ in of_three_workers:
        assert problem.startswith("rank 1: layer 'head.bias'")


@pytest.mark.slow
def test_workers_at_different_steps_are_told(of_three_workers):
    for _, _, problem, in_dense_steps in of_three_workers:
        assert all("steps [2, 3, 3]" in text for text in (problem, *in_dense_steps[:2]))


@pytest.mark.slow
def test_workers_of_which_some_send_everything_are_told(of_three_workers):
    for *_, problems in of_three_workers:
        assert problems[2].startswith("rank 1 sends its whole gradient in step 0 and rank 0 does")


def test_gradients_alone_are_what_was_encoded(alone):
    """With one worker the mean is its own decoded update, in every layout."""
    for layout in (torch.contiguous_format, torch.channels_last):
        plain = build(memory_format=layout)
        names = [name for name, p in plain.named_parameters() if p.requires_grad]
        ratios = dict.fromkeys(names, 0.25)
        scheme = Scheme("kernel", values="float32", dense_values="float32")
        wrapped, state = wrap(copy.deepcopy(plain), Compression(scheme=scheme, ratios=ratios))
        images, labels = batch(0, 0)
        nn.functional.cross_entropy(plain(images), labels).backward()
        nn.functional.cross_entropy(wrapped(images), labels).backward()
        expected = plain.body.weight.grad
        sent = wrapped.module.body.weight.grad
        kept = sent != 0
        assert torch.allclose(sent[kept], expected[kept], rtol=1e-4)
        # Complete kernel slices, also where memory has the channels last.
        slices = kept.flatten(2).sum(dim=2)
        assert set(slices.unique().tolist()) == {0, 9}
        assert (slices > 0).float().mean() == pytest.approx(0.25, abs=0.01)
        offset = state.compressor.spec.offsets[list(ratios).index("body.weight")]
        residual = state.compressor.residual[offset : offset + expected.numel()]
        rest = torch.from_numpy(residual).view(expected.shape)
        assert torch.allclose(sent + rest, expected, rtol=1e-4)


@pytest.mark.parametrize("place", [(slice(None), slice(3)), (slice(None, None, 2), slice(1, 4))])
def test_a_parameter_that_is_a_slice_of_a_tensor_takes_part(alone, place):
    """As a first convolution that was cut to the bands of the data: its memory has gaps."""

    def cut():
        torch.manual_seed(0)
        stem, head = nn.Conv2d(5, 8, 3), nn.Conv2d(8, 4, 1)
        stem.weight = nn.Parameter(stem.weight.detach()[place])
        head.weight = nn.Parameter(head.weight.detach()[:, : len(stem.weight)])
        stem.bias = None
        return nn.Sequential(stem, nn.ReLU(), head)

    plain = cut()
    assert not plain[0].weight.is_contiguous()
    wrapped, _ = wrap(cut(), Compression("1x"))
    images, _ = batch(0, 0)
    for model in (plain, wrapped):
        model(images).square().mean().backward()
    for p, q in zip(plain.parameters(), wrapped.module.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


def test_a_dense_budget_changes_nothing(alone):
    plain = build()
    wrapped, state = wrap(copy.deepcopy(plain), Compression("1x"))
    images, labels = batch(0, 0)
    nn.functional.cross_entropy(plain(images), labels).backward()
    nn.functional.cross_entropy(wrapped(images), labels).backward()
    for (name, p), q in zip(plain.named_parameters(), wrapped.module.parameters(), strict=True):
        if p.grad is not None and name != "aside":
            assert torch.equal(p.grad, q.grad), name
    assert state.compressor.step == 1


def test_accumulated_gradients_are_sent_once(alone):
    wrapped, state = wrap(build(), Compression("1x"))
    (a, b), (c, d) = batch(0, 0), batch(0, 1)
    with wrapped.no_sync():
        nn.functional.cross_entropy(wrapped(a), b).backward()
    nn.functional.cross_entropy(wrapped(c), d).backward()
    plain = build()
    (nn.functional.cross_entropy(plain(a), b) + nn.functional.cross_entropy(plain(c), d)).backward()
    assert torch.allclose(wrapped.module.head.weight.grad, plain.head.weight.grad, atol=1e-6)
    assert state.compressor.step == 1


@pytest.mark.parametrize("buckets_mb", [0.001, 25])
def test_a_resumed_training_equals_an_uninterrupted_one(alone, tmp_path: Path, buckets_mb):
    """Also with other buckets than before: they have no part in the result."""
    whole, _ = wrap(build(), TRAINING)
    train(whole, range(10))
    first, state = wrap(build(), TRAINING)
    train(first, range(5))
    torch.save({"model": weights(first), "hook": state.state_dict()}, tmp_path / "checkpoint")
    saved = torch.load(tmp_path / "checkpoint")
    second, state = wrap(build(), TRAINING, bucket_cap_mb=buckets_mb)
    second.module.load_state_dict(saved["model"])
    state.load_state_dict(saved["hook"])
    train(second, range(5, 10))
    assert same(weights(second), weights(whole))
    assert state.compressor.step == 10


def test_a_state_of_another_model_is_refused(alone):
    saved = NsiState(nn.Linear(40, 50)).state_dict()
    with pytest.raises(SettingError, match="other layers"):
        NsiState(nn.Linear(50, 40)).load_state_dict(saved)


def test_a_state_of_another_kind_is_refused(alone):
    model = nn.Linear(40, 50)
    state = NsiState(model)
    other = GradientCompressor(model)
    other.compress()
    for saved, key in ((other.state_dict(), "bytes_sent"), (model.state_dict(), "model")):
        with pytest.raises(SettingError, match=f"has no '{key}': load what state_dict"):
            state.load_state_dict(saved)
    assert state.compressor.step == 0


def test_a_parameter_that_came_later_is_named(alone):
    model = build()
    state = NsiState(model, Compression("10x"))
    model.frozen.requires_grad_(True)
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    wrapped.register_comm_hook(state, nsi_hook)
    with pytest.raises(SettingError, match=r"shape \(16,\)|shape \(16, 16\)"):
        train(wrapped, range(1))


def test_without_a_process_group_the_remedy_is_named():
    with pytest.raises(RunError, match="init_process_group"):
        NsiState(nn.Linear(2, 2))


def test_a_frozen_model_is_refused(alone):
    with pytest.raises(RsdgcError, match="freeze fewer layers"):
        NsiState(nn.Linear(2, 2).requires_grad_(False))
