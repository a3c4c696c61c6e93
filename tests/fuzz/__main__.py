"""Run the fuzzers of all formats for as long as one likes; Ctrl-C ends them earlier.

::

    python -m tests.fuzz --minutes 30
    python -m tests.fuzz --formats upload,patch --mutants 100000
"""

from __future__ import annotations

import argparse
import logging
import resource
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

from tests.fuzz.formats import make_formats
from tests.fuzz.fuzzer import Outcome, fuzz, save_failure

BLOCK = 200
"""Mutants of a format before the next one has its turn."""
MEMORY_BYTES = 16 * 2**30
"""Address space: what a false size claims cannot be allocated, and shows as a failure."""


def main() -> int:
    """Fuzz, print a line a format, and return how many formats failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long, all formats together")
    parser.add_argument("--mutants", type=int, help="of each format, however long it takes")
    parser.add_argument("--formats", default="", help="names by commas; all by default")
    parser.add_argument("--seed", type=int, default=0, help="others give other mutants")
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"), help="for failures")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    logging.disable(logging.CRITICAL)  # a warning a refused file
    with tempfile.TemporaryDirectory() as folder:
        formats = make_formats(Path(folder))
        names = options.formats.split(",") if options.formats else list(formats)
        outcomes = {name: Outcome() for name in names}
        start, turn = time.monotonic(), 0
        with suppress(KeyboardInterrupt):  # Ctrl-C ends it, with the figures so far
            while _goes_on(options, outcomes, start):
                for name, outcome in outcomes.items():
                    fuzz(formats[name], BLOCK, outcome, 1_000_000 * options.seed + turn)
                turn += 1
    print(f"{'format':16}{'mutants':>9}{'right':>9}{'refused':>9}{'failed':>8}{'seconds':>9}")
    for name, o in outcomes.items():
        figures = f"{o.mutants:9}{o.accepted:9}{o.refused:9}{len(o.failures):8}{o.seconds:9.0f}"
        print(f"{name:16}{figures}")
        for number, (mutant, error) in enumerate(o.failures[:20]):
            path = save_failure(options.out, name, number, mutant)
            print(f"{path}: {''.join(traceback.format_exception(error)[-3:])}", file=sys.stderr)
    return sum(bool(outcome.failures) for outcome in outcomes.values())


def _goes_on(options: argparse.Namespace, outcomes: dict[str, Outcome], start: float) -> bool:
    if options.mutants is not None:
        return any(outcome.mutants < options.mutants for outcome in outcomes.values())
    return bool(time.monotonic() - start < 60 * options.minutes)


if __name__ == "__main__":
    sys.exit(main())
