"""Reads AMQP frames so that no message can end its reader: what cannot be decoded is said, not raised.

py-amqp decodes property strings as UTF-8, timestamps as datetimes and nested tables by recursion while it reads the
socket; RabbitMQ checks none of that. One message with such properties would close every consumer that gets it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from struct import pack
from typing import Any

from amqp import spec
from amqp.method_framing import frame_handler

UNREADABLE = f"plantbus-unreadable {secrets.token_hex(8)}: "
"""Starts the cluster_id (a property AMQP 0-9-1 deprecates) of a message whose properties were replaced.

Drawn anew by every process: no publisher can write it and so choose the cause of a receipt.
"""

_CONTENT_HEADER = 2
_PROPERTIES_AT = 12  # class, weight and body size stand before them
_CLUSTER_ID_FLAG = 0x0004

Frame = tuple[int, int, bytes]


def tolerant_frame_handler(connection: Any, callback: Callable[..., None]) -> Callable[[Frame], bool]:
    """py-amqp's frame handler, with the properties or routing key of an undecodable message replaced."""

    def dispatch(channel: int, method: tuple[int, int], arguments: bytes, content: Any) -> None:
        if method == spec.Basic.Deliver:
            arguments = _readable_delivery(arguments)
        callback(channel, method, arguments, content)

    handle: Callable[[Frame], bool] = frame_handler(connection, dispatch)

    def on_frame(frame: Frame) -> bool:
        kind, channel, payload = frame
        if kind != _CONTENT_HEADER:
            return handle(frame)
        try:
            return handle(frame)
        except Exception as error:  # noqa: BLE001  # whatever decoding raised; the handler still waits for this header
            return handle((kind, channel, payload[:_PROPERTIES_AT] + _marked(error)))

    return on_frame


def _marked(error: Exception) -> bytes:
    mark = f"{UNREADABLE}{type(error).__name__}: {error}".encode("ascii", "backslashreplace")[:255]
    return pack(">HB", _CLUSTER_ID_FLAG, len(mark)) + mark


def _readable_delivery(payload: bytes) -> bytes:
    """Basic.Deliver with exchange and routing key as text; consumer tag, delivery tag and a flag stand before them."""
    at = begin = 4 + 1 + payload[4] + 8 + 1
    names = []
    while at < len(payload):
        length = payload[at]
        names.append(payload[at + 1 : at + 1 + length])
        at += 1 + length
    try:
        for name in names:
            name.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        shown = [name.decode("ascii", "backslashreplace").encode()[:255] for name in names]
        return payload[:begin] + b"".join(bytes([len(name)]) + name for name in shown)
    return payload
