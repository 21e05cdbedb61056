"""How a process of the bus is asked to stop, and how it ends when it does not manage to."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import timedelta
from queue import Empty, SimpleQueue

LOOK_AGAIN = 0.5
"""Seconds after which a main thread that waits looks whether a signal reached another thread meanwhile."""


class Stop:
    """A wish to stop, that threads can wait for and a signal handler may express.

    Not a threading.Event: its lock is not reentrant, so `set` in a handler that interrupts `wait` can wait for ever.
    """

    def __init__(self) -> None:
        self.is_asked = False
        self._wakes: SimpleQueue[None] = SimpleQueue()

    def ask(self) -> None:
        self.is_asked = True
        self._wakes.put(None)

    def wait(self, limit: timedelta | None = None) -> bool:
        """Whether the stop was asked for, at the latest after `limit`."""
        if limit is not None:
            return self._waited(limit.total_seconds())
        # Not in one go: a signal may reach another thread (after SIGCONT it does), and a handler runs in the main
        # thread, which goes on waiting then.
        while not self._waited(LOOK_AGAIN):
            pass
        return True

    def _waited(self, seconds: float) -> bool:
        try:
            self._wakes.get(timeout=seconds)
            self._wakes.put(None)  # for the next one who waits
        except Empty:
            pass
        return self.is_asked


def on_stop_signals(ask: Callable[[], None], *, end_within: timedelta) -> None:
    """Call `ask` on SIGTERM and SIGINT; main thread only.

    The kernel ends the process with SIGALRM when it is still there `end_within` later, whatever its threads hang in.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def handle(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, end_within.total_seconds())
        ask()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
