"""Named implementations of one interface, open to code outside this project.

::

    INDICATORS: Registry[type[Indicator]] = Registry("indicator")

    @INDICATORS.register("median")            # in any module
    class Median(Indicator): ...

    INDICATORS["median"]                      # by its name, once that module is imported
    INDICATORS["my_package.ranking:Median"]   # by its path; imports the module

Use the path in settings: the server and the sites of a run are separate processes, and each of
them imports the module where it needs it. Modules come from where Python finds them, and then from
the folders of :func:`add_code_dir`.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

from rsdgc.documents import shorten
from rsdgc.errors import SettingError, describe_error

T = TypeVar("T")

_code_dirs: list[str] = []


def add_code_dir(folder: str | Path) -> None:
    """Let modules in a folder be imported, in this process; an empty text adds none.

    It comes after everything that is installed, because a file of a user that is called
    ``random.py`` must not replace Python's own, and before the folders that were added earlier.
    """
    path = str(Path(folder).absolute())
    # What is in sys.path already, by PYTHONPATH for instance, has the place that it was given.
    if not str(folder) or (path in sys.path and path not in _code_dirs):
        return
    sys.path[:] = [each for each in sys.path if each not in _code_dirs]
    _code_dirs[:] = [path, *(each for each in _code_dirs if each != path)]
    sys.path += _code_dirs
    importlib.invalidate_caches()


class Registry(Generic[T]):
    """A mapping from names to implementations.

    Parameters
    ----------
    kind : str
        What is registered, in the singular, as error messages call it.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers an implementation under a name.

        Raises
        ------
        SettingError
            The name is taken or contains a colon.
        """
        if name in self._items or ":" in name:
            raise SettingError(f"{self.kind} {name!r} cannot be registered: choose another name")

        def add(item: T) -> T:
            self._items[name] = item
            return item

        return add

    def __getitem__(self, name: str) -> T:
        """Return the implementation of a registered name or of a path ``package.module:name``.

        Raises
        ------
        SettingError
            The name is not registered, or the path cannot be imported.
        """
        if name in self._items:
            return self._items[name]
        if ":" in name:
            return self._import(name)
        remedy = f"choose one of {', '.join(self._items)}"
        if similar := difflib.get_close_matches(name, self._items, n=1):
            remedy = f"did you mean {similar[0]!r}? Otherwise {remedy}"
        path = "{}:{}".format(*name.rsplit(".", 1)) if "." in name else "package.module:name"
        remedy += f", or write {path} for one of your own"
        raise SettingError(f"{self.kind} {shorten(name)} is unknown: {remedy}")

    def name_of(self, item: T) -> str:
        """Return the name that finds an implementation: the registered one, else its path.

        An implementation that is both registered and given by its path has one name this way.
        """
        for name, registered in self._items.items():
            if registered is item:
                return name
        return f"{getattr(item, '__module__', '')}:{getattr(item, '__qualname__', '')}"

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def _import(self, path: str) -> T:
        module_name, _, attribute = path.partition(":")
        words = [*module_name.split("."), attribute]
        if not all(map(str.isidentifier, words)) or module_name.endswith(".py"):
            raise SettingError(f"{self.kind} {path!r} cannot be imported: write {_repair(path)}")
        try:
            module = importlib.import_module(module_name)
        except (Exception, SystemExit) as error:  # whatever a user's module raises
            reason = _why_not_imported(module_name, error)
            raise SettingError(f"{self.kind} {path!r} cannot be imported: {reason}") from error
        if not hasattr(module, attribute):
            reason = _why_not_in(module, attribute)
            raise SettingError(f"{self.kind} {path!r} cannot be imported: {reason}")
        item: T = getattr(module, attribute)
        return item


def _repair(path: str) -> str:
    """Return what someone may have meant who wrote the name of a file."""
    file, _, name = path.partition(":")
    module = file.removeprefix("./").removesuffix(".py").strip("/").replace("/", ".")
    words = [*module.split("."), name]
    return f"{module}:{name}" if all(map(str.isidentifier, words)) else "package.module:name"


def _why_not_imported(module: str, error: BaseException) -> str:
    """Return the reason and the remedy in one line."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is None:
        return f"its module raises {describe_error(error)}"
    if missing != module and not module.startswith(f"{missing}."):
        return (
            f"its module imports {missing!r}, which is not installed: install it, in a deployment "
            "on the server and at every site"
        )
    folders = "".join(f" or in {folder}" for folder in _code_dirs)
    return (
        f"there is no module {missing!r} among the installed packages{folders}: set code-dir to "
        "its folder, or install it; in a deployment, on the server and at every site"
    )


def _why_not_in(module: ModuleType, attribute: str) -> str:
    """Return what the module has instead, and whether it hides another one."""
    place = getattr(module, "__file__", None) or "built in"
    reason = f"module {module.__name__} ({place}) has no {attribute!r}"
    for folder in _code_dirs:
        own = Path(folder).joinpath(*module.__name__.split("."))
        hidden = [path for path in (own, own.with_suffix(".py")) if path.exists()]
        if hidden and not str(place).startswith(str(own)):
            return f"{reason}, and hides {hidden[0]}: give that another name"
    names = {name.lower(): name for name in reversed(dir(module)) if not name.startswith("_")}
    if similar := difflib.get_close_matches(attribute.lower(), names, n=1):
        return f"{reason}: did you mean {names[similar[0]]!r}?"
    return f"{reason}: name what it defines"
