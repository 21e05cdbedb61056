"""A target on a real socket that behaves exactly as its script says, misbehaviour included."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol

CERTIFICATE = Path(__file__).parent / "certificates" / "loopback.pem"
"""Certificate and key for 127.0.0.1, signed by itself, for these tests only: nobody trusts it unless told so."""


@dataclass(frozen=True)
class Request:
    """What came in; header names are lower case. `connection` counts the server's connections from 1."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int


class Step(Protocol):
    """What happens to one request after it was read."""

    def play(self, connection: socket.socket, stopping: threading.Event) -> bool:
        """Answer, or not; False ends the connection."""


@dataclass(frozen=True)
class Answer:
    """A regular answer. `then_close`: end the connection afterwards, as a server does with an idle one."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    then_close: bool = False

    def play(self, connection: socket.socket, stopping: threading.Event) -> bool:
        connection.sendall(self.wire())
        return not self.then_close

    def wire(self) -> bytes:
        headers = {"Content-Length": str(len(self.body)), **self.headers}
        lines = [f"HTTP/1.1 {self.status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


@dataclass(frozen=True)
class Raw:
    """Any bytes, then the end of the connection: garbage, or an answer that stops in the middle."""

    content: bytes

    def play(self, connection: socket.socket, stopping: threading.Event) -> bool:
        connection.sendall(self.content)
        return False


@dataclass(frozen=True)
class Drip:
    """An answer that comes byte by byte and so keeps every single read within its time-out."""

    content: bytes
    seconds: float = 0.05

    def play(self, connection: socket.socket, stopping: threading.Event) -> bool:
        for position in range(len(self.content)):
            connection.sendall(self.content[position : position + 1])
            if stopping.wait(self.seconds):
                break
        return False


@dataclass(frozen=True)
class Silence:
    """No answer, ever; the connection stays open."""

    def play(self, connection: socket.socket, stopping: threading.Event) -> bool:
        stopping.wait()
        return False


@dataclass(frozen=True)
class Close:
    """No answer: a regular end of the connection."""

    def play(self, connection: socket.socket, stopping: threading.Event) -> bool:
        return False


@dataclass(frozen=True)
class Reset:
    """No answer: a TCP reset."""

    def play(self, connection: socket.socket, stopping: threading.Event) -> bool:
        reset_on_close(connection)
        return False


@dataclass(frozen=True)
class AnswerThenReset:
    """A regular answer; when the test says so, a TCP reset of the connection, idle by then."""

    answer: Answer
    now: threading.Event

    def play(self, connection: socket.socket, stopping: threading.Event) -> bool:
        connection.sendall(self.answer.wire())
        self.now.wait(10)
        reset_on_close(connection)
        return False


class ScriptedServer:
    """Plays, per method, one step per request; the last one again and again. Usable from many connections."""

    def __init__(self, *, tls: bool = False) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.reading_only: int | None = None
        """Bytes of the next request to read before the connection is reset; None: read it whole."""
        self._scripts: dict[str, list[Step]] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._open: set[socket.socket] = set()
        self._tls = _server_tls() if tls else None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._ended = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def play(self, method: str, *steps: Step) -> None:
        with self._lock:
            self._scripts[method] = list(steps)

    def received(self, method: str) -> list[Request]:
        with self._lock:
            return [each for each in self.requests if each.method == method]

    def wait_for_an_end(self) -> None:
        """Returns when one more connection was ended by the script."""
        assert self._ended.acquire(timeout=10)

    def close(self) -> None:
        self._stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.add(connection)
                number = self.connections
            threading.Thread(target=self._talk, args=(connection, number), daemon=True).start()

    def _talk(self, connection: socket.socket, number: int) -> None:
        with suppress(OSError, ValueError):
            spoken = self._tls.wrap_socket(connection, server_side=True) if self._tls else connection
            if self.reading_only is not None:
                spoken.recv(self.reading_only)
                reset_on_close(spoken)
                spoken.close()
                return
            with spoken, spoken.makefile("rb") as reader:
                while self._answer_next(spoken, reader, number):
                    pass
        with self._lock:
            self._open.discard(connection)
        connection.close()
        self._ended.release()

    def _answer_next(self, connection: socket.socket, reader: _Lines, number: int) -> bool:
        request = _read_request(reader, number)
        if request is None:
            return False
        with self._lock:
            self.requests.append(request)
            script = self._scripts[request.method]
            step = script.pop(0) if len(script) > 1 else script[0]
        return step.play(connection, self._stopping)


def reset_on_close(connection: socket.socket) -> None:
    """Linger 0 turns the close into a TCP reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextmanager
def refusing_address() -> Iterator[str]:
    """A URL whose port is taken by a socket that does not listen: connections are refused, by nobody else's port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def unanswering_address() -> Iterator[str]:
    """A URL whose listener's queue is full: the system drops further connection requests, as a firewall does."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with suppress(BlockingIOError):
                waiting.connect(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


class _Lines(Protocol):
    def readline(self) -> bytes: ...
    def read(self, size: int) -> bytes: ...


def _read_request(reader: _Lines, number: int) -> Request | None:
    first = reader.readline().decode("latin-1").split()
    if len(first) != 3:
        return None
    headers: dict[str, str] = {}
    while line := reader.readline().decode("utf-8").strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = reader.read(int(headers.get("content-length", "0")))
    return Request(first[0], first[1], headers, body, number)


def _server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context
