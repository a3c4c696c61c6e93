"""Runs mutants of a format through its reader, and says what became of them."""

from __future__ import annotations

import signal
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from tests.fuzz.mutations import Rng, changed_bytes, pick

LONGEST_S = 30
"""A mutant that takes longer counts as a failure."""


@dataclass(frozen=True)
class Format:
    """A format, and what may become of a mutant of it.

    ``read`` returns after it has checked what it was given, or raises one of ``errors``.
    """

    name: str
    seeds: Sequence[Any]
    read: Callable[[Any], object]
    errors: tuple[type[Exception], ...]
    mutate: Callable[[Rng, Any], Any] = changed_bytes
    few: int = 200  #: mutants of a short pass: of what takes long, not as many


class SlowError(Exception):
    """A mutant took too long."""


@dataclass
class Outcome:
    """What became of the mutants of a format."""

    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    failures: list[tuple[Any, BaseException]] = field(default_factory=list)

    @property
    def mutants(self) -> int:
        """All mutants that were read."""
        return self.accepted + self.refused + len(self.failures)


def fuzz(tested: Format, count: int, outcome: Outcome, seed: int = 0) -> None:
    """Read mutants of a format and count what became of them; other seeds give other mutants."""
    rng = np.random.default_rng([seed, zlib.crc32(tested.name.encode())])
    start = time.perf_counter()
    for _ in range(count):
        mutant = tested.mutate(rng, pick(rng, tested.seeds))
        try:
            with _time_limit():
                tested.read(mutant)
        except tested.errors as error:
            outcome.refused += 1
            if "\n" in str(error) or len(str(error)) > 3000:
                outcome.failures.append((mutant, AssertionError(f"not a short line: {error!r}")))
                outcome.refused -= 1
        except BaseException as error:  # whatever it is, it is not allowed
            if isinstance(error, KeyboardInterrupt):
                raise
            outcome.failures.append((mutant, error))
        else:
            outcome.accepted += 1
    outcome.seconds += time.perf_counter() - start


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise SlowError(f"more than {LONGEST_S} s")

    old = signal.signal(signal.SIGALRM, stop)
    left = signal.alarm(LONGEST_S)  # of the test's own limit, if it uses the same clock
    try:
        yield
    finally:
        signal.alarm(left)
        signal.signal(signal.SIGALRM, old)


def save_failure(folder: Path, name: str, number: int, mutant: Any) -> Path:
    """Write a mutant to a file, so that it can be read again."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{number:03d}"
    path.write_bytes(mutant if isinstance(mutant, bytes) else repr(mutant).encode())
    return path
