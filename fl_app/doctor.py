"""The checks of ``rsdgc doctor``: whether this machine can ingest, simulate and predict.

A deployment has checks of its own, with its configuration: :mod:`fl_app.deploy.checks`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from fl_app.deploy.checks import CheckResult, check_disk, check_gpu, check_versions, check_writable
from fl_app.flower.superlink import free_ports, tool
from fl_app.home import home
from fl_app.models.code_signature import packages_that_hide_ours

MIN_FREE_GB = 2.0
"""The built-in data, Flower's files and a few runs."""
_MORE_SPACE = "free some space, or set RSDGC_HOME to a folder on another disk"
MIN_MEMORY_GB = 4.0
"""A simulation of four sites on CPUs: each of Ray's workers holds PyTorch."""


def check_machine() -> Iterator[CheckResult]:
    """Run every check and yield the results."""
    for subject, check in _CHECKS.items():
        try:
            yield check()
        except Exception as error:  # noqa: BLE001, RUF100  # one that fails hides no other
            text = " ".join(str(error).split()) or type(error).__name__
            yield CheckResult(subject, "FAILED", f"{type(error).__name__}: {text}")


def _check_processor() -> CheckResult:
    import torch  # noqa: PLC0415  # takes seconds

    from clients.device_memory import free_bytes  # noqa: PLC0415  # loads PyTorch

    # What a container may still take, where it has a limit of its own.
    free_gb = free_bytes(torch.device("cpu")) / 1e9
    total_gb = psutil.virtual_memory().total / 1e9
    usable = len(os.sched_getaffinity(0))
    detail = f"{usable} of {os.cpu_count()} CPUs, {free_gb:.1f} of {total_gb:.1f} GB memory free"
    if free_gb < MIN_MEMORY_GB:
        remedy = "end other programs, or simulate with a larger --cpus-per-site"
        return CheckResult("machine", "warning", detail, remedy)
    return CheckResult("machine", "ok", detail)


def _check_flower() -> CheckResult:
    missing = [name for name in ("flwr", "flower-superlink") if shutil.which(tool(name)) is None]
    if missing:
        remedy = "install rsdgc again with pip, in the environment whose rsdgc you call"
        return CheckResult("Flower", "FAILED", f"{', '.join(missing)} not found", remedy)
    import ray  # noqa: PLC0415  # takes a second

    return CheckResult("Flower", "ok", f"{tool('flower-superlink')}, Ray {ray.__version__}")


def _check_ports() -> CheckResult:
    return CheckResult("ports", "ok", f"127.0.0.1 has free ports, such as {free_ports(1)[0]}")


def _check_gdal() -> CheckResult:
    """Warp a point and open the drivers that are used: a mixed installation fails here."""
    import rasterio  # noqa: PLC0415  # takes a moment
    from rasterio.drivers import raster_driver_extensions  # noqa: PLC0415
    from rasterio.warp import transform  # noqa: PLC0415

    (x,), (y,) = transform("EPSG:4326", "EPSG:32633", [15.0], [45.0])
    detail = f"GDAL {rasterio.__gdal_version__}, rasterio {rasterio.__version__}"
    if abs(x - 500_000) > 1 or not 4_982_900 < y < 4_983_000:
        remedy = "unset PROJ_DATA and PROJ_LIB, which may name another version's files"
        return CheckResult("GDAL", "FAILED", f"{detail}: PROJ warps wrongly ({x}, {y})", remedy)
    suffixes = raster_driver_extensions()
    lacking = [suffix for suffix in ("tif", "jp2", "png") if suffix not in suffixes]
    if lacking:
        text = f"{detail}: cannot read {', '.join(lacking)}"
        return CheckResult("GDAL", "warning", text, "install rasterio from PyPI")
    set_here = [name for name in ("GDAL_DATA", "PROJ_DATA", "PROJ_LIB") if name in os.environ]
    more = f", {', '.join(set_here)} set" if set_here else ""
    return CheckResult("GDAL", "ok", f"{detail}, PROJ works{more}")


def _check_current_folder() -> CheckResult:
    hiding = packages_that_hide_ours(Path.cwd())
    if hiding:
        detail = f"{', '.join(map(str, hiding))} would hide packages of rsdgc"
        return CheckResult("folder", "FAILED", detail, "rename them, or work in another folder")
    return CheckResult("folder", "ok", f"nothing in {Path.cwd()} hides a package of rsdgc")


def _check_gpu() -> CheckResult:
    result = check_gpu()
    # That a machine without a GPU works on its CPUs is as it should be.
    status = "ok" if result.status == "warning" and not result.remedy else result.status
    return CheckResult(result.subject, status, result.detail, result.remedy)


_CHECKS: dict[str, Callable[[], CheckResult]] = {
    "versions": check_versions,
    "machine": _check_processor,
    "disk": lambda: check_disk(home(), MIN_FREE_GB, _MORE_SPACE),
    "home": lambda: check_writable("home", home()),
    "folder": _check_current_folder,
    "Flower": _check_flower,
    "ports": _check_ports,
    "GDAL": _check_gdal,
    "GPU": _check_gpu,
}
