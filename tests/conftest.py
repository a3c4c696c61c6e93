"""For all tests: one thread a process, and hypothesis profiles.

Models and images of tests are small: more threads cost processor time and save none, and test
files run side by side. A profile is ``quick`` by default, ``thorough`` on request:
``HYPOTHESIS_PROFILE=thorough pytest`` and ``pytest --hypothesis-profile thorough`` both work; the
environment variable also multiplies the mutants of the fuzz tests.
"""

import os

from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when PyTorch is imported, here and below

_COMMON = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("quick", max_examples=200, derandomize=True, **_COMMON)
settings.register_profile("thorough", max_examples=10_000, print_blob=True, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
