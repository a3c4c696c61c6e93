from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from fl_app.models import MODELS
from fl_app.models.code_signature import code_signature, model_signature, packages_in
from rsdgc.errors import SettingError

NETWORK = """import their_layers
import random

def build(size="sizes/small.toml"):
    import their_lazy
"""


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The code folders of two machines, with equal files; the first one can be imported."""
    folders = [tmp_path / "first", tmp_path / "elsewhere" / "second"]
    for folder in folders:
        (folder / "their_package" / "inner").mkdir(parents=True)
        (folder / "their_package" / "__init__.py").write_text("")
        (folder / "their_package" / "inner" / "nets.py").write_text(NETWORK)
        (folder / "their_network.py").write_text(NETWORK)
        (folder / "their_layers.py").write_text("WIDTHS = 'widths.json', '/etc/../a.json'\n")
        (folder / "their_lazy.py").write_text("def broken(:\n")
        (folder / "unrelated.py").write_text("")
        (folder / "random.py").write_text("")  # hidden by Python's own
    monkeypatch.setattr(sys, "path", [*sys.path, str(folders[0])])
    yield folders
    importlib.invalidate_caches()
    for name in [name for name in sys.modules if name.startswith("their_")]:
        del sys.modules[name]


def signature(folder: Path, name: str) -> str:
    """Return the signature that a process of another machine computes."""
    code = (
        f"import sys; sys.path.append({str(folder)!r});"
        f"from fl_app.models.code_signature import code_signature; print(code_signature({name!r}))"
    )
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.mark.slow
def test_equal_sources_have_one_signature_on_every_machine(folders: list[Path]) -> None:
    here = code_signature("their_network")
    (folders[1] / "__pycache__").mkdir()
    (folders[1] / "__pycache__" / "their_network.cpython-311.pyc").write_bytes(b"x")
    network = folders[1] / "their_network.py"
    network.write_bytes(network.read_bytes().replace(b"\n", b"\r\n"))
    assert signature(folders[1], "their_network") == here
    assert here.startswith("their_network ")
    assert here.endswith(" (3 files)")


@pytest.mark.parametrize(
    ("file", "package", "module"),
    [
        ("their_network.py", False, True),
        ("their_layers.py", True, True),
        ("their_lazy.py", True, True),
        ("their_package/inner/nets.py", True, False),
        ("their_package/__init__.py", True, False),
        ("their_package/new.py", True, False),
        ("their_package/.ipynb_checkpoints/nets.py", False, False),
        ("unrelated.py", False, False),
        ("random.py", False, False),
        ("their_package/inner/sizes.yaml", True, False),
        ("their_package/inner/weights.npy", False, False),
        ("their_package/.cache/sizes.yaml", False, False),
        ("sizes/small.toml", False, True),
        ("widths.json", True, True),
        ("notes.txt", False, False),
    ],
)
def test_a_change_of_what_the_network_is_made_of_changes_the_signature(
    folders: list[Path], file: str, *, package: bool, module: bool
) -> None:
    before = [code_signature(name) for name in ("their_package", "their_network")]
    path = folders[0] / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{path.read_text() if path.exists() else ''}# changed\n")
    after = [code_signature(name) for name in ("their_package", "their_network")]
    assert [a != b for a, b in zip(before, after, strict=True)] == [package, module]


@pytest.mark.parametrize("file", ["their_layers.py", "their_package/inner/more.py"])
def test_the_versions_of_packages_of_networks_are_part_of_the_signature(
    folders: list[Path], file: str
) -> None:
    name = "their_package" if "/" in file else "their_network"
    assert "torch" not in code_signature(name)
    (folders[0] / file).write_text(
        "import torch\n\n\ndef build():\n    from timm.layers import Mlp\n"
        "    import torchvision.ops\n    import monai_is_not_installed\n"
    )
    public = version("torchvision").partition("+")[0]
    expected = f", timm {version('timm')}, torchvision {public})"
    assert code_signature(name).endswith(f" files{expected}")


def test_a_large_file_in_a_package_is_data(folders: list[Path]) -> None:
    before = code_signature("their_package")
    (folders[0] / "their_package" / "table.csv").write_text("1,2\n" * 300_000)
    assert code_signature("their_package") == before


def test_models_are_signed_by_what_they_are_made_of(folders: list[Path]) -> None:
    assert model_signature("timm:resnet18") == f"timm {version('timm')}"
    public = version("torchvision").partition("+")[0]
    assert model_signature("torchvision.models:resnet18") == f"torchvision {public}"
    assert model_signature("small-cnn").startswith("rsdgc ")
    assert model_signature("small-cnn") == model_signature("vgg19")
    assert model_signature("their_network:build").startswith("their_network ")
    assert model_signature("their_package.inner.nets:build").startswith("their_package ")
    assert code_signature("colorsys").endswith(" (1 file)")  # part of Python
    with pytest.raises(SettingError, match="has no 'Build': did you mean 'build'"):
        model_signature("their_network:Build")
    (folders[0] / "their_layers.py").write_text("from fl_app.models import MODELS\n")
    assert code_signature("their_network").endswith(" (3 files)")


def test_a_registered_model_is_signed_by_the_code_that_registered_it(folders: list[Path]) -> None:
    MODELS.register("mine")(MODELS["their_network:build"])
    try:
        assert model_signature("mine") == code_signature("their_network")
    finally:
        del MODELS._items["mine"]


def test_packages_in_a_folder_are_listed(folders: list[Path]) -> None:
    (folders[0] / "no-module.py").write_text("")
    (folders[0] / "data").mkdir()
    names = ["random", "their_layers", "their_lazy", "their_network", "their_package", "unrelated"]
    assert packages_in(folders[0]) == names
    assert packages_in(folders[0] / "missing") == []
