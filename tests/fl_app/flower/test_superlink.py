"""The environment of the processes that a SuperLink belongs to, and ports for them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from fl_app.flower.superlink import flower_environment, free_ports


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("4", "4")])
def test_numpy_has_one_thread_unless_another_number_is_asked_for(
    given: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", given)
    environment = flower_environment(tmp_path)
    assert environment["OPENBLAS_NUM_THREADS"] == expected
    assert environment["FLWR_HOME"] == str(tmp_path)


def test_free_ports_differ_and_can_be_listened_on() -> None:
    ports = free_ports(3)
    assert len(set(ports)) == 3
    for port in ports:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
