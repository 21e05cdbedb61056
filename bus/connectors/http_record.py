"""What an attempt keeps of an HTTP exchange: the request as sent and the answer as read, secrets masked."""

from __future__ import annotations

from collections.abc import Iterable

import httpx

SECRET_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "x-csrf-token", "x-api-key"}
)
MASK = b"***"
SHORTEST_MASKED = 6
"""Shorter secrets are masked in headers only: as a word of an answer's body they would hit too much else."""


def request_record(request: httpx.Request) -> bytes:
    """Request line, headers and body; the values of SECRET_HEADERS are masked."""
    line = b"%s %s HTTP/1.1" % (request.method.encode(), request.url.raw_path)
    return b"\r\n".join([line, *_masked(request.headers.raw), b"", request.content])


def answer_record(response: httpx.Response, body: bytes, *, secrets: Iterable[str]) -> bytes:
    """Status line, headers and body as far as they were read; a target that echoes our login is masked too."""
    line = f"HTTP/1.1 {response.status_code} {response.reason_phrase}".encode()
    record = b"\r\n".join([line, *_masked(response.headers.raw), b"", body])
    for secret in secrets:
        if len(secret) >= SHORTEST_MASKED:
            record = record.replace(secret.encode(), MASK)
    return record


def _masked(headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    return [
        b"%s: %s" % (name, MASK if name.decode("latin-1").lower() in SECRET_HEADERS else value)
        for name, value in headers
    ]
