"""The network below the HTTP connector: keeps one deadline, refuses link-local targets, notes what was written."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpcore
import httpx

from bus.connectors.addresses import permitted_addresses
from bus.connectors.deadline import Deadline


@dataclass(slots=True)
class Progress:
    """How far one request got: what tells a thing that surely did not happen from one that may have."""

    deadline: Deadline
    connect_timeout: float
    connected_anew: bool = False
    in_tls: bool = False
    obstacle: BaseException | None = None
    """What the socket said when no connection came about, or it broke; httpcore's pool drops the causes."""
    written: int = 0
    """Bytes of the request the operating system took."""
    is_cut: bool = False
    """The target ended the connection, or it broke."""


class NoAddress(httpcore.ConnectError):
    """There is no address that may be called; the cause is AddressRefused, or what the resolver said."""


_current: ContextVar[Progress] = ContextVar("progress of the request this thread is sending")


@contextmanager
def following(progress: Progress) -> Iterator[None]:
    """Everything httpcore does on this thread inside the block counts for this progress."""
    token = _current.set(progress)
    try:
        yield
    finally:
        _current.reset(token)


class GuardedTransport(httpx.BaseTransport):
    """httpx over an httpcore pool with our network below; httpcore's exceptions pass unchanged.

    httpx.HTTPTransport does not let its network be chosen.
    """

    def __init__(self, *, connections: int, keep_alive: timedelta, tls: ssl.SSLContext) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=tls,
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=keep_alive.total_seconds(),
            network_backend=_GuardedBackend(),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                content=request.stream,
                # Half of the time at most: a request must not begin so late that it can only end in doubt.
                extensions={"timeout": {"pool": _current.get().deadline.remaining / 2}},
            )
        )
        assert isinstance(answer.stream, Iterable)
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Body(answer.stream), extensions=answer.extensions
        )

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        if hasattr(self._stream, "close"):
            self._stream.close()


class _GuardedBackend(httpcore.NetworkBackend):
    def __init__(self) -> None:
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        progress = _current.get()
        progress.connected_anew = True
        failure: httpcore.ConnectError | httpcore.ConnectTimeout = httpcore.ConnectTimeout("no time left to connect")
        for address in self._addresses(host, port, progress):
            seconds = min(progress.connect_timeout, progress.deadline.remaining)
            if seconds <= 0:
                break
            try:
                return _GuardedStream(self._sockets.connect_tcp(address, port, seconds, local_address, socket_options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                progress.obstacle = error.__cause__
                failure = error
        raise failure

    def _addresses(self, host: str, port: int, progress: Progress) -> list[str]:
        try:
            return permitted_addresses(host, port)
        except (OSError, UnicodeError) as error:
            progress.obstacle = error
            raise NoAddress(str(error)) from error


class _GuardedStream(httpcore.NetworkStream):
    """A connection that asks the current progress, not httpcore's per-call time-outs, how long it may take."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream
        self._socket: socket.socket = stream.get_extra_info("socket")

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        progress = _current.get()
        seconds = progress.deadline.remaining
        if seconds <= 0:
            raise httpcore.ReadTimeout("the time-out of the exchange is over")
        try:
            received = self._stream.read(max_bytes, seconds)
        except httpcore.ReadError as error:
            progress.is_cut, progress.obstacle = True, error.__cause__
            raise
        progress.is_cut = not received
        return received

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        progress = _current.get()
        rest = memoryview(buffer)
        while rest:
            seconds = progress.deadline.remaining
            if seconds <= 0:
                raise httpcore.WriteTimeout("the time-out of the exchange is over")
            try:
                self._socket.settimeout(seconds)
                taken = self._socket.send(rest)
            except TimeoutError as error:
                raise httpcore.WriteTimeout(str(error)) from error
            except OSError as error:
                progress.is_cut, progress.obstacle = True, error
                raise httpcore.WriteError(str(error)) from error
            progress.written += taken
            rest = rest[taken:]

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        progress = _current.get()
        progress.in_tls = True
        seconds = min(progress.connect_timeout, progress.deadline.remaining)
        if seconds <= 0:
            raise httpcore.ConnectTimeout("no time left for TLS")
        try:
            return _GuardedStream(self._stream.start_tls(ssl_context, server_hostname, seconds))
        except httpcore.ConnectError as error:
            progress.obstacle = error.__cause__
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
