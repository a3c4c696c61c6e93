"""Imports run one way: fl_app → clients, strategies, data_prep → rsdgc; rsdgc knows no Flower."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("rsdgc", "clients", "strategies", "data_prep", "fl_app")
MAY_IMPORT = {
    "rsdgc": {"rsdgc"},
    "clients": {"clients", "rsdgc"},
    "strategies": {"strategies", "rsdgc", "flwr"},
    "data_prep": {"data_prep", "rsdgc"},
    "fl_app": {*PACKAGES, "flwr"},
}
WATCHED = {*PACKAGES, "flwr"}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package: str) -> None:
    for path in sorted((ROOT / package).rglob("*.py")):
        wrong = (imported(path) & WATCHED) - MAY_IMPORT[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"
