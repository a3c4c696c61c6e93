"""The checks of ``rsdgc deploy check``, which a party runs before it starts and while it runs.

:func:`check_server` and :func:`check_site` yield one :class:`CheckResult` after another. Below them
are first the checks of either party, then those of a server, then those of a site.
"""

from __future__ import annotations

import ipaddress
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from filelock import FileLock
from packaging.requirements import Requirement

from fl_app.deploy.credentials import (
    LOOPBACK_NAMES,
    fingerprint,
    is_ip_address,
    read_certificate,
    read_private,
    read_public,
    read_secret,
)
from fl_app.deploy.endpoint import Endpoint, UntrustedServerError
from fl_app.deploy.party_config import ServerConfig, SiteConfig, split_address
from rsdgc.errors import RsdgcError, RunError, SettingError
from rsdgc.registry import add_code_dir

EXPIRY_WARNING = timedelta(days=30)
"""A certificate that expires within this time is a warning: a month suffices to renew it."""
# Flower accepts a signed time from 5 s ahead of the server's to 305 s behind it. The margins are
# for what a reply cannot prove: see fl_app.deploy.endpoint.clock_ahead.
MAX_AHEAD_S = 4.0
MAX_BEHIND_S = 300.0
_LOWER = "lower min-free-gb"
_RENEW = "run rsdgc deploy renew on the machine that has the authority"


@dataclass(frozen=True)
class CheckResult:
    """What one check found about its subject, and what to do if something is wrong."""

    subject: str
    status: Literal["ok", "warning", "FAILED"]
    """A party can run in spite of a warning."""
    detail: str
    remedy: str = ""


def check_server(config: ServerConfig) -> Iterator[CheckResult]:
    """Run every check of a server and yield the results."""
    yield check_versions()
    yield _run_check("authority", lambda: _check_authority(config.ca_certificate))
    yield _run_check("certificate", lambda: check_certificate(config), _RENEW)
    yield _run_check("sites' keys", lambda: _check_site_keys(config), "run rsdgc deploy add-site")
    yield check_writable("state", config.state_dir)
    yield check_writable("runs", config.runs_dir)
    yield check_disk(config.runs_dir, config.min_free_gb, f"free some space, or {_LOWER}")
    yield check_code(config.code_dir)
    yield _check_superlink(config)
    yield _check_proxy(config)


def check_site(config: SiteConfig) -> Iterator[CheckResult]:
    """Run every check of a site and yield the results."""
    yield check_versions()
    yield _run_check("authority", lambda: _check_authority(config.ca_certificate))
    yield _run_check("key", lambda: fingerprint(read_private(config.private_key).public_key()))
    yield _run_check("isolation", lambda: check_isolation(config))
    yield from _check_reply(config.server_endpoint)
    yield check_writable("state", config.state_dir)
    if config.node_dir is not None:
        yield check_writable("node", config.node_dir)
    remedy = f"free some space (rsdgc site clean lists old states), or {_LOWER}"
    yield check_disk(config.state_dir, config.min_free_gb, remedy)
    remedy = "make a store of this site's archive: rsdgc ingest"
    yield _run_check("data", lambda: describe_data(config), remedy)
    if config.init_weights is not None:
        yield _run_check("weights", lambda: _describe_weights(config))
    yield check_code(config.code_dir)
    yield check_gpu()


def format_table(results: Sequence[CheckResult]) -> str:
    """Return one line for each result, with its remedy on a line below."""
    width = max((len(result.subject) for result in results), default=0)
    lines = []
    for result in results:
        lines.append(f"{result.status:<8} {result.subject:<{width}}  {result.detail}")
        if result.remedy:
            lines.append(f"{'':<8} {'':<{width}}  → {result.remedy}")
    return "\n".join(lines)


def check_versions() -> CheckResult:
    """Compare the installed packages with the versions that rsdgc requires."""
    problems = []
    for text in requires("rsdgc") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            problems.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            problems.append(f"{requirement.name} is {installed}, not {requirement.specifier}")
    if problems:
        remedy = "install rsdgc again with pip"
        return CheckResult("versions", "FAILED", "; ".join(problems), remedy)
    packages = ", ".join(f"{name} {version(name)}" for name in ("rsdgc", "flwr", "torch"))
    return CheckResult("versions", "ok", f"{packages}, Python {platform.python_version()}")


def check_disk(folder: Path, least_gb: float, remedy: str) -> CheckResult:
    """Compare the free space of a folder's disk with what it should be; the folder may not exist.

    ``remedy`` is what to do if there is less.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    detail = f"{free_gb:.1f} GB free at {existing}"
    if free_gb >= least_gb:
        return CheckResult("disk", "ok", detail)
    return CheckResult("disk", "FAILED", f"{detail}, less than {least_gb:g} GB", remedy)


def check_writable(subject: str, folder: Path) -> CheckResult:
    """Write, lock and delete a file in a folder; make the folder if it does not exist."""
    probe = folder / f".rsdgc-check-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Some network disks take files but no locks, and both parties rely on locks.
        with FileLock(probe, timeout=0):
            probe.write_text("x", encoding="utf-8")
    except OSError as error:
        detail = f"cannot write to {folder} ({error.strerror})"
        remedy = "make the user that runs rsdgc its owner, and use a local disk"
        return CheckResult(subject, "FAILED", detail, remedy)
    finally:
        if probe.exists():
            probe.unlink()
    return CheckResult(subject, "ok", str(folder))


def check_code(folder: Path) -> CheckResult:
    """Name the modules of the user's own, with the signatures that a run compares."""
    from fl_app.models import code_signature  # noqa: PLC0415  # imports torch

    add_code_dir(folder)  # not imported: a module may be a script that works at once
    names = code_signature.packages_in(folder)
    texts = [code_signature.code_signature(name) for name in names]
    if find_spec("timm") is not None:
        texts.append(code_signature.code_signature("timm"))
    own = [] if names else [f"no modules in {folder}"]
    return CheckResult("code", "ok", ", ".join(own + texts))


def check_validity(
    subject: str, expires: datetime, remedy: str, *, begins: datetime | None = None
) -> CheckResult:
    """Compare a certificate's dates with the present time."""
    now = datetime.now(UTC)
    day = f"{expires:%Y-%m-%d}"
    if begins is not None and now < begins:
        # Certificates are valid from before they were signed, so this machine's clock is wrong.
        detail = f"not valid before {begins:%Y-%m-%d %H:%M} UTC"
        return CheckResult(subject, "FAILED", detail, "set the clock")
    if now >= expires:
        return CheckResult(subject, "FAILED", f"expired on {day}", remedy)
    if now + EXPIRY_WARNING >= expires:
        return CheckResult(subject, "warning", f"expires on {day}", remedy)
    return CheckResult(subject, "ok", f"valid until {day}")


def _run_check(
    subject: str, check: Callable[[], CheckResult | str], remedy: str = ""
) -> CheckResult:
    """Run a check that may raise; return an error of this project as a failed check.

    A check returns its result, or only the detail if nothing is wrong. ``remedy`` is for an error
    whose own text does not say what to do.
    """
    try:
        result = check()
    except RsdgcError as error:
        return CheckResult(subject, "FAILED", str(error), remedy)
    return result if isinstance(result, CheckResult) else CheckResult(subject, "ok", result)


def _check_authority(path: Path) -> CheckResult:
    certificate = read_certificate(path)
    remedy = "make a new federation: every party needs the new ca.crt"
    begins, expires = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return check_validity("authority", expires, remedy, begins=begins)


def check_certificate(config: ServerConfig) -> CheckResult:
    """Check the server's certificate: its authority, key, names and dates."""
    certificate = read_certificate(config.certificate)
    try:
        certificate.verify_directly_issued_by(read_certificate(config.ca_certificate))
    except (ValueError, TypeError, InvalidSignature):
        raise SettingError(
            f"{config.certificate} is not signed by the authority of {config.ca_certificate}"
        ) from None
    key = serialization.load_pem_private_key(read_secret(config.private_key), password=None)
    if key.public_key() != certificate.public_key():
        raise SettingError(f"{config.private_key} is not the key of {config.certificate}")
    certified = _certified_names(certificate)
    missing = [name for name in (*config.names, *LOOPBACK_NAMES) if name not in certified]
    if missing:
        raise SettingError(f"{config.certificate} is not valid for {', '.join(missing)}")
    begins, expires = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return check_validity("certificate", expires, _RENEW, begins=begins)


def _certified_names(certificate: x509.Certificate) -> set[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    addresses = names.get_values_for_type(x509.IPAddress)
    return {*names.get_values_for_type(x509.DNSName), *map(str, addresses)}


def _check_site_keys(config: ServerConfig) -> str:
    paths = sorted(config.keys.glob("*.pub"))
    if not paths:
        raise SettingError(f"{config.keys} has no site's public key")
    for path in paths:
        read_public(path)
    return f"{len(paths)}: {', '.join(path.stem for path in paths)}"


def _check_superlink(config: ServerConfig) -> CheckResult:
    host, _ = split_address(config.listen)
    if host != "localhost" and not (is_ip_address(host) and ipaddress.ip_address(host).is_loopback):
        detail = f"listens on {config.listen}, which other machines may reach"
        remedy = 'set listen = "127.0.0.1:8000", with the proxy before it'
        return CheckResult("SuperLink", "FAILED", detail, remedy)
    try:
        config.superlink_endpoint.health()
    except RunError:
        return CheckResult("SuperLink", "ok", f"not started yet; will listen on {config.listen}")
    return CheckResult("SuperLink", "ok", f"answers on {config.listen}")


def _check_proxy(config: ServerConfig) -> CheckResult:
    """Ask the public address, as a site would, what it lets through."""
    if config.public == config.listen:
        return CheckResult("proxy", "warning", "no proxy: only sites on this machine can join")
    proxy = Endpoint(*split_address(config.public), config.ca_certificate)
    try:
        reply = proxy.health()
        exposed = proxy.exposes_control()
    except RunError as error:
        # No failure: many networks do not let a machine reach itself by its public name.
        remedy = "start nginx with nginx.conf, and check that its public name leads to this machine"
        return CheckResult("proxy", "warning", str(error), remedy)
    if exposed:
        detail = f"anyone who reaches {config.public} can start runs"
        remedy = "use nginx.conf unchanged: it passes only /v1/fleet/ and /health"
        return CheckResult("proxy", "FAILED", detail, remedy)
    if reply.status != 200:
        remedy = "run rsdgc server start, or see systemctl status rsdgc-server"
        return CheckResult("proxy", "warning", f"answers with status {reply.status}", remedy)
    return CheckResult("proxy", "ok", f"{config.public} passes only the sites' calls")


def check_isolation(config: SiteConfig) -> CheckResult:
    """Say whether the server's code can run apart from the site's key."""
    if config.app_secret is None:
        detail = "the SuperNode must start the app, so the server's code can read the site's key"
        remedy = "set app-secret and node-dir in site.toml, as rsdgc deploy add-site writes them"
        return CheckResult("isolation", "warning", detail, remedy)
    read_secret(config.app_secret)
    return CheckResult("isolation", "ok", "SuperNode and app can be processes of their own")


def _check_reply(server: Endpoint) -> Iterator[CheckResult]:
    """Check what a single reply of the server tells: clock, server, certificate; then exposure."""
    try:
        reply = server.health()
    except UntrustedServerError as error:
        # A wrong clock is a common cause, and can be told from an unverified server.
        yield _run_check("clock", lambda: check_clock(server.clock_ahead_s()))
        remedy = (
            "do not continue: check that ca.crt is the federation's and that the clock is right"
        )
        yield CheckResult("server", "FAILED", str(error), remedy)
        return
    except RunError as error:
        remedy = "check that the server is started, its name, and the firewalls in between"
        yield CheckResult("server", "FAILED", str(error), remedy)
        return
    yield check_clock(reply.clock_ahead_s)
    if reply.status != 200:
        detail = f"{server.address} answers with status {reply.status}"
        remedy = "the proxy answers, but the SuperLink behind it does not: start the server"
        yield CheckResult("server", "FAILED", detail, remedy)
        return
    yield CheckResult("server", "ok", f"{server.address} answers, and its certificate is valid")
    if reply.certificate_expires is not None:
        remedy = "the server's operator renews it with rsdgc deploy renew"
        yield check_validity("certificate", reply.certificate_expires, remedy)
    yield _run_check("exposure", lambda: _check_exposure(server))


def check_clock(ahead_s: float | None) -> CheckResult:
    """Compare this machine's clock with the server's, and with what Flower accepts."""
    if ahead_s is None:
        return CheckResult("clock", "warning", "the server does not send its time")
    detail = f"{ceil(abs(ahead_s))} s {'ahead of' if ahead_s > 0 else 'behind'} the server"
    if ahead_s == 0:
        detail = "the same as the server's"
    if -MAX_BEHIND_S <= ahead_s <= MAX_AHEAD_S:
        return CheckResult("clock", "ok", detail)
    limits = f"{MAX_AHEAD_S:.0f} s ahead and {MAX_BEHIND_S:.0f} s behind"
    detail += f", but at most {limits} are allowed"
    return CheckResult(
        "clock", "FAILED", detail, "run timedatectl set-ntp true, here or at the server"
    )


def _check_exposure(server: Endpoint) -> CheckResult:
    """Check that this site cannot start runs."""
    if not server.exposes_control():
        return CheckResult("exposure", "ok", "the server refuses all but the sites' calls")
    if server.host in ("127.0.0.1", "localhost", "::1"):
        detail = "runs can be started from here, which is the server's own machine"
        return CheckResult("exposure", "ok", detail)
    detail = "anyone who reaches this port can start runs, and so run code at every site"
    remedy = "ask the server's operator to put the proxy (nginx.conf) before the SuperLink"
    return CheckResult("exposure", "FAILED", detail, remedy)


def describe_data(config: SiteConfig) -> str:
    """Return the size of the site's data, and what the roll call compares between the sites."""
    from fl_app.site_data import (  # noqa: PLC0415  # imports all of Flower
        check_trainable,
        modality_infos,
        own_data,
    )

    data = own_data(config.data_dir, config.name)
    check_trainable(data.dataset, data.sites)
    site = data.dataset.site(data.sites[config.name])
    num_train, num_test = (len(site.split(name)[0]) for name in ("train", "test"))
    store = data.dataset.store
    modalities = "; ".join(f"{m.name}: {m.text}" for m in modality_infos(store))
    return (
        f"{num_train} chips to train on, {num_test} to test on, "
        f"{len(store.classes)} classes, {store.num_bands} bands ({modalities})"
    )


def _describe_weights(config: SiteConfig) -> str:
    """Return the size of the site's own copy of initial weights; a run would go on without it."""
    from fl_app.models.weight_file import WeightFile  # noqa: PLC0415  # imports torch

    assert config.init_weights is not None
    return f"{len(WeightFile(config.init_weights).entries)} entries in {config.init_weights}"


def check_gpu() -> CheckResult:
    """Say which GPU a site would train on, its free memory, and its type for mixed precision."""
    import torch  # noqa: PLC0415  # takes seconds

    from clients.acceleration import half_type  # noqa: PLC0415  # imports torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        half = str(half_type(torch.device("cuda"))).removeprefix("torch.")
        detail = f"{torch.cuda.get_device_name()}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        return CheckResult("GPU", "ok", f"{detail}, mixed precision in {half}")
    if Path("/proc/driver/nvidia").exists() or torch.version.cuda:
        detail = "PyTorch finds no GPU: this site trains on the CPU"
        return CheckResult("GPU", "warning", detail, "check the GPU and its driver with nvidia-smi")
    return CheckResult("GPU", "warning", "this PyTorch has no CUDA: this site trains on the CPU")
