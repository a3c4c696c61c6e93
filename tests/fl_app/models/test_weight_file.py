"""Files of weights that people have: checkpoints of many layouts, damaged ones, hostile ones."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

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
