import sys
from pathlib import Path

import pytest

from rsdgc import registry
from rsdgc.errors import SettingError
from rsdgc.registry import Registry, add_code_dir


def make() -> Registry[type]:
    shapes: Registry[type] = Registry("shape")
    shapes.register("integer")(int)
    shapes.register("text")(str)
    return shapes


def test_items_are_found_by_name_and_listed_in_order() -> None:
    shapes = make()
    assert shapes["text"] is str
    assert list(shapes) == ["integer", "text"]
    assert len(shapes) == 2
    assert "text" in shapes
    assert "float" not in shapes


def test_a_path_is_imported() -> None:
    from collections import OrderedDict  # noqa: PLC0415

    assert make()["collections:OrderedDict"] is OrderedDict


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("txt", "did you mean 'text'"),
        ("zzz", "choose one of integer, text"),
        ("no_such_package:Thing", "cannot be imported"),
        ("collections:NoSuchThing", "cannot be imported"),
        (":x", "write package.module:name$"),
        ("mynet:", "write package.module:name$"),
        ("a b:c", "write package.module:name$"),
        ("./nets/mynet.py:build", "write nets.mynet:build$"),
        ("mynet.py:build", "write mynet:build$"),
        ("mynet.build", "or write mynet:build for one of your own"),
        ("collections:ordereddict", "did you mean 'OrderedDict'"),
        ("no_such_package.inner:Thing", "no module 'no_such_package' among the installed"),
        ("collections.inner:Thing", "no module 'collections.inner' among the installed"),
    ],
)
def test_unknown_names_are_refused_with_a_remedy(name: str, message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        make()[name]
    assert "shape" in str(caught.value)


@pytest.mark.parametrize("name", ["text", "a:b"])
def test_a_name_is_registered_once_and_is_not_a_path(name: str) -> None:
    with pytest.raises(SettingError, match="cannot be registered"):
        make().register(name)


def test_the_name_of_an_item_finds_it() -> None:
    shapes = make()
    assert shapes.name_of(str) == "text"
    assert shapes.name_of(float) == "builtins:float"
    assert shapes[shapes.name_of(float)] is float


def test_a_module_in_a_code_folder_is_found_and_finds_those_beside_it(code_dir: Path) -> None:
    add_code_dir(code_dir)
    (code_dir / "their_sizes.py").write_text("SIDE = 3")
    (code_dir / "their_shapes.py").write_text("from their_sizes import SIDE\nclass Square: ...")
    assert make()["their_shapes:Square"].__name__ == "Square"
    add_code_dir(code_dir)
    add_code_dir("")
    assert sys.path.count(str(code_dir)) == 1
    assert registry._code_dirs == [str(code_dir)]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_library", "its module imports 'no_such_library', which is not installed"),
        ("raise ValueError('no\\nGPU')", r"raises ValueError: no, at their_shapes.py:1$"),
        ("import sys; sys.exit(2)", r"raises SystemExit: 2, at their_shapes.py:1$"),
        ("def square(:", r"raises SyntaxError: .*\(their_shapes.py, line 1\)"),
        ("class Squares: ...", r"\(.*their_shapes.py\) has no 'Square': did you mean 'Squares'"),
        ("", r"\(.*their_shapes.py\) has no 'Square': name what it defines"),
    ],
)
def test_a_module_that_cannot_be_used_is_refused_in_one_line(
    code_dir: Path, source: str, message: str
) -> None:
    add_code_dir(code_dir)
    (code_dir / "their_shapes.py").write_text(source)
    with pytest.raises(SettingError, match=message) as caught:
        make()["their_shapes:Square"]
    assert "\n" not in str(caught.value)


def test_the_folder_that_was_added_last_goes_first(code_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for folder in (code_dir, other, code_dir):
        (folder / "their_shapes.py").write_text(f"class Square:\n    place = {folder.name!r}")
        add_code_dir(folder)
    assert sys.path[-2:] == [str(code_dir), str(other)]
    assert make()["their_shapes:Square"].place == "code"  # type: ignore[attr-defined]


def test_a_folder_that_python_searches_already_keeps_its_place(
    code_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(code_dir)
    add_code_dir(code_dir)
    assert sys.path.index(str(code_dir)) == 0
    assert sys.path.count(str(code_dir)) == 1


def test_what_was_searched_is_named(code_dir: Path) -> None:
    add_code_dir(code_dir)
    with pytest.raises(SettingError, match=rf"installed packages or in {code_dir}: set code-dir"):
        make()["their_shapes:Square"]


def test_an_installed_module_of_the_same_name_is_not_replaced(code_dir: Path) -> None:
    add_code_dir(code_dir)
    (code_dir / "colorsys.py").write_text("class Square: ...")
    with pytest.raises(SettingError, match=r"has no 'Square', and hides .*/code/colorsys.py: give"):
        make()["colorsys:Square"]
