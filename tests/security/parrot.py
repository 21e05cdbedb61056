"""A target that repeats whatever it is told, in its answer's body, headers and reason: what a bad one would say."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """`/422`, say: answers 422 and repeats request line, headers and body."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        said = {"line": self.requestline, "headers": dict(self.headers), "body": body.decode("utf-8", "replace")}
        answer = json.dumps(said).encode()
        spoken = " ".join(f"{name}={value}" for name, value in self.headers.items())
        self.send_response(int(self.path.lstrip("/")[:3]), spoken[:500])
        self.send_header("content-length", str(len(answer)))
        self.send_header("location", f"http://{self.headers['host']}{self.path}")
        self.send_header("x-heard", spoken[:1000])
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST  # noqa: N815  # the library's name

    def log_message(self, *_: object) -> None:
        """Says nothing: what it heard are secrets."""


class Parrot:
    """The server, on a free port of the loopback."""

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="parrot")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
