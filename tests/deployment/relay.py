"""A relay in front of a server, which a test can cut and mend as a network is."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Relay:
    """Forwards connections to a port of the loopback; cut, it refuses them and ends those it has.

    Parameters
    ----------
    port : int
        Where it listens.
    target : int
        The server's port.
    """

    def __init__(self, port: int, target: int) -> None:
        self.port, self._target = port, target
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self.mend()

    def mend(self) -> None:
        """Accept connections (again)."""
        listener = socket.create_server(("127.0.0.1", self.port))
        self._sockets = {listener}
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """End all connections, and refuse new ones."""
        with self._lock:
            for sock in self._sockets:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()
            self._sockets = set()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                inside, _ = listener.accept()
                try:
                    outside = socket.create_connection(("127.0.0.1", self._target))
                except OSError:  # the server is down
                    inside.close()
                    continue
                with self._lock:
                    self._sockets |= {inside, outside}
                for pair in ((inside, outside), (outside, inside)):
                    threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for sock in (source, target):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
            with self._lock:
                self._sockets.discard(sock)
