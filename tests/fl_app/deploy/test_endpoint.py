"""What one reply of a server tells about the clocks of both machines."""

from __future__ import annotations

from collections.abc import Callable
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_app.deploy.checks import MAX_AHEAD_S, check_clock
from fl_app.deploy.endpoint import Endpoint, clock_ahead
from fl_app.deploy.provision import Federation

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
