"""A target on a real socket that keeps its own book, and misbehaves on command; what it says is what happened."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

CERTIFICATE = Path(__file__).parents[1] / "conformance" / "certificates" / "loopback.pem"
PATIENCE = 60.0  # seconds a test waits for what must come
SLOWNESS = 0.4  # seconds


class Act(Enum):
    """What the target does with a request for a step, instead of booking and answering."""

    BOOK_THEN_CUT = auto()
    CUT = auto()
    BOOK_THEN_HOLD = auto()
    """Books, says nothing until released, then answers."""
    HOLD = auto()
    """Reads, books nothing, says nothing until released, then ends the connection."""
    HOLD_THEN_BOOK = auto()
    """Says nothing until released, then books and answers."""
    SLOW = auto()
    """Takes its time, then books and answers."""


@dataclass(frozen=True)
class Entry:
    """One line of the book; `key` is the idempotency key it came with, `number` the document's."""

    order: str
    step: int
    key: str
    number: str


@dataclass(frozen=True)
class Posted:
    """A request that was read to its end, whatever became of it."""

    order: str
    step: int
    key: str


@dataclass
class BookingTarget:
    """`remembers_keys`: a repeat under a known key is answered with its number and not booked. Thread-safe.

    GET /health answers 200; GET /book?key=K answers {"number": …}, empty where K is not in the book.
    """

    remembers_keys: bool
    tls: bool = False
    book: list[Entry] = field(default_factory=list)
    posted: list[Posted] = field(default_factory=list)
    connects: int = 0
    hangs: bool = False
    aborts: bool = False
    _plans: dict[tuple[str, int], list[Act | int]] = field(default_factory=dict)
    _ended: Counter[str] = field(default_factory=Counter)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _released: threading.Event = field(default_factory=threading.Event)
    _server: _Server | None = None
    _port: int = 0

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen; always on the same port."""
        self._server = _Server(("127.0.0.1", self._port), self)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections and end those there are; the book stays."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.cut_connections()

    def play_dead(self) -> None:
        """From now on every connection is taken, counted from 0, and closed at once, before a byte was read."""
        self.connects, self.aborts = 0, True
        if self._server is not None:
            self._server.cut_connections()

    def come_alive(self) -> None:
        self.aborts = False

    def hold(self) -> None:
        """From now on every post is held as by HOLD_THEN_BOOK."""
        self.hangs = True

    def release(self) -> None:
        """Let everything that is held go on; what is to be held later waits for the next release."""
        self.hangs = False
        with self._changed:
            self._released.set()
            self._released = threading.Event()

    def behave(self) -> None:
        """Listen, hold nothing, book and answer everything, whatever was planned."""
        self.release()
        self.come_alive()
        self._plans.clear()
        if self._server is None:
            self.start()

    def will(self, order: str, step: int, *acts: Act | int) -> None:
        """What happens to the next posts of a step, one after another: an act, or a status to refuse it with."""
        with self._changed:
            self._plans[order, step] = list(acts)

    def steps(self, order: str) -> list[int]:
        """What the book says of an order, in the order of booking."""
        with self._changed:
            return [entry.step for entry in self.book if entry.order == order]

    def posts(self, order: str, step: int) -> list[Posted]:
        with self._changed:
            return [each for each in self.posted if (each.order, each.step) == (order, step)]

    def wait_until(self, what: Callable[[], bool], *, within: float = PATIENCE) -> bool:
        """Whether it comes true, looked at after each change here."""
        with self._changed:
            return self._changed.wait_for(what, within)

    def wait_for_post(self, order: str, step: int, *, count: int = 1) -> None:
        """Return when so many posts of the step were read."""
        assert self.wait_until(lambda: len(self.posts(order, step)) >= count), (order, step, self.posted[-20:])

    def wait_for_steps(self, order: str, steps: Sequence[int], *, within: float = PATIENCE) -> None:
        """Return when the book says exactly this of the order; as soon as it says anything else, fail."""
        wanted = list(steps)
        self.wait_until(
            lambda: self.steps(order) == wanted or self.steps(order) != wanted[: len(self.steps(order))], within=within
        )
        assert self.steps(order) == wanted

    def wait_for_entries(self, count: int) -> None:
        """Return when the book has so many."""
        assert self.wait_until(lambda: len(self.book) >= count), (count, len(self.book))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        self.stop()

    # --- what the server calls ---------------------------------------------------------------------------------------

    def connected(self) -> None:
        with self._changed:
            self.connects += 1
            self._changed.notify_all()

    def take(self, document: Mapping[str, Any], key: str) -> tuple[int, str] | None:
        """The status and document number to answer a post with; None: end the connection."""
        try:
            return self._take(Posted(document["order"], document["step"], key))
        finally:
            with self._changed:
                self._ended[key] += 1

    def _take(self, posted: Posted) -> tuple[int, str] | None:
        with self._changed:
            self.posted.append(posted)
            plan = self._plans.get((posted.order, posted.step))
            act = plan.pop(0) if plan else None
            if self.hangs and act is None:
                act = Act.HOLD_THEN_BOOK
            if act is None or act in (Act.BOOK_THEN_CUT, Act.BOOK_THEN_HOLD):
                number = self._write(posted)
            released = self._released
            self._changed.notify_all()
        if act is None:
            return 201, number
        if isinstance(act, int):
            return act, ""
        if act in (Act.HOLD, Act.BOOK_THEN_HOLD, Act.HOLD_THEN_BOOK):
            released.wait()
        if act is Act.SLOW:
            threading.Event().wait(SLOWNESS)
        if act is Act.BOOK_THEN_HOLD:
            return 201, number
        if act not in (Act.HOLD_THEN_BOOK, Act.SLOW):
            return None
        with self._changed:
            number = self._write(posted)
            self._changed.notify_all()
        return 201, number

    def ended(self, key: str) -> int:
        """How many posts under the key were read and booked, or never will be."""
        with self._changed:
            return self._ended[key]

    def number_of(self, key: str) -> str:
        with self._changed:
            return next((entry.number for entry in self.book if entry.key == key), "")

    def _write(self, posted: Posted) -> str:
        if self.remembers_keys and (known := self.number_of(posted.key)):
            return known
        number = f"D{len(self.book) + 1}"
        self.book.append(Entry(posted.order, posted.step, posted.key, number))
        return number


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], target: BookingTarget) -> None:
        self.target = target
        self._tls: ssl.SSLContext | None = None
        self._open: set[socket.socket] = set()
        if target.tls:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(CERTIFICATE)
        super().__init__(address, _Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        self.target.connected()
        self._open.add(request)
        return not self.target.aborts

    def finish_request(self, request: Any, client_address: Any) -> None:
        with _quiet():
            if self._tls is None:
                _Handler(request, client_address, self)
                return
            with self._tls.wrap_socket(request, server_side=True) as spoken:
                self._open.add(spoken)  # the plain one is detached
                _Handler(spoken, client_address, self)
                self._open.discard(spoken)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def cut_connections(self) -> None:
        for connection in list(self._open):
            with _quiet():
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        if asked.path == "/book":
            (key,) = parse_qs(asked.query)["key"]
            self._answer(200, {"number": self.server.target.number_of(key)})
        else:
            self._answer(200, {})

    def do_POST(self) -> None:
        size = int(self.headers["content-length"])
        body = self.rfile.read(size)
        if len(body) < size:  # its sender was killed
            self.close_connection = True
            return
        taken = self.server.target.take(json.loads(body), self.headers["idempotency-key"])
        if taken is None:
            self.close_connection = True  # no answer: the socket is closed
        else:
            status, number = taken
            self._answer(status, {"number": number} if number else {"error": f"refused with {status}"})

    def _answer(self, status: int, document: Mapping[str, Any]) -> None:
        body = json.dumps(document).encode()
        with _quiet():
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The other end may be gone: it is killed in these tests."""
    with contextlib.suppress(OSError):
        yield
