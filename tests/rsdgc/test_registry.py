import pytest

from rsdgc.errors import SettingError
from rsdgc.registry import Registry


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
        (":x", "cannot be imported"),
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
