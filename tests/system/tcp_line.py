"""A TCP line to the broker that a test can cut, freeze and speak into."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class TcpLine:
    """Forwards connections to the broker of `amqp_url`; `url` is the same broker reached over this line."""

    def __init__(self, amqp_url: str) -> None:
        broker = urlsplit(amqp_url)
        self._broker = (broker.hostname, broker.port or 5672)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = amqp_url.replace(
            f"@{broker.hostname}:{broker.port}", f"@127.0.0.1:{self._listener.getsockname()[1]}"
        )
        self.accepted = 0
        self.broker_hung_up = threading.Event()
        self._flows = threading.Event()
        self._flows.set()
        self._is_heard = threading.Event()
        self._is_heard.set()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """End all connections; new ones are accepted."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def freeze(self) -> None:
        """Nothing goes through any more, and nobody is told."""
        self._flows.clear()

    def mute(self) -> None:
        """Nothing that the broker says goes through any more; it still hears everything."""
        self._is_heard.clear()

    def thaw(self) -> None:
        """Everything goes through again."""
        self._flows.set()
        self._is_heard.set()

    def say_to_client(self, frame: bytes) -> None:
        """Bytes the broker might have sent, to every client."""
        for client, _ in self._pairs:
            client.sendall(frame)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self.thaw()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                broker = socket.create_connection(self._broker)
                self.accepted += 1
                self._pairs.append((client, broker))
                self._pump_in_thread(client, broker, threading.Event(), self._flows)
                self._pump_in_thread(broker, client, self.broker_hung_up, self._flows, self._is_heard)

    def _pump_in_thread(
        self, source: socket.socket, target: socket.socket, ended: threading.Event, *gates: threading.Event
    ) -> None:
        pump = threading.Thread(target=_pump, args=(source, target, ended, gates), daemon=True)
        self._threads.append(pump)
        pump.start()


def _pump(
    source: socket.socket, target: socket.socket, ended: threading.Event, gates: Sequence[threading.Event]
) -> None:
    with contextlib.suppress(OSError):
        while content := source.recv(65536):
            for gate in gates:
                gate.wait()
            target.sendall(content)
    ended.set()
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    source.close()
