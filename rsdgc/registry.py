"""Named implementations of one interface, open to code outside this project.

::

    INDICATORS: Registry[type[Indicator]] = Registry("indicator")

    @INDICATORS.register("median")            # in anybody's module
    class Median: ...

    INDICATORS["median"]                      # by its registered name, once that module is imported
    INDICATORS["my_package.ranking:Median"]   # by its place: imported here, in every process

The second form needs no import by hand, so it is the one for settings: a run's server and sites,
each a process of its own, all find the same object under it.
"""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Generic, TypeVar

from rsdgc.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
        """Return a decorator that enters an implementation under a name.

        Raises
        ------
        SettingError
            The name is taken, or contains a colon.
        """
        if name in self._items or ":" in name:
            raise SettingError(f"{self.kind} {name!r} cannot be registered: choose another name")

        def enter(item: T) -> T:
            self._items[name] = item
            return item

        return enter

    def __getitem__(self, name: str) -> T:
        """Return what is registered under a name, or lies at ``package.module:attribute``.

        Raises
        ------
        SettingError
            Nothing is registered under the name, or the module or attribute cannot be imported.
        """
        if name in self._items:
            return self._items[name]
        if ":" in name:
            return self._import(name)
        near = difflib.get_close_matches(name, self._items, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(self._items)}"
        raise SettingError(f"{self.kind} {name!r} is unknown: {hint}")

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def _import(self, path: str) -> T:
        module_name, _, attribute = path.partition(":")
        try:
            found: T = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise SettingError(
                f"{self.kind} {path!r} cannot be imported ({error}): write package.module:name, "
                "and install the package on the server and at every site"
            ) from error
        return found
