"""docs/api.md names what the packages export, and nothing else."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
SECTIONS = dict(
    re.findall(r"^## `([\w.]+)`[^\n]*\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
)


@pytest.mark.parametrize("package", ["rsdgc", "rsdgc.torch", "rsdgc_flower"])
def test_the_page_has_what_the_package_exports(package: str) -> None:
    module = importlib.import_module(package)
    rows = re.findall(r"^\| `(\w+)` \|", SECTIONS[package], re.MULTILINE)
    assert sorted(rows) == sorted(module.__all__)
    for name in module.__all__:
        exported = getattr(module, name)
        if inspect.isclass(exported) or inspect.isfunction(exported):
            assert inspect.getdoc(exported), name
            constructor = exported.__init__ if inspect.isclass(exported) else exported
            hints = getattr(constructor, "__annotations__", {})
            assert not any(re.search(r"\bAny\b", str(hint)) for hint in hints.values()), name
