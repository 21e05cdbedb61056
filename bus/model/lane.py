"""Lanes: one destination, one ordering key. Which deliveries of a lane may run now is decided here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bus.model.delivery import RUNNING, Stage, State, is_laned_now
from bus.model.message import BUS

RUN = 128
"""How many deliveries of one lane are made READY ahead."""


class LaneKey(NamedTuple):
    """A lane's name: the destination (an endpoint, or BUS) and the ordering key."""

    destination: str
    key: str

    @property
    def lock_order(self) -> tuple[bool, bytes, bytes]:
        """Everybody locks lanes in this order: bus lanes first, then destination and key in byte order."""
        return self.destination != BUS, self.destination.encode(), self.key.encode()


@dataclass(frozen=True, slots=True)
class Standing:
    """A delivery that stands in a lane."""

    id: int
    stage: Stage
    state: State


@dataclass(frozen=True, slots=True)
class Moves:
    """What changes so that exactly the lane's head run is READY."""

    ready: tuple[int, ...]
    waiting: tuple[int, ...]


def head_run(destination: str, standing: Sequence[Standing]) -> Moves:
    """The moves for a lane, given its first standing deliveries in order of place.

    The head run reaches from the head over everything that is ready, claimed or being sent, up to the first one
    that is retrying, dead, in doubt, or still to be transformed. Inside it WAITING becomes READY, behind it READY
    becomes WAITING.
    """
    ready: list[int] = []
    waiting: list[int] = []
    running = True
    for delivery in standing[:RUN]:
        laned = is_laned_now(destination, delivery.stage)
        if running and laned and delivery.state is State.WAITING:
            ready.append(delivery.id)
        elif running and not (laned and delivery.state in RUNNING):
            running = False
        elif not running and laned and delivery.state is State.READY:
            waiting.append(delivery.id)
    return Moves(tuple(ready), tuple(waiting))


def tail_room(destination: str, last: Standing | None, standing: int) -> int:
    """How many more deliveries at the tail of a lane are READY at once.

    `last`: what stands last in it, of `standing` deliveries (RUN or more is the same). Where the last one runs, all do.
    """
    if last is None:
        return RUN
    runs = is_laned_now(destination, last.stage) and last.state in RUNNING
    return max(RUN - standing, 0) if runs else 0


def claimable(candidates: Iterable[int], standing: Sequence[int]) -> list[int]:
    """Of one lane's READY candidates those with nothing before them but each other.

    `standing`: ids of what stands in the lane in order of place, at least up to the last candidate.
    """
    wanted = set(candidates)
    taken: list[int] = []
    for delivery in standing:
        if delivery not in wanted:
            break
        taken.append(delivery)
    return taken
