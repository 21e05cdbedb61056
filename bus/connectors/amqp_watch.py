"""Ends an AMQP connection at its deadline, whatever drips in: py-amqp waits for each piece of a frame anew."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from amqp.exceptions import AMQPError

from bus.connectors.deadline import Deadline

GRACE = 0.5
"""Seconds behind the deadline: time-outs of py-amqp's own end first where they can."""


@contextmanager
def ended_at(deadline: Deadline, connection: Any) -> Iterator[threading.Event]:
    """Whoever reads or writes on the connection inside the block finds it closed after the deadline.

    The event says whether that happened; the connection is of no use then.
    """
    over = threading.Event()

    def end() -> None:
        over.set()
        # Not the TLS socket's own shutdown: that would go on without TLS in the midst of a read.
        with suppress(AMQPError, OSError, AttributeError):  # there may be no transport or socket yet
            socket.socket.shutdown(connection.transport.sock, socket.SHUT_RDWR)

    watch = threading.Timer(deadline.remaining + GRACE, end)
    watch.daemon = True
    watch.start()
    try:
        yield over
    finally:
        watch.cancel()
        watch.join()
