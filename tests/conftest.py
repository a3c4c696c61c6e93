"""For all tests: one thread a process, the order of files, and hypothesis profiles.

Models and images of tests are small: more threads cost processor time and save none, and test
files run side by side. A profile is ``quick`` by default, ``thorough`` on request:
``HYPOTHESIS_PROFILE=thorough pytest`` and ``pytest --hypothesis-profile thorough`` both work; the
environment variable also multiplies the mutants of the fuzz tests.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when PyTorch is imported, here and below

_COMMON = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("quick", max_examples=100, derandomize=True, **_COMMON)
settings.register_profile("thorough", max_examples=10_000, print_blob=True, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

TESTS = Path(__file__).parent
LONGEST = (
    "deployment/test_fault_table.py",
    "fl_app/test_simulation.py",
    "deployment/test_restarts.py",
    "fl_app/test_faults.py",
    "fl_app/test_resume.py",
    "deployment/test_deployed_runs.py",
    "documentation/test_notebooks.py",
    "fl_app/live/test_report_renewal.py",
    "documentation/test_own_network.py",
    "fl_app/test_batch_norm.py",
    "fl_app/test_server_app.py",
    "documentation/test_documented_runs.py",
    "fl_app/test_missing_modalities.py",
    "fl_app/report/test_report.py",
    "data_prep/ingest/test_remedies.py",
    "fl_app/test_statistics_round.py",
    "strategies/test_scale.py",
    "fl_app/test_best_round.py",
    "fl_app/test_default_data.py",
    "test_packaging.py",
    "test_pages_in_a_browser.py",
    "rsdgc/test_ratios.py",
)
"""Files that take longest, which start first: none of them runs on alone when all others end.

Tests of deployments wait most of their time, and simulations never do: both take turns. A site
takes 0.9 GB, and Ray ends processes when 95 % of the memory is in use: not all deployments start at
once. The notebooks start Ray in a process of their own, and wait for a while: beside three other
starts, Ray's raylet was once not up after half an hour. The process that renews a report has the
lowest priority: its file waits for it, and must not be among the last.
"""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return two workers a processor: tests of deployments wait most of their time."""
    return 2 * (os.cpu_count() or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [name for name in LONGEST if not (TESTS / name).exists()]
    assert not missing, f"{missing} are listed in {__file__} and do not exist"
    ranks = {TESTS / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch  # noqa: PLC0415  # most tests do without

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture
def code_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for a user's modules; what is imported from it is forgotten after the test.

    So are the numbers that its value codings have claimed.
    """
    from rsdgc.codec import values  # noqa: PLC0415  # most tests do without

    monkeypatch.setattr(values, "_CLASSES", dict(values._CLASSES))
    monkeypatch.setattr("rsdgc.registry._code_dirs", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    folder = tmp_path / "code"
    folder.mkdir()
    yield folder
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
            del sys.modules[name]
