"""What a site looks at before it joins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fl_app.deploy.checks import Finding, authority, disk, run_check, validity, versions, writable
from fl_app.deploy.endpoint import Endpoint, Reply, UntrustedError
from fl_app.deploy.node_keys import fingerprint, read_private
from fl_app.deploy.party_config import SiteConfig, split_address
from rsdgc.errors import RunError

AHEAD_S = 4.0
BEHIND_S = 300.0
"""Flower takes signed times from 5 s ahead of the server to 305 s behind it."""
_RENEW = "the server's operator renews it: rsdgc deploy renew"


def endpoint(config: SiteConfig) -> Endpoint:
    """Return the server as this site sees it."""
    host, port = split_address(config.server)
    return Endpoint(host, port, config.ca_certificate)


def check_site(config: SiteConfig) -> Iterator[Finding]:
    """Look at everything that a site needs, one finding after the other."""
    yield versions()
    yield run_check("authority", lambda: authority(config.ca_certificate))
    yield run_check("key", lambda: fingerprint(read_private(config.private_key).public_key()))
    yield from _server(endpoint(config))
    yield writable("state", config.state_dir)
    yield disk(config.state_dir, config.min_free_gb)
    yield run_check(
        "data", lambda: describe_data(config), "rsdgc ingest makes a store of this site's archive"
    )
    yield gpu()


def _server(server: Endpoint) -> Iterator[Finding]:
    where = f"{server.host}:{server.port}"
    reply: Reply | None = None
    try:
        reply = server.health()
    except UntrustedError as error:
        yield run_check("clock", lambda: clock(server.clock_ahead_s()))
        yield Finding(
            "server",
            "FAILED",
            str(error),
            "do not go on: is this the federation's ca.crt, and is the clock right?",
        )
        return
    except RunError as error:
        remedy = "is it started, is the name right, does a firewall let this machine out to it?"
        yield Finding("server", "FAILED", str(error), remedy)
        return
    yield clock(reply.ahead_s)
    if reply.status != 200:
        remedy = "the proxy answers, the SuperLink behind it does not: is it started?"
        yield Finding("server", "FAILED", f"{where} answers with status {reply.status}", remedy)
        return
    yield Finding("server", "ok", f"{where} answers, and is who it says")
    if reply.expires is not None:
        yield validity("certificate", reply.expires, _RENEW)
    yield run_check("exposure", lambda: exposure(server))


def clock(ahead_s: float | None) -> Finding:
    """Compare this machine's clock with the server's."""
    if ahead_s is None:
        return Finding("clock", "warning", "the server does not say what time it is")
    found = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the server"
    if -BEHIND_S <= ahead_s <= AHEAD_S:
        return Finding("clock", "ok", found)
    allowed = f"{AHEAD_S:.0f} s ahead and {BEHIND_S:.0f} s behind are allowed"
    return Finding(
        "clock", "FAILED", f"{found}; {allowed}", "timedatectl set-ntp true, here or at the server"
    )


def exposure(server: Endpoint) -> Finding:
    """Look whether the calls that start runs can be reached from here."""
    if not server.exposes_control():
        return Finding("exposure", "ok", "the server refuses all but the sites' calls")
    outcome: str = "runs can be started from here"
    if server.host in ("127.0.0.1", "localhost", "::1"):
        return Finding("exposure", "ok", f"{outcome}, which is the server's own machine")
    return Finding(
        "exposure",
        "FAILED",
        f"{outcome}: whoever reaches this port can run code at every site",
        "tell the server's operator to put the proxy (nginx.conf) before the SuperLink",
    )


def describe_data(config: SiteConfig) -> str:
    """Return what the site has to train on.

    Raises
    ------
    DataError
        The store cannot be used, or has nothing to train on.
    """
    from fl_app.site_data import check_trainable, own_data  # noqa: PLC0415  # imports torch

    here = own_data(config.data_dir, config.name)
    check_trainable(here.dataset, here.sites)
    site = here.dataset.site(here.sites[config.name])
    counts = {part: len(site.split(part)[0]) for part in ("train", "test")}
    store = here.dataset.store
    return (
        f"{counts['train']} chips to train on, {counts['test']} to test on, "
        f"{len(store.classes)} classes, {store.num_bands} bands, {store.chip_px} px"
    )


def gpu() -> Finding:
    """Say what this machine trains on."""
    import torch  # noqa: PLC0415  # takes seconds

    if torch.cuda.is_available():
        return Finding("GPU", "ok", torch.cuda.get_device_name(0))
    if Path("/proc/driver/nvidia").exists() or torch.version.cuda:
        found = "none that PyTorch can use: training is on the CPU"
        return Finding("GPU", "warning", found, "nvidia-smi: is there one, and its driver?")
    return Finding("GPU", "warning", "PyTorch is without CUDA: training is on the CPU")
