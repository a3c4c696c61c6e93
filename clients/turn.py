"""One locked look at a site's state, and at most one change of it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from clients.history import SiteState
from clients.replica import Replica, bring_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clients.state import StateFolder
    from clients.task import Delivery, Origin
    from rsdgc.arrays import Float32
    from rsdgc.spec import ModelSpec


class Turn:
    """What a site has when a message comes in, and how it changes; :func:`take_turn` makes it.

    Attributes
    ----------
    folder : StateFolder
        Where the state is kept.
    state : SiteState
        The present one, as the server that asks may know it.
    serial : int
        A number that no file has: for those of this turn.
    """

    def __init__(self, folder: StateFolder, origin: Origin, spec: ModelSpec) -> None:
        self.folder = folder
        self._origin = origin
        self._spec = spec
        self._history = folder.load()
        self._past = self._history.at(origin.attempt, origin.resumed_round)
        self.state = self._past[-1] if self._past else SiteState()
        self.serial = self._history.serial + 1

    def bring_up(self, delivery: Delivery, initial: Callable[[], Float32]) -> Replica:
        """Return the replica at the version delivered; see :func:`clients.replica.bring_up`."""
        return bring_up(
            self.folder,
            self.state,
            delivery,
            spec=self._spec,
            run=self._origin.run,
            initial=initial,
            serial=self.serial,
        )

    def commit(self, state: SiteState) -> None:
        """Make a new state the present one; see :meth:`clients.state.StateFolder.commit`."""
        after = self._history.then(
            state,
            attempt=self._origin.attempt,
            past=self._past,
            kept_rounds=self._origin.kept_rounds,
            serial=self.serial,
        )
        self.folder.commit(after)


@contextmanager
def take_turn(folder: StateFolder, origin: Origin, spec: ModelSpec) -> Iterator[Turn]:
    """Lock a site's state and look at it.

    Raises
    ------
    StateError
        It cannot be read or written.
    RunError
        The message is of an attempt that is over.
    """
    with folder.locked():
        yield Turn(folder, origin, spec)
