"""Named implementations of one interface, open to code outside this project.

::

    INDICATORS: Registry[type[Indicator]] = Registry("indicator")

    @INDICATORS.register("median")            # in any module
    class Median(Indicator): ...

    INDICATORS["median"]                      # by its name, once that module is imported
    INDICATORS["my_package.ranking:Median"]   # by its path; imports the module

Use the path in settings: the server and the sites of a run are separate processes, and each of
them imports the module where it needs it.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from rsdgc.errors import SettingError

T = TypeVar("T")


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
        raise SettingError(f"{self.kind} {name!r} is unknown: {remedy}")

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
        try:
            item: T = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise SettingError(
                f"{self.kind} {path!r} cannot be imported ({error}): write package.module:name "
                "and install the package on the server and at every site"
            ) from error
        return item
