"""replay: continue what is dead, in its place and under its key; repeat what is finished, as a new delivery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from bus.crash_points import crash_point
from bus.errors import DeliveryFailure, NotAllowed, NotFound
from bus.model.catalogue import Catalogue
from bus.model.delivery import FINAL, Event, Stage, State
from bus.model.message import BUS
from bus.pipeline.plan import REENTRY, new_delivery
from bus.pipeline.transform import open_kept
from bus.ports import Actor, Claimed, MessageStore


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did, by delivery number."""

    continued: list[int] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    queues: set[str] = field(default_factory=set)


def replay(
    numbers: Sequence[int], *, store: MessageStore, catalogue: Catalogue, actor: Actor, retransform: bool = False
) -> Replayed:
    """Send dead deliveries on their way again; a finished one is repeated deliberately, with a key of its own.

    A dead one keeps its key, its place and (unless `retransform`) the bytes its transform made. Actor and reason
    stand in the journal. One in doubt is refused: whether it happened is to be decided first.

    Raises:
        NotFound: a number names no delivery; nothing was done.
    """
    found = {c.id: c for c in store.deliveries(numbers)}
    missing = [number for number in numbers if number not in found]
    if missing:
        raise NotFound(f"no delivery has the number {', '.join(map(str, missing))}; see: bus dead list")
    done = Replayed()
    for number in dict.fromkeys(numbers):
        claimed = found[number]
        crash_point("replay.before_change", holding=1)
        try:
            if claimed.state is State.DEAD:
                done.queues.update(_continue(claimed, store, catalogue, actor, retransform))
                done.continued.append(number)
            elif claimed.state in FINAL:
                done.queues.update(_repeat(claimed, store, catalogue, actor))
                done.repeated.append(number)
            else:
                raise NotAllowed(_why_not(claimed.state))
        except (NotAllowed, DeliveryFailure) as error:
            done.refused[number] = str(error)
        crash_point("replay.after_commit", holding=1)
    return done


def _why_not(state: State) -> str:
    if state is State.IN_DOUBT:
        return "it is in doubt: decide first whether it happened (bus doubt happened | absent)"
    if state is State.DISCARDED:
        return "it is DISCARDED by now: somebody gave it up meanwhile"
    return f"it is {state}: only what is dead or finished can be replayed"


def _continue(claimed: Claimed, store: MessageStore, catalogue: Catalogue, actor: Actor, retransform: bool) -> set[str]:
    values: dict[str, object] = {"attempts": 0, "deaths": 0, "trips": 0, "tries": 0}
    if retransform and claimed.stage is Stage.SEND and claimed.part == 0:
        values |= {"stage": str(Stage.TRANSFORM), "queue": catalogue.transform_queue(claimed.kept.message.type)}
    queues = store.move([claimed.id], Event.REPLAY, expected=State.DEAD, actor=actor, **values)
    (now,) = store.deliveries([claimed.id])  # somebody may have given it up between looking and acting
    if now.state is State.DISCARDED:
        raise NotAllowed(_why_not(now.state))
    return queues


def _repeat(claimed: Claimed, store: MessageStore, catalogue: Catalogue, actor: Actor) -> set[str]:
    if claimed.route == REENTRY:
        raise NotAllowed("it only queued the message up; replay the deliveries of the message itself")
    route = catalogue.routes.get(claimed.route)
    if route is None:
        raise NotAllowed(f"its route {claimed.route!r} is no longer declared")
    if claimed.part:
        with store.transaction() as transaction:
            raise NotAllowed(_repeat_the_whole(claimed, transaction.made_by(claimed.kept.row)))
    if lacking := route.lacks_key(open_kept(store.message_of(claimed), catalogue)):
        raise NotAllowed(f"key.missing: {lacking}")
    with store.transaction() as transaction:
        tails = transaction.lock_lanes({claimed.lane: 1} if claimed.lane is not None else {})
        # Counted under the message's lock: of two people who repeat it at once, each gets a number and key of its own.
        number = transaction.next_replay(claimed.id)
        repeated = new_delivery(claimed.kept, route, catalogue=catalogue, lane=claimed.lane, replay=number)
        if repeated.lane is not None:
            repeated = replace(repeated, place=tails[repeated.lane] + 1)
        transaction.add_deliveries([repeated])
        transaction.note_planned({claimed.kept.row: (1, 1 if repeated.destination == BUS else 0)})
        transaction.write_journal(
            actor, "repeat", delivery=claimed.id, message=claimed.kept.row, old=claimed.state, new=repeated.state
        )
        queues = transaction.advance([repeated.lane] if repeated.lane else [])
        crash_point("replay.before_commit", holding=1)
    return queues | ({repeated.queue} if repeated.state is State.READY else set())


def _repeat_the_whole(claimed: Claimed, parent: int) -> str:
    """A part's bytes may bear the key they were made for: sent under another one, its target would know neither."""
    return (
        f"it is part {claimed.part} of what delivery {parent} was split into, and its bytes were made for their first "
        f"key. Repeat the whole, in bytes and under keys of its own: bus dead replay {parent} --repeat --reason …"
    )
