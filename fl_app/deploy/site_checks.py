"""The checks of a site before it joins a federation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fl_app.deploy.checks import (
    CheckResult,
    check_authority,
    check_disk,
    check_validity,
    check_versions,
    check_writable,
    run_check,
)
from fl_app.deploy.endpoint import Endpoint, UntrustedServerError
from fl_app.deploy.node_keys import fingerprint, read_private
from fl_app.deploy.party_config import SiteConfig, split_address
from rsdgc.errors import RunError

# Flower accepts a signed time from 5 s ahead of the server's to 305 s behind it. The margins are
# for the server's time, which HTTP sends in whole seconds.
MAX_AHEAD_S = 4.0
MAX_BEHIND_S = 300.0


def server_endpoint(config: SiteConfig) -> Endpoint:
    """Return the server as this site reaches it."""
    host, port = split_address(config.server)
    return Endpoint(host, port, config.ca_certificate)


def check_site(config: SiteConfig) -> Iterator[CheckResult]:
    """Run every check of a site and yield the results."""
    yield check_versions()
    yield run_check("authority", lambda: check_authority(config.ca_certificate))
    yield run_check("key", lambda: fingerprint(read_private(config.private_key).public_key()))
    yield from _check_server(server_endpoint(config))
    yield check_writable("state", config.state_dir)
    yield check_disk(config.state_dir, config.min_free_gb)
    yield run_check(
        "data", lambda: describe_data(config), "make a store of this site's archive: rsdgc ingest"
    )
    yield _check_gpu()


def _check_server(server: Endpoint) -> Iterator[CheckResult]:
    address = f"{server.host}:{server.port}"
    try:
        reply = server.health()
    except UntrustedServerError as error:
        # A wrong clock is a common cause, and can be told from an unverified server.
        yield run_check("clock", lambda: check_clock(server.clock_ahead_s()))
        yield CheckResult(
            "server",
            "FAILED",
            str(error),
            "do not continue: check that ca.crt is the federation's and that the clock is right",
        )
        return
    except RunError as error:
        remedy = "check that the server is started, its name, and the firewalls in between"
        yield CheckResult("server", "FAILED", str(error), remedy)
        return
    yield check_clock(reply.clock_ahead_s)
    if reply.status != 200:
        remedy = "the proxy answers, but the SuperLink behind it does not: start the server"
        yield CheckResult(
            "server", "FAILED", f"{address} answers with status {reply.status}", remedy
        )
        return
    yield CheckResult("server", "ok", f"{address} answers, and its certificate is valid")
    if reply.certificate_expires is not None:
        remedy = "the server's operator renews it with rsdgc deploy renew"
        yield check_validity("certificate", reply.certificate_expires, remedy)
    yield run_check("exposure", lambda: _check_exposure(server))


def check_clock(ahead_s: float | None) -> CheckResult:
    """Compare this machine's clock with the server's, and with what Flower accepts."""
    if ahead_s is None:
        return CheckResult("clock", "warning", "the server does not send its time")
    detail = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the server"
    if -MAX_BEHIND_S <= ahead_s <= MAX_AHEAD_S:
        return CheckResult("clock", "ok", detail)
    return CheckResult(
        "clock",
        "FAILED",
        f"{detail}, but at most {MAX_AHEAD_S:.0f} s ahead and {MAX_BEHIND_S:.0f} s behind are "
        "allowed",
        "run timedatectl set-ntp true, here or at the server",
    )


def _check_exposure(server: Endpoint) -> CheckResult:
    """Check that this site cannot start runs."""
    if not server.exposes_control():
        return CheckResult("exposure", "ok", "the server refuses all but the sites' calls")
    if server.host in ("127.0.0.1", "localhost", "::1"):
        detail = "runs can be started from here, which is the server's own machine"
        return CheckResult("exposure", "ok", detail)
    return CheckResult(
        "exposure",
        "FAILED",
        "anyone who reaches this port can start runs, and so run code at every site",
        "ask the server's operator to put the proxy (nginx.conf) before the SuperLink",
    )


def describe_data(config: SiteConfig) -> str:
    """Return the size of the site's data.

    Raises
    ------
    DataError
        The store cannot be used, or has no chips to train on.
    """
    from fl_app.site_data import check_trainable, own_data  # noqa: PLC0415  # imports torch

    data = own_data(config.data_dir, config.name)
    check_trainable(data.dataset, data.sites)
    site = data.dataset.site(data.sites[config.name])
    num_train, num_test = (len(site.split(name)[0]) for name in ("train", "test"))
    store = data.dataset.store
    return (
        f"{num_train} chips to train on, {num_test} to test on, "
        f"{len(store.classes)} classes, {store.num_bands} bands, {store.chip_px} px"
    )


def _check_gpu() -> CheckResult:
    import torch  # noqa: PLC0415  # takes seconds

    if torch.cuda.is_available():
        return CheckResult("GPU", "ok", torch.cuda.get_device_name(0))
    if Path("/proc/driver/nvidia").exists() or torch.version.cuda:
        detail = "PyTorch finds no GPU: this site trains on the CPU"
        return CheckResult("GPU", "warning", detail, "check the GPU and its driver with nvidia-smi")
    detail = "this PyTorch has no CUDA: this site trains on the CPU"
    return CheckResult("GPU", "warning", detail)
