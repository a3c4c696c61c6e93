"""A short pass of the fuzzers; ``python -m tests.fuzz`` is the long one."""

from __future__ import annotations

import logging

import pytest

from tests.fuzz.formats import NAMES, make_formats
from tests.fuzz.fuzzer import Format, Outcome, fuzz


@pytest.fixture(scope="module")
def formats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Format]:
    return make_formats(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_mutants_are_right_or_refused(name: str, formats: dict[str, Format]) -> None:
    logging.disable(logging.CRITICAL)
    outcome = Outcome()
    try:
        for seed in formats[name].seeds:
            formats[name].read(seed)
        fuzz(formats[name], formats[name].few, outcome)
    finally:
        logging.disable(logging.NOTSET)
    if outcome.failures:
        mutant, error = outcome.failures[0]
        raise AssertionError(f"{len(outcome.failures)} failures, first of {mutant!r}") from error
    assert outcome.mutants == formats[name].few
