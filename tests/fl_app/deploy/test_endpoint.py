"""What one reply of a server tells about the clocks of both machines; and ports that are taken."""

from __future__ import annotations

import socket
from collections.abc import Callable
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_app.deploy.checks import MAX_AHEAD_S, check_clock
from fl_app.deploy.endpoint import Endpoint, clock_ahead, refuse_taken_port
from fl_app.deploy.provision import Federation
from rsdgc.errors import RunError

DELAYS_S = st.floats(0.0, 30.0)


@given(
    sent_s=st.floats(0.0, 1e6),
    request_s=DELAYS_S,
    reply_s=DELAYS_S,
    ahead_s=st.floats(-1e3, 1e3),
)
def test_a_reply_proves_no_more_than_is_true(
    sent_s: float, request_s: float, reply_s: float, ahead_s: float
) -> None:
    server_s = floor(sent_s + request_s - ahead_s)
    proved_s = clock_ahead(sent_s, server_s, sent_s + request_s + reply_s)
    rounding_s = 1e-6
    assert abs(proved_s) <= abs(ahead_s) + rounding_s
    assert proved_s * ahead_s >= -rounding_s
    assert abs(ahead_s - proved_s) <= request_s + reply_s + 1.0 + rounding_s


def test_the_whole_second_that_http_sends_is_no_difference() -> None:
    assert clock_ahead(100.9, 100.0, 100.95) == 0.0
    assert check_clock(0.0).detail == "the same as the server's"


@pytest.mark.slow  # it waits for longer than the clocks may differ
def test_a_slow_reply_is_no_wrong_clock(federation: Federation, serve: Callable[..., int]) -> None:
    server = federation.folder / "server"
    port = serve(server, slow_s=MAX_AHEAD_S + 1.5)
    reply = Endpoint("127.0.0.1", port, server / "ca.crt").health()
    assert reply.clock_ahead_s == 0.0


def test_a_port_that_is_taken_is_refused_with_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for host in ("127.0.0.1", "localhost", "0.0.0.0"):
            with pytest.raises(RunError, match=rf"listen on {host}, port {port} \(Add.*\): move$"):
                refuse_taken_port(host, port, "move")
    refuse_taken_port("127.0.0.1", port, "move")
    refuse_taken_port("localhost", port, "move")
    with pytest.raises(RunError, match=r"cannot listen on 203\.0\.113\.7, port .*: move$"):
        refuse_taken_port("203.0.113.7", port, "move")  # an address of no machine
    with pytest.raises(RunError, match=r"listen on no-such-host\.invalid, port"):
        refuse_taken_port("no-such-host.invalid", port, "move")
