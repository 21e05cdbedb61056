"""Faults on command: which request meets which trouble, and how often."""

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any, Literal, get_args

from tests.plant.book import order_key
from tests.plant.listener import Answer, Cut

Effect = Literal["slow", "fail", "drop", "book-then-drop", "book-then-fail", "garble"]


@dataclass
class Fault:
    """One command. `order`, `entity` and `method` narrow it; `times` None means until cleared.

    slow: wait `seconds`, then go on. fail: answer `status`, book nothing. drop: cut the connection, book nothing.
    book-then-drop, book-then-fail: book, then cut or answer `status`. garble: book, then answer what cannot be read.
    """

    id: int
    effect: Effect
    times: int | None = 1
    order: str | None = None
    entity: str | None = None
    method: str = "POST"
    seconds: float = 0.0
    status: int = 500
    retry_after: int | None = None
    how: Literal["reset", "close"] = "reset"

    def concerns(self, *, method: str, entity: str, order: str) -> bool:
        return (
            self.times != 0
            and self.method == method
            and self.entity in (None, entity)
            and (self.order is None or order_key(self.order) == order_key(order))
        )

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    def spend(self) -> None:
        if self.times is not None:
            self.times -= 1


@dataclass(frozen=True)
class Met:
    """What one request runs into: a wait, and at most one fault."""

    seconds: float = 0.0
    fault: Fault | None = None

    def before_booking(self) -> Fault | None:
        """The fault to fail with; None to go on.

        Raises:
            Cut: the connection ends here and nothing is booked.
        """
        if self.fault is None:
            return None
        if self.fault.effect == "drop":
            raise Cut(self.fault.how)
        return self.fault if self.fault.effect == "fail" else None

    def after_booking(self, answer: Answer) -> Answer | Fault:
        """The answer to give, or the fault to fail with although it is booked.

        Raises:
            Cut: it is booked and the caller will not hear of it.
        """
        if self.fault is None:
            return answer
        if self.fault.effect == "book-then-drop":
            raise Cut(self.fault.how)
        if self.fault.effect == "book-then-fail":
            return self.fault
        if self.fault.effect == "garble":
            return Answer(answer.status, answer.body[: len(answer.body) // 2], answer.content_type, answer.headers)
        return answer


class Faults:
    """The commands in force, oldest first; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids = count(1)
        self._faults: list[Fault] = []

    def order(self, command: Mapping[str, Any]) -> Fault:
        """Take a command such as `{"effect": "fail", "status": 503, "times": 3}`.

        Raises:
            ValueError: the effect is unknown.
            TypeError: a field is unknown.
        """
        if command.get("effect") not in get_args(Effect):
            raise ValueError(f"effect is {command.get('effect')!r}; known are {', '.join(get_args(Effect))}")
        with self._lock:
            fault = Fault(id=next(self._ids), **command)
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def meet(self, *, method: str, entity: str, order: str) -> Met:
        """Spend what concerns this request: every wait, and the oldest other fault."""
        with self._lock:
            concerned = [each for each in self._faults if each.concerns(method=method, entity=entity, order=order)]
            waits = [each for each in concerned if each.effect == "slow"]
            fault = next((each for each in concerned if each.effect != "slow"), None)
            for each in [*waits, *([fault] if fault else [])]:
                each.spend()
        return Met(max((each.seconds for each in waits), default=0.0), fault)

    def listing(self) -> list[dict[str, Any]]:
        with self._lock:
            return [asdict(each) for each in self._faults]
