"""Networks from a module outside this project, as a user would write it."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from fl_app.models import build_model
from rsdgc.errors import SettingError

MODULE = """
import random
import sys
import warnings
from functools import lru_cache

import numpy as np
import torch
import torch.utils.checkpoint
from torch import nn


def tiny(num_classes, num_bands):
    return nn.Sequential(
        nn.Conv2d(num_bands, 4, 3, padding=1), nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes),
    )


class Linear(nn.Module):
    def __init__(self, **shape):
        super().__init__()
        self.head = nn.Linear(shape["num_bands"] * shape["chip_px"] ** 2, shape["num_classes"])

    def forward(self, chips):
        return self.head(chips.flatten(1))


class Numbered(Linear):
    def __init__(self, **shape):
        super().__init__(**shape)
        self.index = nn.Parameter(torch.arange(3), requires_grad=False)


class Masked(Linear):
    def __init__(self, **shape):
        super().__init__(**shape)
        self.mask = nn.Parameter(torch.ones(3, dtype=torch.bool), requires_grad=False)


def positional(num_bands, num_classes, /, *others):
    return tiny(num_classes, num_bands)


def prints(num_bands, num_classes, depth=2):
    print("building")
    return tiny(num_classes, num_bands)


def lazy(num_classes):
    return nn.Sequential(
        nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.LazyLinear(num_classes),
    )


def regularized(num_bands, num_classes):
    return nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(num_bands, 4, 3)), nn.Dropout2d(0.5),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes),
    )


class Tied(Linear):
    def __init__(self, **shape):
        super().__init__(**shape)
        self.again = self.head

    def forward(self, chips):
        return self.head(chips.flatten(1)) + self.again(chips.flatten(1))


class ValueDependent(Linear):
    # Neither works on the meta device.
    def __init__(self, **shape):
        super().__init__(**shape)
        self.scale = self.head.weight.detach().abs().max().item()

    def forward(self, chips):
        return super().forward(chips) if chips.sum().item() < 1e9 else None


def every_generator(num_bands, num_classes):
    model = tiny(num_classes, num_bands)
    with torch.no_grad():
        model[0].weight += float(np.random.normal()) + random.random()
    return model


def in_evaluation_mode(num_bands, num_classes):
    return tiny(num_classes, num_bands).eval()


def needs_depth(depth):
    return nn.Identity()


def wrong_shape():
    return nn.Sequential(nn.Flatten(), nn.Dropout())


def fails_on_chips():
    return nn.Linear(7, 7)


def no_module():
    return 3


def no_object():
    return Linear


def raises(num_bands):
    raise RuntimeError("weights are missing\\nsecond line")


def exits():
    sys.exit("usage: train.py")


def no_parameters(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyBatchNorm1d(affine=False))


class Output(Linear):
    def __init__(self, **shape):
        super().__init__(**shape)
        self.aux = nn.Linear(1, 1)

    def forward(self, chips):
        return {"logits": super().forward(chips), "features": chips}


class View(Linear):
    # Both fail on memory that is channels last.
    def forward(self, chips):
        return self.head(chips.view(chips.shape[0], -1))


class Volume(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv, self.norm = nn.Conv3d(1, 6, 3), nn.BatchNorm3d(6)
        self.head = nn.Linear(6, num_classes)

    def forward(self, chips):
        volume = self.norm(self.conv(chips.unsqueeze(1)))
        return self.head(volume.view(*volume.shape[:2], -1).mean(2))


class Constants(Linear):
    def __init__(self, **shape):
        super().__init__(**shape)
        self.register_buffer("order", torch.randperm(shape["num_bands"]))
        self.register_buffer("mask", torch.full((4, 4), float("-inf")).triu(1))
        self.register_buffer("filters", torch.randn(3, 3, dtype=torch.complex64))
        self.register_buffer("gain", torch.rand(shape["num_bands"]), persistent=False)
        self.register_buffer("short", torch.ones(2, dtype=torch.bfloat16))

    def forward(self, chips):
        return super().forward(chips[:, self.order] * self.gain.view(1, -1, 1, 1))


def compiled(num_bands, num_classes):
    return torch.compile(tiny(num_classes, num_bands))


class Detached(Linear):
    def forward(self, chips):
        return super().forward(chips).detach()


class Decided(Linear):
    def forward(self, chips):
        return nn.functional.one_hot(super().forward(chips).argmax(1), self.head.out_features)


class Overwritten(Linear):
    def forward(self, chips):
        logits = super().forward(chips).exp()
        return logits.log().add(logits.mul_(2))


class KeepsGraph(Linear):
    def __init__(self, **shape):
        super().__init__(**shape)
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, chips):
        logits = super().forward(chips)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * logits.mean()
        return logits


class Squeezed(Linear):
    def forward(self, chips):
        return super().forward(chips).squeeze()


class Pairs(Linear):
    def forward(self, chips):
        return super().forward(chips.view(-1, 2, *chips.shape[1:]).flatten(0, 1))


class ExitsOnChips(Linear):
    def forward(self, chips):
        sys.exit("no license")


class Lookup(nn.Module):
    def __init__(self, num_bands, num_classes):
        super().__init__()
        self.table = nn.Embedding(9, 4, sparse=True)
        self.head = nn.Linear(4 * num_bands, num_classes)

    def forward(self, chips):
        return self.head(self.table(chips.clamp(0, 8).long()).mean((2, 3)).flatten(1))


class Unseeded(Linear):
    def __init__(self, **shape):
        super().__init__(**shape)
        values = np.random.default_rng().random((2, 2))
        self.register_buffer("codes", torch.from_numpy(values).cpu())


class ExtraState(Linear):
    def get_extra_state(self):
        return {"seen": 3}


class EmptyLayer(Linear):
    def __init__(self, **shape):
        super().__init__(**shape)
        self.extra = nn.Parameter(torch.zeros(0, 3))


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.ReLU())


class Auxiliary(Linear):
    def forward(self, chips):
        logits = super().forward(chips)
        return (logits, logits) if self.training else logits


def float64(num_bands, num_classes):
    return tiny(num_classes, num_bands).double()


class Float16Head(Linear):
    def __init__(self, **shape):
        super().__init__(**shape)
        self.gain = nn.Parameter(torch.ones(1, dtype=torch.float16))

    def forward(self, chips):
        return super().forward(chips) * self.gain


class Complex(Linear):
    def __init__(self, **shape):
        super().__init__(**shape)
        self.filter = nn.Parameter(torch.ones(1, dtype=torch.complex64))

    def forward(self, chips):
        return super().forward((chips * self.filter).real)


class UnusedLazy(Linear):
    def __init__(self, **shape):
        super().__init__(**shape)
        self.unused = nn.LazyLinear(3)


def without_values(num_bands, num_classes):
    return tiny(num_classes, num_bands).to("meta")


@lru_cache
def cached(num_bands, num_classes):
    return tiny(num_classes, num_bands)


class Expanded(Linear):
    # A constant that is one value in memory.
    def __init__(self, **shape):
        super().__init__(**shape)
        self.register_buffer("mean", torch.full((1, 1, 1, 1), 0.5).expand(1, 5, 8, 8))

    def forward(self, chips):
        return super().forward(chips - self.mean)


class Interleaved(Linear):
    # Two parameters in one storage, without a value in common.
    def __init__(self, **shape):
        super().__init__(**shape)
        values = torch.ones(2 * shape["num_classes"])
        self.gain, self.shift = nn.Parameter(values[::2]), nn.Parameter(values[1::2])

    def forward(self, chips):
        return super().forward(chips) * self.gain + self.shift


class Checkpointed(Linear):
    # Computes its layers again on the way back.
    def __init__(self, **shape):
        super().__init__(**shape)
        self.norm = nn.BatchNorm1d(self.head.in_features)

    def forward(self, chips):
        run = torch.utils.checkpoint.checkpoint
        return self.head(run(self.norm, chips.flatten(1), use_reentrant=False))


class Transposed(nn.Module):
    def __init__(self, num_bands, num_classes):
        super().__init__()
        self.encode = nn.Linear(num_bands, 7, bias=False)
        self.decode = nn.Linear(7, num_bands, bias=False)
        self.decode.weight = nn.Parameter(self.encode.weight.t())
        self.head = nn.Linear(num_bands, num_classes)

    def forward(self, chips):
        return self.head(self.decode(self.encode(chips.mean((2, 3)))))


class OneForAll(Linear):
    def __init__(self, **shape):
        super().__init__(**shape)
        self.gain = nn.Parameter(torch.ones(1).expand(shape["num_classes"]))

    def forward(self, chips):
        return super().forward(chips) * self.gain


def for_inference(num_bands, num_classes):
    with torch.inference_mode():
        return tiny(num_classes, num_bands)


class Float8(Linear):
    def __init__(self, **shape):
        super().__init__(**shape)
        self.register_buffer("codes", torch.ones(4).to(torch.float8_e4m3fn))


class Renamed(Linear):
    def state_dict(self, *args, **kwargs):
        state = super().state_dict(*args, **kwargs)
        return {f"net.{name}": tensor for name, tensor in state.items()}


def _drop_bias(module, state, *_):
    del state["head.bias"]


class WithoutHead(Linear):
    def __init__(self, **shape):
        super().__init__(**shape)
        self.register_state_dict_post_hook(_drop_bias)


class Cloned(Linear):
    def state_dict(self, *args, **kwargs):
        state = super().state_dict(*args, **kwargs)
        return {name: tensor.clone() for name, tensor in state.items()}


class FailingState(Linear):
    def state_dict(self):
        raise NotImplementedError("use export()")


class Probabilities(Linear):
    def forward(self, chips):
        return super().forward(chips).softmax(1)


class ProbabilitiesAtLast(Linear):
    def forward(self, chips):
        logits = super().forward(chips)
        return logits if self.training else logits.softmax(1)


class Rounded(Linear):
    def forward(self, chips):
        logits = super().forward(chips)
        return logits if self.training else logits.round().long()


class Decibels(Linear):
    def forward(self, chips):
        return super().forward(10 * chips.log10())


class NoSlope(Linear):
    def __init__(self, **shape):
        super().__init__(**shape)
        self.offsets = nn.Parameter(torch.zeros(4))

    def forward(self, chips):
        return super().forward(chips) + self.offsets.square().sum().sqrt()


class Follower(Linear):
    def __init__(self, **shape):
        super().__init__(**shape)
        self.slow = nn.Linear(*reversed(self.head.weight.shape)).requires_grad_(False)

    def forward(self, chips):
        if self.training:
            with torch.no_grad():
                self.slow.weight.mul_(0.9).add_(self.head.weight, alpha=0.1)
        return super().forward(chips)


built = nn.Linear(1, 1)
zeros = torch.zeros
number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package that is not part of this project, as a user's would be."""
    (tmp_path / "their_models").mkdir()
    (tmp_path / "their_models" / "__init__.py").write_text("")
    (tmp_path / "their_models" / "nets.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "their_models.nets"
    for name in [name for name in sys.modules if name.startswith("their_models")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "name",
    [
        "tiny",
        "Linear",
        "positional",
        "prints",
        "lazy",
        "regularized",
        "Tied",
        "ValueDependent",
        "every_generator",
        "in_evaluation_mode",
        "View",
        "Volume",
        "Constants",
        "compiled",
        "Expanded",
        "Interleaved",
        "Checkpointed",
    ],
)
def test_a_network_is_built_with_what_it_asks_for_and_trains(module: str, name: str) -> None:
    model = build_model(f"{module}:{name}", 5, 3, 8, seed=4)
    same = build_model(f"{module}:{name}", 5, 3, 8, seed=4)
    assert all(map(torch.equal, model.state_dict().values(), same.state_dict().values()))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training == (name != "in_evaluation_mode")
    chips, labels = torch.randn(6, 5, 8, 8) / 8, torch.tensor([0, 1, 2, 0, 1, 2])
    parameters = list(model.train().parameters())
    nn.functional.cross_entropy(model(chips), labels).backward()
    assert all(parameter.grad is not None for parameter in parameters)
    with torch.device("meta"):  # as a simulation checks it before it starts
        shapes = {key: value.shape for key, value in model.state_dict().items()}
        checked = build_model(f"{module}:{name}", 5, 3, 8)
        assert {key: value.shape for key, value in checked.state_dict().items()} == shapes


def test_the_trial_leaves_running_statistics_and_modes_alone(module: str) -> None:
    model = build_model(f"{module}:tiny", 5, 3, 8)
    assert model[1].num_batches_tracked == 0
    assert torch.equal(model[1].running_mean, torch.zeros(4))
    assert torch.equal(model[1].running_var, torch.ones(4))


def test_random_numbers_of_the_process_stay_as_they_were(module: str) -> None:
    states = (random.getstate(), np.random.get_state(), torch.get_rng_state())  # noqa: NPY002
    build_model(f"{module}:every_generator", 5, 3, 8)
    after = (random.getstate(), np.random.get_state(), torch.get_rng_state())  # noqa: NPY002
    assert repr(after) == repr(states)


def test_a_network_is_checked_without_memory_for_its_weights(module: str) -> None:
    with torch.device("meta"):
        assert next(build_model(f"{module}:tiny", 5, 3, 8).parameters()).is_meta


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("needs_depth", "asks for 'depth', which is not among num_bands, .*: give it a default"),
        ("wrong_shape", r"maps chips \(2, 5, 8, 8\) in evaluation mode to \(2, 320\): return log"),
        ("fails_on_chips", r"fails on chips \(2, 5, 8, 8\) in evaluation mode: RuntimeError"),
        ("no_module", "returned int: return a torch.nn.Module"),
        ("no_object", "returned the class Linear: return an object"),
        ("raises", r"cannot be built: RuntimeError: weights are missing, at nets.py:\d+$"),
        ("exits", r"cannot be built: SystemExit: usage: train.py, at nets.py:\d+$"),
        ("no_parameters", r"to \(2, 5\): return logits \(2, 3\)"),
        ("Detached", "returns logits without a gradient in training mode"),
        ("Decided", "returns logits without a gradient in training mode"),
        ("Overwritten", "in training mode: RuntimeError: .* modified by an inplace operation"),
        ("KeepsGraph", r"buffer 'mean' keeps the gradient of a step: detach\(\) what changes it"),
        ("Squeezed", r"maps chips \(1, 5, 8, 8\) in evaluation mode to \(3,\): return logits \(1"),
        ("Pairs", r"fails on chips \(1, 5, 8, 8\) in evaluation mode: .*, at nets.py:\d+$"),
        ("ExitsOnChips", r"fails on chips .* mode: SystemExit: no license, at nets.py:\d+$"),
        ("Lookup", "layer 'table.weight' has sparse gradients: build it with sparse=False"),
        ("ExtraState", "'_extra_state' is dict, which is not sent"),
        ("EmptyLayer", r"layer 'extra' of shape \(0, 3\) is empty: remove it"),
        ("scripted", "is compiled by torch.jit: return the network as it is"),
        ("Output", r"to dict with logits, features: return logits \(2, 3\)"),
        ("Auxiliary", "in training mode to tuple: return logits"),
        ("float64", "fails on chips|layer '0.weight' is float64: return the network's .float"),
        ("Float16Head", "layer 'gain' is float16: return the network's .float"),
        ("Complex", "layer 'filter' is complex64: use two real layers"),
        ("Numbered", "layer 'index' is int64: it cannot be trained: register it as a buffer"),
        ("Masked", "layer 'mask' is bool: it cannot be trained: register it as a buffer"),
        ("Float8", "'codes' is float8_e4m3fn, which is neither sent nor saved: use float16"),
        ("for_inference", r"'0.weight' cannot be .*: build it outside torch.inference_mode\(\)"),
        (
            "Renamed",
            "state_dict has 'net.head.weight', which is not the name of a parameter or buffer",
        ),
        ("WithoutHead", "state_dict lacks layer 'head.bias', which could not be sent: remove its"),
        ("FailingState", r"state_dict\(\) fails: NotImplementedError: use export\(\), at .*: rem"),
        ("Rounded", "returns int64 numbers in evaluation mode: return logits, which are of float"),
        ("Follower", "changes layer 'slow.weight' in training mode, .*: register it as a buffer"),
        ("UnusedLazy", "layer 'unused.weight' has no size"),
        ("built", "is a network: name a function or class that builds one"),
        ("zeros", "has no signature: name a function that is written in Python"),
        ("number", "is int: name a function or class that builds one"),
        ("nowhere", "cannot be imported"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_an_unusable_network_is_refused_in_one_line(
    module: str, name: str, words: str, device: str
) -> None:
    with (
        torch.device(device),
        pytest.raises(SettingError, match=words) as caught,
    ):
        build_model(f"{module}:{name}", 5, 3, 8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Transposed", "'encode.weight' and 'decode.weight' are two parameters with the same memo"),
        ("OneForAll", r"several values of layer 'gain' are one in memory: leave out expand\(\)"),
        ("Cloned", "state_dict has a copy of 'head.weight': remove its own state_dict"),
        ("Probabilities", "returns probabilities in evaluation mode: return logits, without a sof"),
        ("ProbabilitiesAtLast", "returns probabilities in evaluation mode: return logits"),
        ("Decibels", "yields NaN or infinity in evaluation mode on chips of mean 0 and standard d"),
        ("NoSlope", "the gradient of layer 'offsets' is NaN or infinite before training"),
    ],
)
def test_values_that_cannot_be_trained_on_are_refused_in_one_line(
    module: str, name: str, words: str
) -> None:
    with pytest.raises(SettingError, match=words) as caught:
        build_model(f"{module}:{name}", 5, 3, 8)
    assert "\n" not in str(caught.value)
    with torch.device("meta"):  # nothing has a value there
        build_model(f"{module}:{name}", 5, 3, 8)


def test_buffers_must_be_the_same_at_all_sites(module: str) -> None:
    with pytest.raises(SettingError, match="buffer 'codes' with other values each time: draw them"):
        build_model(f"{module}:Unseeded", 3, 3, 8)


def test_a_network_without_parameters_is_refused(module: str) -> None:
    with pytest.raises(SettingError, match="has no parameters: there is nothing to train"):
        build_model(f"{module}:no_parameters", 3, 3, 8)


def test_a_network_without_values_is_refused(module: str) -> None:
    with pytest.raises(SettingError, match=r"layer '0\.weight' has no values: build it on the CPU"):
        build_model(f"{module}:without_values", 3, 3, 8)


def test_a_network_that_is_returned_twice_is_refused(module: str) -> None:
    first = build_model(f"{module}:cached", 3, 3, 8)
    with pytest.raises(SettingError, match="returned the same network twice: build a new one"):
        build_model(f"{module}:cached", 3, 3, 8)
    assert isinstance(first, nn.Module)


@given(st.lists(st.sampled_from(["timm", "nets", "Tiny", ":", ".", "/", "-", " ", "py"])))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_name_is_refused_in_one_line(module: str, words: list[str]) -> None:
    with pytest.raises(SettingError) as caught:
        build_model("".join(words), 3, 3, 8)
    assert "\n" not in str(caught.value)
