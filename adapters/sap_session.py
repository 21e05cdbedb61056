"""A session at an SAP gateway: an x-csrf-token with its cookies, shared by the threads that post."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from bus import TransientFailure
from bus.connectors.deadline import Deadline


@dataclass(frozen=True)
class Session:
    """A token and the cookies it belongs to; one is worth nothing without the other."""

    token: str = field(repr=False)
    cookies: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"x-csrf-token": self.token} | ({"cookie": self.cookies} if self.cookies else {})


class Sessions:
    """The session in use. When it ends, the first thread that notices fetches the next one for all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current: Session | None = None

    def get(self, fetch: Callable[[], Session], deadline: Deadline, *, instead_of: Session | None) -> Session:
        """The session in use, fetched if there is none or if it is still the one refused (`instead_of`).

        Raises:
            TransientFailure: another thread kept fetching until half of the time was over; nothing was sent.
        """
        if not self._lock.acquire(timeout=deadline.remaining / 2):
            raise TransientFailure("endpoint.no-answer", "another thread waits for the session token")
        try:
            if self._current is None or self._current is instead_of:
                self._current = fetch()
            return self._current
        finally:
            self._lock.release()
