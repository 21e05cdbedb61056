"""Crash points: named boundaries of the hops where a test lets a process end, or holds it. A means of testing only.

`PLANTBUS_CRASH_AT=receive.after_commit` ends a process the first time it gets there, as `kill -9` would: nothing is
flushed, closed or given back. `receive.after_commit:3` ends it at the third time. `receive.after_commit=PIPE` holds the
thread that gets there instead, until whoever opened that named pipe for writing closes it: time for a fault to happen.
Without the variable a point does nothing. Never set it where messages matter.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

from bus.errors import ConfigurationError

VARIABLE = "PLANTBUS_CRASH_AT"

EXIT_CODE = 86
"""Of a process that a crash point ended."""

Point = Literal[
    "receive.after_open",
    "receive.before_commit",
    "receive.after_commit",
    "receive.after_ack",
    "transform.after_claim",
    "transform.before_settle",
    "send.after_claim",
    "send.after_mark",
    "send.after_call",
    "send.after_trip",
    "send.before_settle",
    "send.after_probe",
    "settle.before_commit",
    "settle.after_commit",
    "settle.after_wake",
    "resume.after_due",
    "resume.after_lease",
    "resume.after_bury",
    "replay.before_change",
    "replay.before_commit",
    "replay.after_commit",
]
POINTS: tuple[Point, ...] = get_args(Point)


@dataclass(frozen=True)
class _Armed:
    point: str
    turn: int
    pipe: str
    turns: Iterator[int] = field(default_factory=lambda: itertools.count(1))


_armed: _Armed | None = None


def arm(text: str) -> None:
    """Have this process end, or wait, where the text says; empty: nowhere.

    Raises:
        ConfigurationError: there is no such point, or the text has another form than NAME, NAME:TURN or NAME=PIPE.
    """
    global _armed  # of the process: what is armed is where this process ends
    where, equals, pipe = text.partition("=")
    name, colon, turn = where.partition(":")
    if not text:
        _armed = None
        return
    if name not in POINTS:
        raise ConfigurationError(f"{VARIABLE}: {name!r} is no crash point; known: {', '.join(POINTS)}. Unset it.")
    if (colon and not (turn.isascii() and turn.isdigit() and int(turn))) or (equals and not pipe):
        raise ConfigurationError(f"{VARIABLE}: {text!r} is not NAME, NAME:TURN or NAME=PIPE, as in {name}:3. Unset it.")
    _armed = _Armed(name, int(turn or 1), pipe)


def crash_point(point: Point, *, holding: int) -> None:
    """A boundary: where this one is armed and it is its turn, the process ends, or this thread waits for its pipe.

    `holding`: how many messages or deliveries the process answers for here; told when the point is reached.
    """
    if _armed is None or _armed.point != point or next(_armed.turns) != _armed.turn:
        return
    _tell(f"crash point {point} reached", holding)
    if not _armed.pipe:
        os._exit(EXIT_CODE)
    with open(_armed.pipe, "rb") as pipe:
        pipe.read()
    _tell(f"crash point {point} left", holding)


def _tell(event: str, holding: int) -> None:
    from loguru import logger as log  # not before it is needed: commands that only read do without

    log.warning(event, holding=holding, pid=os.getpid())
