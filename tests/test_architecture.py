"""Imports run one way: fl_app → clients, strategies, data_prep → rsdgc; rsdgc knows no Flower.

Beside them, rsdgc_flower puts rsdgc under other Flower apps, and knows nothing of this one.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("rsdgc", "clients", "strategies", "data_prep", "fl_app", "rsdgc_flower")
MAY_IMPORT = {
    "rsdgc": {"rsdgc"},
    "clients": {"clients", "rsdgc"},
    "strategies": {"strategies", "rsdgc", "flwr"},
    "data_prep": {"data_prep", "rsdgc"},
    "fl_app": {"fl_app", "clients", "strategies", "data_prep", "rsdgc", "flwr"},
    "rsdgc_flower": {"rsdgc_flower", "rsdgc", "flwr"},
}
WATCHED = {*PACKAGES, "flwr"}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imported(path: Path) -> Iterator[str]:
    """All dotted names that a file imports, wherever in it, for types only or not."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.relative_to(ROOT)} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package: str) -> None:
    for name, path in MODULES.items():
        if name.partition(".")[0] == package:
            packages = {found.partition(".")[0] for found in imported(path)}
            wrong = (packages & WATCHED) - MAY_IMPORT[package]
            assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_the_modules_that_a_package_lists_exist() -> None:
    for name, path in MODULES.items():
        if path.name == "__init__.py":
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            listed = re.findall(r"^``([a-z_]+)``", text, re.MULTILINE)
            gone = [module for module in listed if f"{name}.{module}" not in MODULES]
            assert not gone, f"{path.relative_to(ROOT)} lists {', '.join(gone)}"


def test_no_imports_run_in_a_circle() -> None:
    # A name that is imported from a module is a module itself, or that module has to be there.
    graph = {
        name: {found if found in MODULES else found.rpartition(".")[0] for found in imported(path)}
        for name, path in MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these modules import each other: {' ← '.join(error.args[1])}")


def test_the_method_alone_imports_neither_pytorch_nor_flower() -> None:
    assert loaded_by("rsdgc", "torch", "flwr", "pandas", "ray") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "modules",
    [
        "fl_app.deploy.supernode, fl_app.deploy.site_app, fl_app.site_data",
        "fl_app.deploy.server_link",
        "fl_app.deploy.run_commands",
    ],
)
def test_what_supervises_a_site_the_server_or_a_run_imports_no_pytorch(modules: str) -> None:
    """These processes live for days; ``tests/deployment`` looks into their memory."""
    assert loaded_by(modules, "torch", "ray") == []


def loaded_by(modules: str, *packages: str) -> list[str]:
    """Return which packages a new process has loaded once it has imported modules."""
    code = f"import sys, {modules}; print(*sys.modules.keys() & {set(packages)})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return sorted(done.stdout.split())
