"""Shaped links between sites on one machine: network namespaces, veth pairs, a token bucket.

::

    server namespace                     one namespace per site
    10.89.1.1 ──── veth, tc tbf ──────── 10.89.1.2
    10.89.2.1 ──── veth, tc tbf ──────── 10.89.2.2
    …

Both ends of every pair are shaped, so that every site has the same rate up and down, whatever the
others do. Packets are never larger than the MTU, as on a real link: the bucket would count merged
packets as one. A queue holds 400 ms; there is no other delay, and no loss except when a queue
overflows. This needs root, and Linux with ``ip`` and ``tc``; everything is removed at the end.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Never

from rsdgc.errors import RunError

CLONE_NEWNET = 0x40000000
QUEUE_MS = 400
MTU_BYTES = 1500
MIN_BURST_BYTES = 4 * MTU_BYTES
BURST_S = 0.02
"""Size of the bucket, as time at the link's rate; a bucket must hold more than one packet."""


@dataclass(frozen=True)
class Link:
    """A site's network namespace and its link to the server.

    The site's processes run in the namespace, ``device`` is the site's end of the link, and
    ``server`` the server's address on this link.
    """

    namespace: str
    device: str
    server: str

    def wire_bytes(self) -> tuple[int, int]:
        """Return the bytes that the site's end has sent and received, all headers included."""
        with inside(self.namespace):
            (shown,) = json.loads(_run("ip", "-json", "-stats", "link", "show", self.device))
        return shown["stats64"]["tx"]["bytes"], shown["stats64"]["rx"]["bytes"]


@dataclass(frozen=True)
class Network:
    """A server's namespace and the links of the sites."""

    server: str
    links: tuple[Link, ...]


@contextmanager
def network(rates_mbit: Sequence[float | None]) -> Iterator[Network]:
    """Make a namespace for the server and one for each site; remove them at the end.

    ``rates_mbit`` are the rates of the sites' links, in Mbit/s, the same up and down; None for no
    limit. Raises :class:`RunError` if the user is not root, ``ip`` or ``tc`` is missing, or the
    kernel refuses.
    """
    check_able()
    tag = f"rsdgc{os.getpid()}"
    server = f"{tag}-srv"
    with ExitStack() as stack, terminated():
        stack.enter_context(_namespace(server))
        links = []
        for number, rate in enumerate(rates_mbit, start=1):
            namespace = f"{tag}-{number}"
            stack.enter_context(_namespace(namespace))
            links.append(_connect(server, namespace, number, rate))
        yield Network(server, tuple(links))


def check_able() -> None:
    """Raise :class:`RunError` if this machine cannot make namespaces."""
    if os.geteuid() != 0:
        raise RunError("network namespaces need root: run this benchmark with sudo")
    for tool, package in (("ip", "iproute2"), ("tc", "iproute2")):
        if shutil.which(tool) is None:
            raise RunError(f"the command '{tool}' is missing: install the package {package}")


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Move this thread, and the processes that it starts in the block, into a namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{namespace}") as target:
        _enter(libc, target.fileno(), namespace)
        try:
            yield
        finally:
            _enter(libc, before.fileno(), "the original network")


@contextmanager
def terminated() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that namespaces are removed then, too."""

    def leave(number: int, _: FrameType | None) -> Never:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _namespace(name: str) -> Iterator[None]:
    _run("ip", "netns", "add", name)
    try:
        _run("ip", "-n", name, "link", "set", "lo", "up")
        yield
    finally:
        _run("ip", "netns", "del", name)  # its ends of links go with it, and so the links


def _connect(server: str, namespace: str, number: int, rate_mbit: float | None) -> Link:
    near, far = f"site{number}", "uplink"
    pair = ("type", "veth", "peer", "name", far, "netns", namespace)
    _run("ip", "-n", server, "link", "add", near, *pair)
    for where, device, address in (
        (server, near, f"10.89.{number}.1"),
        (namespace, far, f"10.89.{number}.2"),
    ):
        _run("ip", "-n", where, "link", "set", device, "gso_max_segs", "1")
        _run("ip", "-n", where, "address", "add", f"{address}/30", "dev", device)
        _run("ip", "-n", where, "link", "set", device, "mtu", str(MTU_BYTES), "up")
        if rate_mbit is not None:
            _shape(where, device, rate_mbit)
    return Link(namespace, far, f"10.89.{number}.1")


def _shape(namespace: str, device: str, rate_mbit: float) -> None:
    bits = round(rate_mbit * 1e6)
    burst = max(MIN_BURST_BYTES, round(bits / 8 * BURST_S))
    shape = ("rate", f"{bits}bit", "burst", f"{burst}b", "latency", f"{QUEUE_MS}ms")
    _run("tc", "-n", namespace, "qdisc", "add", "dev", device, "root", "tbf", *shape)


def _enter(libc: ctypes.CDLL, descriptor: int, name: str) -> None:
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise RunError(f"cannot enter {name}: {os.strerror(ctypes.get_errno())}")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RunError(f"'{' '.join(command)}' failed: {done.stderr.strip() or 'no reason given'}")
    return done.stdout
