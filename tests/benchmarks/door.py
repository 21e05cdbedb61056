"""A TCP line to the broker that can be shut: whoever comes then is turned away at once, and counted."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

AT_ONCE = 65_536
"""Bytes."""


class Door:
    """Passes bytes both ways while it is open."""

    def __init__(self, amqp_url: str) -> None:
        broker = urlsplit(amqp_url)
        self._broker = (broker.hostname, broker.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = amqp_url.replace(f"@{broker.hostname}:{broker.port}/", f"@127.0.0.1:{port}/")
        self.turned_away: list[float] = []
        """When somebody came while it was shut, on the clock `time.monotonic`."""
        self._is_open = True
        self._through: list[socket.socket] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def shut(self) -> None:
        """Cut who is through, and let nobody in; the count begins anew."""
        with self._lock:
            self._is_open = False
            self.turned_away = []
            through, self._through = self._through, []
        for each in through:
            _end(each)

    def open(self) -> None:
        with self._lock:
            self._is_open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _end(self._listener)
        self._listener.close()
        self.shut()
        self._thread.join()

    def _serve(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                self._receive(client)

    def _receive(self, client: socket.socket) -> None:
        with self._lock:
            if not self._is_open:
                self.turned_away.append(time.monotonic())
                client.close()
                return
            broker = socket.create_connection(self._broker)
            self._through += [client, broker]
        for source, target in ((client, broker), (broker, client)):
            threading.Thread(target=_pass, args=(source, target), daemon=True).start()


def _pass(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(AT_ONCE):
            target.sendall(content)
    _end(target)
    source.close()


def _end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
