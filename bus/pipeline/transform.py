"""transform: claim → transform → settle; makes the exact bytes that are sent, or the messages that enter again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from bus.crash_points import crash_point
from bus.errors import DeliveryFailure, MessageInvalid, NotAvailable, PermanentFailure
from bus.model.catalogue import Catalogue
from bus.model.delivery import Event, Outcome, Stage, fail, release, succeed
from bus.model.message import BUS, Message, Opened, Outgoing, child_key
from bus.model.route import Route
from bus.model.transformer import TransformContext, Transformer
from bus.pipeline.plan import REENTRY, send_queue
from bus.pipeline.settle import Child, Ended
from bus.pipeline.worker import Shift, in_lane_order, portions
from bus.ports import AttemptRecord, Claimed, Output, Settled


def transform(queue: str, *, shift: Shift) -> bool:
    """Transform one batch of the queue; whether there is more. Safe to call at any time, from several threads."""
    if not shift.store.has_ready(queue):
        return False  # another took what the hint was for; a look is cheaper than a claim
    with shift.claim(queue) as batch:
        if not batch.claimed:
            return False
        crash_point("transform.after_claim", holding=len(batch.claimed))
        more = False
        ended = in_lane_order(batch.claimed, lambda claimed: _transform_one(claimed, shift), _given_back, shift=shift)
        for portion in portions(ended):
            crash_point("transform.before_settle", holding=len(portion))
            more = shift.settle(portion, queue=queue, leaves=batch.leaves)
            del portion  # let go before the next is made
        return more


def _given_back(claimed: Claimed) -> Ended:
    return Ended(Settled(claimed=claimed, outcome=release()))


def _transform_one(claimed: Claimed, shift: Shift) -> Ended:
    began = shift.clock()
    try:
        opened = open_kept(shift.with_body(claimed).kept.message, shift.catalogue)
        if claimed.route == REENTRY:
            selections = [s for s in shift.catalogue.routes.select(opened) if s.route.to != BUS]
            child = Child(opened.message, opened)
            return Ended(Settled(claimed=claimed, outcome=succeed()), [child], plans_itself=selections)
        route = shift.route_of(claimed)
        return _made(claimed, opened, route, shift.catalogue)
    except DeliveryFailure as error:
        failure = error
    except NotAvailable:  # stopped while the store was away: no fault of the delivery
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001  # the delivery records it, and the batch goes on
        failure = PermanentFailure("transformer.raised", f"{type(error).__name__}: {error}")
    outcome = fail(
        failure,
        attempts=claimed.attempts + 1,
        trips=claimed.trips,
        # No endpoint is involved: a transform that says "down" is to blame itself, or it would come back for ever.
        others_pass=True,
        policy=shift.policy_of(claimed),
        remembers_keys=True,
        jitter=shift.jitter(),
    )
    return Ended(Settled(claimed=claimed, outcome=outcome, attempt=_attempt(claimed, outcome, began, shift)))


def _made(claimed: Claimed, opened: Opened, route: Route, catalogue: Catalogue) -> Ended:
    outputs = run_transform(opened, route, key=claimed.key, catalogue=catalogue, check_predicate=bool(claimed.cause))
    if route.to != BUS and len(outputs) == 1:
        (made,) = outputs
        output = Output(
            type=made.type,
            content_type=made.content_type,
            body=made.body,
            digest=catalogue.digests(route, sender=opened.message.system),
        )
        outcome = Outcome(event=Event.TRANSFORMED, spends_attempt=False)
        return Ended(Settled(claimed=claimed, outcome=outcome, queue=send_queue(route.to), output=output))
    children = [
        make_child(opened, made, index, key=claimed.key, route=route, catalogue=catalogue)
        for index, made in enumerate(outputs)
    ]
    settled = Settled(claimed=claimed, outcome=succeed(), queue=send_queue(route.to), produced=len(children))
    return Ended(settled, children)


def open_kept(message: Message, catalogue: Catalogue) -> Opened:
    """Read a kept message again by its contract.

    Raises:
        PermanentFailure: its contract changed or went away since it was accepted, or its reader raised.
    """
    try:
        return Opened(message, catalogue.contracts.of(message.type).read(message.body))
    except MessageInvalid as error:
        raise PermanentFailure("contract.changed", str(error)) from error
    except (Exception, SystemExit) as error:  # the delivery records it
        raise PermanentFailure("reader.raised", f"{message.type}: {type(error).__name__}: {error}") from error


def run_transform(
    opened: Opened, route: Route, *, key: str, catalogue: Catalogue, check_predicate: bool = False
) -> Sequence[Outgoing]:
    """The checked outputs of a route's transformer for a message; what it takes if there is none.

    Raises:
        PermanentFailure: predicate.not-met, key.missing, transformer.raised, transformer.output-invalid,
            value-map.missing, value-map.absent.
    """
    if check_predicate:
        _require_predicate(opened, route)
    if route.transform is None:
        return [Outgoing(type=opened.message.type, body=opened.message.body, content_type=opened.message.content_type)]
    context = TransformContext(maps=catalogue.maps_for(route, sender=opened.message.system), key=key)
    try:
        made = route.transform(opened, context)
        outputs = [made] if isinstance(made, Outgoing) else list(made)
    except DeliveryFailure:
        raise
    except (Exception, SystemExit) as error:  # the delivery records it
        raise PermanentFailure(
            "transformer.raised", f"{route.transform.name}: {type(error).__name__}: {error}"
        ) from error
    for index, output in enumerate(outputs):
        if wrong := _wrong_form(output, route.transform):
            raise PermanentFailure("transformer.output-invalid", f"{route.transform.name}, output {index}: {wrong}")
        _read_output(output, index, route, catalogue)
    return outputs


def _wrong_form(output: object, transform: Transformer) -> str:
    """What keeps it from being an output at all; empty: nothing."""
    if not isinstance(output, Outgoing) or not isinstance(output.body, bytes):
        return f"an Outgoing with bytes is expected, not {output!r:.200}"
    if output.type not in transform.makes:
        return f"the type {output.type!r} is not declared"
    if output.time is not None and output.time.tzinfo is None:
        return f"the time {output.time} has no zone"
    return ""


def _require_predicate(opened: Opened, route: Route) -> None:
    """Something failed here before: perhaps the predicate, and it may say something else now."""
    try:
        holds = route.predicate.holds(opened)
    except (Exception, SystemExit) as error:  # the delivery records it
        raise PermanentFailure("predicate.raised", f"{type(error).__name__}: {error}") from error
    if not holds:
        raise PermanentFailure("predicate.not-met", f"route {route.name} does not take this message now: discard it")
    if lacking := route.lacks_key(opened):
        raise PermanentFailure("key.missing", lacking)


def _read_output(output: Outgoing, index: int, route: Route, catalogue: Catalogue) -> Opened:
    try:
        document = catalogue.contracts.of(output.type).read(output.body)
    except MessageInvalid as error:
        name = route.transform.name if route.transform else route.name
        raise PermanentFailure(
            "transformer.output-invalid", f"{name}, output {index}, {output.type}: {error}"
        ) from error
    return Opened(Message(id="", type=output.type, system="", site="", subject="", content_type="", body=b""), document)


def make_child(opened: Opened, made: Outgoing, index: int, *, key: str, route: Route, catalogue: Catalogue) -> Child:
    """The message that an output becomes; `key`: of the delivery whose transform made it.

    Raises:
        PermanentFailure: transformer.output-invalid.
    """
    parent = opened.message
    document = _read_output(made, index, route, catalogue).document
    contract = catalogue.contracts.of(made.type)
    try:
        subject = contract.subject_of(document) if contract.key is not None and route.to == BUS else parent.subject
    except MessageInvalid as error:
        raise PermanentFailure("transformer.output-invalid", f"output {index}, {made.type}: {error}") from error
    message = replace(
        parent,
        id=child_key(key, index),
        type=made.type,
        subject=subject,
        content_type=made.content_type,
        body=made.body,
        time=made.time or parent.time,
        business_date=made.business_date or parent.business_date,
        causation_id=parent.id,
        dataschema="",
    )
    child = Opened(message, document)
    return Child(message, child, catalogue.routes.select(child) if route.to == BUS else ())


def _attempt(claimed: Claimed, outcome: Outcome, began: timedelta, shift: Shift) -> AttemptRecord:
    return shift.attempt(claimed, Stage.TRANSFORM, outcome, began=began, ended=shift.clock())
