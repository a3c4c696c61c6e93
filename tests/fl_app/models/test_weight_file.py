"""Files of weights that people have: checkpoints of many layouts, damaged ones, hostile ones."""

from __future__ import annotations

import argparse
import datetime as dt
import enum
import functools
import json
import subprocess
import warnings
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fl_app.models.weight_file import (
    WeightFile,
    bands_metadata,
    convert_checkpoint,
    write_tensors,
)
from rsdgc.errors import SettingError

STATE = {"conv1.weight": torch.randn(4, 3, 3, 3), "fc.bias": torch.randn(2)}


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (STATE, ""),
        ({"state_dict": STATE, "epoch": 3}, ""),
        ({"model": {"state_dict": STATE}, "optimizer": {"x": torch.ones(1)}}, ""),
        ({"teacher": STATE, "student": {}, "args": argparse.Namespace(lr=0.1)}, ""),
        ({"models": {"encoder": STATE}}, "models.encoder"),
    ],
)
def test_checkpoints_are_converted_wherever_the_tensors_are(
    tmp_path: Path, content: dict[str, Any], key: str
) -> None:
    torch.save(content, tmp_path / "in.pth")
    assert convert_checkpoint(tmp_path / "in.pth", tmp_path / "out.safetensors", key) == 2
    converted = load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(converted[name], tensor) for name, tensor in STATE.items())


def test_a_checkpoint_is_not_replaced_by_its_weights(tmp_path: Path) -> None:
    source = tmp_path / "in.pth"
    torch.save({"state_dict": STATE, "optimizer": {"x": torch.ones(1)}}, source)
    content = source.read_bytes()
    (tmp_path / "link.pth").symlink_to(source)
    for target in (source, tmp_path / "link.pth"):
        with pytest.raises(SettingError, match="name another target"):
            convert_checkpoint(source, target)
    assert source.read_bytes() == content


def test_tied_and_transposed_tensors_are_converted(tmp_path: Path) -> None:
    tied = torch.randn(3, 5)
    torch.save({"a": tied, "b": tied, "c": tied.t()}, tmp_path / "in.pth")
    convert_checkpoint(tmp_path / "in.pth", tmp_path / "out.safetensors")
    converted = load_file(tmp_path / "out.safetensors")
    assert torch.equal(converted["b"], tied)
    assert torch.equal(converted["c"], tied.t())


def test_sparse_and_quantized_tensors_are_converted_to_plain_ones(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, about sparse and quantized tensors
        odd = {
            "sparse": torch.eye(3).to_sparse(),
            "rows": torch.eye(3).to_sparse_csr(),
            "quantized": torch.quantize_per_tensor(torch.eye(3), 0.5, 0, torch.qint8),
        }
        torch.save(STATE | odd, tmp_path / "in.pth")
        convert_checkpoint(tmp_path / "in.pth", tmp_path / "out.safetensors")
    converted = load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(converted[name], torch.eye(3)) for name in odd)


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('ran')",))


class Option(enum.Enum):
    FAST = 1


class Options(dict[str, Any]):
    """What Lightning calls an AttributeDict."""


class History:
    """What a training program has of its own; it must not be made from a file."""

    def __init__(self) -> None:
        self.losses = np.zeros(3)

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise AssertionError("code of the file has run")


class Loader:
    def __reduce__(self) -> tuple[Any, ...]:
        return (subprocess.check_output, (["false"],))


@pytest.mark.parametrize(
    "beside",
    [
        Options(lr=0.1, more=Options(depth=3)),
        Path("runs/1"),
        [np.float64(0.5), np.ones(3), np.dtype("f4"), np.random.RandomState(0)],
        Option.FAST,
        [defaultdict(list, loss=[1.0]), deque([1, 2]), {3, 4}, range(3), slice(2)],
        dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        [nn.CrossEntropyLoss(), nn.functional.relu, functools.partial(nn.Linear, 3)],
        History(),
        Loader(),
    ],
    ids=lambda beside: type(beside).__name__,
)
def test_other_objects_of_a_checkpoint_are_left_out(tmp_path: Path, beside: object) -> None:
    torch.save({"hyper_parameters": beside, "state_dict": STATE}, tmp_path / "in.ckpt")
    assert convert_checkpoint(tmp_path / "in.ckpt", tmp_path / "out.safetensors") == 2
    converted = load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(converted[name], tensor) for name, tensor in STATE.items())


class Own(nn.Module):
    """A network of a training program, which also names functions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU())
        self.head = nn.Linear(4, 2)
        self.again = self.head
        self.register_buffer("scale", torch.ones(2))
        self.activation = nn.functional.relu


@pytest.mark.parametrize("key", [None, "model", "net"])
@pytest.mark.parametrize("build", [Own, lambda: nn.DataParallel(Own()), lambda: Own().half()])
def test_a_network_that_was_saved_whole_is_read_without_its_code(
    tmp_path: Path, build: Callable[[], nn.Module], key: str | None
) -> None:
    network = build()
    torch.save(network if key is None else {key: network, "epoch": 3}, tmp_path / "in.pt")
    convert_checkpoint(tmp_path / "in.pt", tmp_path / "out.safetensors")
    converted = load_file(tmp_path / "out.safetensors")
    state = {name: t for name, t in network.state_dict().items() if ".again" not in f".{name}"}
    assert converted.keys() == state.keys()
    assert all(torch.equal(converted[name], tensor) for name, tensor in state.items())


def test_a_network_that_contains_itself_is_read(tmp_path: Path) -> None:
    network = Own()
    network._modules["self"] = network
    torch.save(network, tmp_path / "in.pt")
    assert convert_checkpoint(tmp_path / "in.pt", tmp_path / "out.safetensors") == 10


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_model_in_several_files_is_joined(tmp_path: Path, kind: str) -> None:
    names = [f"model-{number:05}-of-00002.{kind}" for number in (1, 2)]
    for name, (entry, tensor) in zip(names, STATE.items(), strict=True):
        part = {entry: tensor}
        (save_file if kind == "safetensors" else torch.save)(part, tmp_path / name)
    index = tmp_path / f"model.{kind}.index.json"
    weight_map = dict(zip(STATE, names, strict=True))
    index.write_text(json.dumps({"metadata": {"total_size": 9}, "weight_map": weight_map}))
    assert convert_checkpoint(index, tmp_path / "out.safetensors") == 2
    converted = load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(converted[name], tensor) for name, tensor in STATE.items())
    with pytest.raises(SettingError, match=r"are one of 2 files of a model: join them with"):
        WeightFile(tmp_path / names[0])
    index.write_text(json.dumps({"weight_map": weight_map | {"more": names[1]}}))
    with pytest.raises(SettingError, match=f"{names[1]} has no 'more', which .* names: copy both"):
        convert_checkpoint(index, tmp_path / "out.safetensors")
    (tmp_path / names[1]).unlink()
    with pytest.raises(SettingError, match=f"{names[1]} cannot be read"):
        convert_checkpoint(index, tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 3}}', "[" * 10_000]
)
def test_what_is_no_index_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(SettingError, match=r"is not an index of a model's files beside it"):
        convert_checkpoint(path, tmp_path / "out.safetensors")


@pytest.mark.parametrize("file", ["../secret.bin", "/etc/passwd"])
def test_an_index_names_files_beside_it_alone(tmp_path: Path, file: str) -> None:
    path = tmp_path / "model.index.json"
    path.write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(SettingError, match=r"is not an index of a model's files beside it"):
        convert_checkpoint(path, tmp_path / "out.safetensors")


def test_a_program_of_torch_jit_is_named(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, that it is deprecated
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "in.pt")
        with pytest.raises(SettingError, match=r"is a program of torch.jit: save the state_dict"):
            convert_checkpoint(tmp_path / "in.pt", tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state_dict": STATE, "hook": Code()}, "would run code"),
        ({"epoch": 3, "optimizer": {}}, "holds no model's tensors: .* it has epoch, optimizer"),
        ([1, 2], "holds no model's tensors"),
        ({"a": torch.ones(2, device="meta")}, "safetensors cannot hold"),
    ],
)
def test_checkpoints_without_tensors_or_with_code_are_refused(
    tmp_path: Path, content: object, words: str
) -> None:
    torch.save(content, tmp_path / "in.pth")
    with pytest.raises(SettingError, match=words) as caught:
        convert_checkpoint(tmp_path / "in.pth", tmp_path / "out.safetensors")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.safetensors").exists()


def test_a_wrong_key_names_those_that_are_there(tmp_path: Path) -> None:
    torch.save({"model": STATE}, tmp_path / "in.pth")
    with pytest.raises(SettingError, match="no key 'techer'; it has model"):
        convert_checkpoint(tmp_path / "in.pth", tmp_path / "out.safetensors", "techer")


@pytest.mark.parametrize("content", [b"", b"weights", b"PK\x03\x04" + bytes(200)])
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights"
    path.write_bytes(content)
    with pytest.raises(SettingError, match="is not a") as caught:
        convert_checkpoint(path, tmp_path / "out.safetensors")
    assert "\n" not in str(caught.value)
    with pytest.raises(SettingError, match="convert a PyTorch checkpoint"):
        WeightFile(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none", "does not exist"), (tmp_path, "cannot be read")):
        with pytest.raises(SettingError, match=words):
            WeightFile(path)
        with pytest.raises(SettingError, match="cannot be read"):
            convert_checkpoint(path, tmp_path / "out.safetensors")


def test_values_are_read_as_float32_and_must_be_finite(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    save_file({"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.tensor([1e300]).double()}, path)
    file = WeightFile(path)
    assert [(name, tensor.dtype) for name, tensor in file.read(["a"])] == [("a", torch.float32)]
    save_file({"a": torch.tensor([1.0, float("nan")])}, path)
    with pytest.raises(SettingError, match=r"a in .* holds NaN or infinity"):
        list(WeightFile(path).read(["a"]))


@pytest.mark.parametrize(
    ("text", "bands"),
    [
        ('{"optical": ["red", "nir"], "dem": []}', {"optical": ("red", "nir")}),
        ('["red", "nir"]', {"": ("red", "nir")}),
        ("", {}),
        ("{", {}),
        ('"red"', {}),
        ("7", {}),
        ('{"optical": "red"}', {}),
        ('{"": ["red"]}', {}),
    ],
)
def test_metadata_of_other_programs_do_no_harm(
    tmp_path: Path, text: str, bands: dict[str, tuple[str, ...]]
) -> None:
    save_file(STATE, tmp_path / "w", {"bands": text, "format": "pt"})
    assert WeightFile(tmp_path / "w").bands == bands


@pytest.mark.parametrize("bands", [{"optical": ("red",)}, {"optical": ("red",), "dem": ("m",)}])
def test_equal_weights_are_equal_files(tmp_path: Path, bands: dict[str, tuple[str, ...]]) -> None:
    files = set()
    for _ in range(8):
        write_tensors(tmp_path / "w", STATE, bands_metadata(bands))
        files.add((tmp_path / "w").read_bytes())
    assert len(files) == 1
    assert list(WeightFile(tmp_path / "w").bands.values()) == list(bands.values())
