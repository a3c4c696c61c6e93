"""What a site remembers of a run: its present state, and those that it may have to go back to.

The server may be resumed from a checkpoint that is older than what the site has worked since. For
that the site keeps, beside its present state, the one it had at each checkpoint that the server
still has, and goes back with the server: the run then goes on as if the rounds since had never
been, and what the sites hold back fits the server's books again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rsdgc.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class SiteState:
    """A site's state after a round; arrays and upload are named by their files.

    Parameters
    ----------
    round : int
        The last one worked; 0 before the first.
    version : int
        Of the published model that the replica is.
    replica, residual, velocity, upload : str
        Names of files in the folder; empty for none.
    residual_check, velocity_check, upload_check : int
        CRC-32 of their contents. The replica has none: it is compared with the server's
        fingerprint whenever it is used.
    task : str
        Digest of that round's task, to recognise the same message delivered twice.
    reply : dict
        The other figures of that round's reply, as JSON values.
    """

    round: int = 0
    version: int = 0
    replica: str = ""
    residual: str = ""
    velocity: str = ""
    upload: str = ""
    residual_check: int = 0
    velocity_check: int = 0
    upload_check: int = 0
    task: str = ""
    reply: dict[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> set[str]:
        """Names of the files that make it up."""
        return {self.replica, self.residual, self.velocity, self.upload} - {""}


@dataclass(frozen=True)
class History:
    """All that a site remembers of a run.

    Parameters
    ----------
    attempts : tuple of int
        The server's starts of this run that the site has worked for, oldest first.
    states : tuple of SiteState
        By round, the present one last.
    serial : int
        Highest number of a file so far.
    """

    attempts: tuple[int, ...] = ()
    states: tuple[SiteState, ...] = ()
    serial: int = 0

    def at(self, attempt: int, resumed_round: int) -> tuple[SiteState, ...]:
        """Return the states as an attempt of the server may know them.

        Parameters
        ----------
        attempt : int
            Which start of the server asks.
        resumed_round : int
            The last round that it knew when it started; 0 if it started anew.

        Raises
        ------
        RunError
            The server has been started again since this attempt.
        """
        if not self.attempts or attempt == self.attempts[-1]:
            return self.states
        if attempt in self.attempts:
            raise RunError(f"attempt {attempt} of this run is over: the server was resumed since")
        return tuple(state for state in self.states if state.round <= resumed_round)

    def then(
        self,
        state: SiteState,
        *,
        attempt: int,
        past: Iterable[SiteState],
        kept_rounds: Iterable[int],
        serial: int,
    ) -> History:
        """Return the history with one more state.

        Parameters
        ----------
        state : SiteState
            The new present one.
        attempt : int
            The server's start that it was worked for.
        past : iterable of SiteState
            What :meth:`at` gave for that start.
        kept_rounds : iterable of int
            Rounds of the server's checkpoints: of each, the last state not after it stays.
        serial : int
            Highest number of a file now.
        """
        past = tuple(past)
        kept = set()
        for limit in kept_rounds:
            kept.add(max((s.round for s in past if s.round <= limit), default=-1))
        stays = [s for s in past if s.round in kept and s.round < state.round]
        attempts = self.attempts if attempt in self.attempts else (*self.attempts, attempt)
        return replace(self, attempts=attempts, states=(*stays, state), serial=serial)
