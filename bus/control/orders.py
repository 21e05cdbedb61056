"""Orders about deliveries: replay, discard, and what happened to one in doubt. Nothing is done in the wrong state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from bus.errors import NotAllowed, NotFound, StoreConflict
from bus.model.catalogue import Catalogue
from bus.model.delivery import FINAL, TRANSITIONS, Event, State
from bus.pipeline.replay import replay
from bus.ports import Actor, MessageStore

T = TypeVar("T")

CONFLICTS = 20
"""Times an order is tried again when the store rolled it back for a concurrent writer."""


@dataclass(frozen=True, slots=True)
class Done:
    """What became of an order, by delivery number, and the queues that have work now."""

    done: list[int] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)
    """Finished ones that were sent once more, as new deliveries."""
    refused: dict[int, str] = field(default_factory=dict)
    queues: set[str] = field(default_factory=set)

    def add(self, other: Done) -> None:
        self.done.extend(other.done)
        self.repeated.extend(other.repeated)
        self.refused.update(other.refused)
        self.queues.update(other.queues)


def states_of(numbers: Sequence[int], store: MessageStore) -> dict[int, State]:
    """The state of each delivery.

    Raises:
        NotFound: some numbers name none.
    """
    states = {claimed.id: claimed.state for claimed in store.deliveries(numbers)}
    missing = [str(number) for number in dict.fromkeys(numbers) if number not in states]
    if missing:
        raise NotFound(f"no delivery has the number {', '.join(missing)}; nothing was done. See: bus dead list")
    return states


def replay_deliveries(
    numbers: Sequence[int],
    *,
    store: MessageStore,
    catalogue: Catalogue,
    actor: Actor,
    retransform: bool = False,
    repeat: bool = False,
) -> Done:
    """Send dead deliveries on their way again, oldest first; finished ones only where `repeat` says so.

    Raises:
        NotFound: a number names no delivery; nothing was done.
    """
    states = states_of(numbers, store)
    done = Done()
    for number in sorted(states):
        state = states[number]
        if state in FINAL and not repeat:
            done.refused[number] = f"it is {state}; add --repeat to have it sent once more, as a new delivery"
            continue
        one = _again_after_conflict(
            lambda number=number: replay(  # type: ignore[misc]  # bound now, called now
                [number], store=store, catalogue=catalogue, actor=actor, retransform=retransform
            )
        )
        done.add(Done(one.continued, one.repeated, one.refused, one.queues))
    return done


def discard_deliveries(numbers: Sequence[int], *, store: MessageStore, actor: Actor) -> Done:
    """Give deliveries up for good that are dead or to be sent still: they leave their lanes, what waits behind moves.

    Raises:
        NotFound: a number names no delivery; nothing was done.
    """
    states = states_of(numbers, store)
    done = Done(refused=_unfit(states, Event.DISCARD))
    for state in sorted(set(states.values())):
        fit = [number for number in sorted(states) if states[number] is state and number not in done.refused]
        if fit:
            done.queues.update(_move(fit, Event.DISCARD, expected=state, store=store, actor=actor))
    _sort_out(done, states, State.DISCARDED, store)
    return done


def say_it_happened(number: int, *, document: str, store: MessageStore, actor: Actor) -> Done:
    """A person found a doubtful delivery booked at its target, under this document number (empty: it has none)."""
    return _decide(number, Event.FOUND, document=document, store=store, actor=actor)


def say_it_is_absent(number: int, *, store: MessageStore, actor: Actor) -> Done:
    """A person found that a doubtful delivery was not booked: it is sent again, in its place."""
    return _decide(number, Event.ABSENT, document="", store=store, actor=actor)


def _decide(number: int, event: Event, *, document: str, store: MessageStore, actor: Actor) -> Done:
    states = states_of([number], store)
    unfit = _unfit(states, event)
    if unfit:
        raise NotAllowed(f"delivery {number}: {unfit[number]}")
    queues = _again_after_conflict(lambda: store.settle_doubt(number, event, actor=actor, document=document))
    now = states_of([number], store)[number]
    if now is State.IN_DOUBT or (event is Event.FOUND and now is not State.DELIVERED):
        raise NotAllowed(f"delivery {number} is {now} by now: somebody else, or a probe, decided meanwhile")
    return Done(done=[number], queues=queues)


def _unfit(states: dict[int, State], event: Event) -> dict[int, str]:
    fitting = sorted(str(state) for state, possible in TRANSITIONS if possible is event)
    return {
        number: f"it is {state}; this is for {' or '.join(fitting)}. {what_fits(state, number)}"
        for number, state in states.items()
        if str(state) not in fitting
    }


def what_fits(state: State, number: int) -> str:
    """What a person can do about a delivery in this state, as a sentence with the command."""
    match state:
        case State.DEAD:
            return f"Type: bus dead replay {number} --reason … (or discard)"
        case State.IN_DOUBT:
            return f"Decide first whether it happened: bus doubt show {number}"
        case State.RETRYING:
            return f"It is tried again by itself; to give it up: bus dead discard {number} --reason …"
        case State.DELIVERED | State.DISCARDED:
            return f"To have it sent once more, as a new delivery: bus dead replay {number} --repeat --reason …"
        case State.READY | State.WAITING:
            return f"It goes when its turn comes and it is served; to give it up: bus dead discard {number} --reason …"
        case _:
            return "A worker is at it: nothing needs to be done"


def _move(numbers: Sequence[int], event: Event, *, expected: State, store: MessageStore, actor: Actor) -> set[str]:
    return _again_after_conflict(lambda: store.move(numbers, event, expected=expected, actor=actor))


def _sort_out(done: Done, before: dict[int, State], wanted: State, store: MessageStore) -> None:
    """Look again: what changed between looking and acting was left alone."""
    tried = [number for number in sorted(before) if number not in done.refused]
    for number, state in states_of(tried, store).items() if tried else ():
        if state is wanted:
            done.done.append(number)
        else:
            done.refused[number] = f"it is {state} by now. {what_fits(state, number)}"


def _again_after_conflict(step: Callable[[], T]) -> T:
    for _ in range(CONFLICTS):
        try:
            return step()
        except StoreConflict:
            continue
    return step()
