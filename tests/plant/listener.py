"""An HTTP/1.1 listener that can be cut, taken down and brought back on the same port."""

import json
import logging
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

log = logging.getLogger(__name__)

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Request:
    """What a caller asked; header names are lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class Cut(Exception):
    """The caller shall see its connection end instead of an answer."""

    def __init__(self, how: Literal["reset", "close"] = "reset") -> None:
        super().__init__(how)
        self.how = how


def json_answer(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, json.dumps(content, ensure_ascii=False).encode(), headers=headers or {})


class Listener:
    """Serves one function on one loopback port; port 0 takes a free one and keeps it."""

    def __init__(self, port: int, answer: Callable[[Request], Answer]) -> None:
        self._answer = answer
        self._socket = _bound_socket(port)
        self._server: _Server | None = None
        self._change = threading.Lock()
        self.port: int = self._socket.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def is_open(self) -> bool:
        return self._server is not None

    def open(self) -> None:
        with self._change:
            if self._server is None:
                self._server = _Server(self._socket, self._answer)
                threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def go_down(self) -> None:
        """End every connection and refuse new ones; the port stays ours because a bound socket holds it."""
        with self._change:
            if self._server is not None:
                self._server.end()
                self._server = None
                self._socket = _bound_socket(self.port)

    def close(self) -> None:
        with self._change:
            if self._server is not None:
                self._server.end()
                self._server = None
            else:
                self._socket.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65536
    server: "_Server"

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            return
        try:
            answer = self.server.answer(self._request(body))
        except Cut as cut:
            self._cut(cut.how)
            return
        self._send(answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815 - names that http.server looks up

    def _request(self, body: bytes) -> Request:
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Request(self.command, unquote(parts.path), query, headers, body)

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        if answer.body:
            self.send_header("Content-Type", answer.content_type)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def _cut(self, how: str) -> None:
        self.close_connection = True
        if how == "reset":
            # Linger 0 turns the close into a TCP reset; closing the descriptor itself leaves no time for a FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name http.server gives it
        """The book records requests; nothing is printed."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listening: socket.socket, answer: Callable[[Request], Answer]) -> None:
        super().__init__(listening.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.socket.listen(128)
        self.answer = answer
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def end(self) -> None:
        self.shutdown()
        self.server_close()
        for connection in tuple(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError):
            log.error("a request broke the simulation", exc_info=error)


def _bound_socket(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((HOST, port))
    return bound
