"""What is kept of an HTTP exchange: the request as sent and the answer as read, secrets masked."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import httpx

from bus.connectors.masking import MASK

SECRET_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "x-csrf-token", "x-api-key"}
)


def query_pairs(url: httpx.URL) -> tuple[str, ...]:
    """The pairs `name=value` of a URL's query, as written there."""
    return tuple(pair for pair in url.query.decode().split("&") if pair.partition("=")[2])


def request_record(request: httpx.Request, *, secret_pairs: Collection[str]) -> bytes:
    """Request line, headers and body; masked are the values of SECRET_HEADERS and of these pairs of the query."""
    path, mark, query = request.url.raw_path.decode().partition("?")
    pairs = [f"{pair.partition('=')[0]}={MASK}" if pair in secret_pairs else pair for pair in query.split("&") if query]
    line = f"{request.method} {path}{mark}{'&'.join(pairs)} HTTP/1.1".encode()
    return b"\r\n".join([line, *_masked(request.headers.raw), b"", request.content])


def answer_record(status: int, reason: str, headers: httpx.Headers, body: bytes) -> bytes:
    """Status line, headers and body as far as they were read; the values of SECRET_HEADERS are masked."""
    line = f"HTTP/1.1 {status} {reason}".encode()
    return b"\r\n".join([line, *_masked(headers.raw), b"", body])


def _masked(headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    return [b"%s: %s" % (name, MASK.encode() if is_secret_header(name) else value) for name, value in headers]


def is_secret_header(name: bytes) -> bool:
    return name.decode("latin-1").lower() in SECRET_HEADERS
