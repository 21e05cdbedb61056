"""A TCP proxy between a connector and a real service that can lose answers and cut connections."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from types import TracebackType

_ENDLESS_FRAME = struct.pack(">BHI", 1, 0, 2**31 - 1)
"""The head of a frame of methods on channel 0 and of 2 GB."""


class CuttingProxy:
    """Passes bytes both ways until told otherwise."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._cut_at_next_answer = False
        self._swallowing = False
        self._dripping = False
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def lose_the_next_answer(self) -> None:
        """The next bytes the service sends are dropped and the connection is cut."""
        self._cut_at_next_answer = True

    def swallow_answers(self) -> None:
        """Nothing the service sends arrives any more; connections stay open."""
        self._swallowing = True

    def drip_answers(self) -> None:
        """Instead of the next answer of each connection comes an AMQP frame that never ends, byte by byte."""
        self._dripping = True

    def cut(self) -> None:
        """End every connection now; returns when both sides were told."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _end(pair)

    def close(self) -> None:
        self._over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._thread.join(5)

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            service = socket.create_connection(self._target)
            pair = (client, service)
            with self._lock:
                self._pairs.append(pair)
            threading.Thread(target=self._pass_questions, args=pair, daemon=True).start()
            threading.Thread(target=self._pass_answers, args=pair, daemon=True).start()

    def _pass_questions(self, client: socket.socket, service: socket.socket) -> None:
        with suppress(OSError):
            while content := client.recv(65536):
                service.sendall(content)
        _end((client, service))
        client.close()

    def _pass_answers(self, client: socket.socket, service: socket.socket) -> None:
        with suppress(OSError):
            while content := service.recv(65536):
                if self._cut_at_next_answer:
                    break
                if self._dripping:
                    self._drip(client)
                if not self._swallowing:
                    client.sendall(content)
        _end((client, service))
        service.close()

    def _drip(self, client: socket.socket) -> None:
        client.sendall(_ENDLESS_FRAME)
        while not self._over.wait(0.05):
            client.sendall(b"\0")


def _end(pair: tuple[socket.socket, socket.socket]) -> None:
    for each in pair:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
