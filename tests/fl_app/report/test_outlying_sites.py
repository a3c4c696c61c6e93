from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_app.report import write_report
from fl_app.report.outlying_sites import MIN_SITES, OutlyingFigure, outlying_figures
from fl_app.runs.records import Run, read_run
from strategies.ledger import SiteEntry
from tests.fl_app.report.fake_run import make_run

SITES = [f"site-{at:02d}" for at in range(7)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return read_run(make_run(tmp_path_factory.mktemp("run") / "run", rounds=1, sites=SITES))


def with_entries(run: Run, entries: list[SiteEntry]) -> Run:
    return replace(run, site_entries=entries)


def entry(site: str, accuracy: float | None = 0.8, loss: float | None = 1.0) -> SiteEntry:
    return SiteEntry(1, site, accepted=True, train_loss=loss, accuracy=accuracy, seconds=3.0)


def test_a_site_that_claims_much_more_than_the_others_is_named(base: Run) -> None:
    entries = [entry(site, 0.6 + 0.01 * at) for at, site in enumerate(SITES[1:])]
    run = with_entries(base, [entry(SITES[0], accuracy=1.0), *entries])
    (outlier,) = outlying_figures(run)
    assert (outlier.site, outlier.figure, outlier.value) == (SITES[0], "accuracy", 1.0)


def test_a_site_whose_loss_is_never_finite_is_named(base: Run) -> None:
    run = with_entries(base, [entry(SITES[0], loss=None), *map(entry, SITES[1:])])
    assert outlying_figures(run) == [OutlyingFigure(SITES[0], "train_loss", None, 1.0)]


def test_the_last_figures_count_and_those_of_refused_replies_do_not(base: Run) -> None:
    entries = [entry(SITES[0], 0.1), *map(entry, SITES)]
    entries.append(replace(entry(SITES[1], 0.0), accepted=False, reason="contradictory scores"))
    assert outlying_figures(with_entries(base, entries)) == []


@given(st.lists(st.floats(0, 1), max_size=MIN_SITES - 1))
def test_of_few_sites_none_stands_out(base: Run, accuracies: list[float]) -> None:
    entries = [entry(site, a) for site, a in zip(SITES, accuracies, strict=False)]
    assert outlying_figures(with_entries(base, entries)) == []


@given(st.lists(st.floats(0.5, 0.6), min_size=MIN_SITES, max_size=7))
def test_sites_that_agree_have_no_outlier(base: Run, accuracies: list[float]) -> None:
    entries = [entry(site, a) for site, a in zip(SITES, accuracies, strict=False)]
    assert outlying_figures(with_entries(base, entries)) == []


def test_the_report_names_them(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", rounds=2, sites=SITES)
    lines = (folder / "rounds.jsonl").read_text().splitlines()
    lines[-1] = lines[-1].replace('"train_loss": 1.0', '"train_loss": 999.0')
    (folder / "rounds.jsonl").write_text("\n".join(lines) + "\n")
    page = write_report(folder).read_text()
    assert "Far from the other sites" in page
    assert "site-06" in page[page.index("Far from the other sites") :]
