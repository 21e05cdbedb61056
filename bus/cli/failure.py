"""One delivery that did not go well, drawn: why, what was sent and answered, what waits, whom to call, what to type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from bus.cli.bodies import readable
from bus.cli.output import WIDE, Column, Output, number, styled
from bus.cli.texts import counted, duration, one_line, outcome, plain
from bus.model.causes import remedy
from bus.model.delivery import State
from bus.model.message import BUS

if TYPE_CHECKING:
    from bus.model.catalogue import Catalogue
    from bus.store.failures import DeliveryDetail

EXCHANGE = 3_000
"""Letters shown of what was sent and of what came back."""


def supporters(detail: DeliveryDetail, catalogue: Catalogue | None) -> dict[str, str]:
    """Who looks after route, contract and target, each with a role; empty where nobody is named."""
    if catalogue is None:
        return {}
    found = {}
    route = catalogue.routes.get(detail.line.route)
    if route is not None:
        found["route"] = " · ".join(filter(None, (route.support, f"owner {route.owner}" if route.owner else "")))
    contract = catalogue.contracts.get(detail.message.type)
    if contract is not None:
        found["contract"] = f"{contract.support} · owner {contract.owner}"
    endpoint = catalogue.endpoints.get(detail.line.destination)
    system = catalogue.systems.get(endpoint.system) if endpoint else None
    if system is not None:
        found["target"] = f"{system.support} · owner {system.owner} ({system.name})"
    return {role: text for role, text in found.items() if text}


def next_commands(detail: DeliveryDetail) -> list[str]:
    """What to type next, the likeliest first."""
    line = detail.line
    state = State(line.state)
    if state is State.DEAD:
        again = [f"bus dead replay {line.number} --reason …"]
        if line.stage == "send" and not line.part:
            again.append(f"bus dead replay {line.number} --retransform --reason …")
        return [*again, f"bus dead discard {line.number} --reason …"]
    if state is State.IN_DOUBT:
        return [
            f"bus doubt happened {line.number} --document N --reason …",
            f"bus doubt absent {line.number} --reason …",
        ]
    if state is State.RETRYING:
        return [f"bus dead discard {line.number} --reason …"]
    if line.lane and state in (State.WAITING, State.READY):
        return [f"bus lane show {line.lane}"]
    return [f"bus message trace {line.message}"]


def failure_parts(detail: DeliveryDetail, catalogue: Catalogue | None, out: Output) -> Iterator[RenderableType]:
    """Everything it takes to decide, the decision last."""
    line = detail.line
    yield Text.assemble(
        f"Delivery {line.number} is ", styled(line.state), f" for {duration(detail.store_now - line.changed_at)}"
    )
    if line.cause:
        yield Panel(
            Group(
                Text(plain(line.cause), style="bold"),
                *([Text(plain(line.detail).strip())] if line.detail.strip() else []),
                Text(remedy(line.cause), style="italic"),
            ),
            title="Why",
            title_align="left",
            border_style="red" if line.state == State.DEAD else "magenta" if line.state == State.IN_DOUBT else "dim",
        )
    message = detail.message
    yield out.fields(
        (
            ("message", f"{line.message}  {message.type}  {message.subject}"),
            ("from", f"{message.system} at {message.site}, id {message.id}"),
            ("route", line.route),
            ("to", "the bus itself, to be made canonical" if line.destination == BUS else line.destination),
            ("stage", line.stage),
            ("attempts", line.attempts),
            ("worker deaths", line.deaths or None),
            ("key", line.key),
            ("document", line.document),
            ("tried again", _due(detail)),
            *((f"{role} support", text) for role, text in supporters(detail, catalogue).items()),
        )
    )
    yield from _exchange(detail)
    yield from _history(detail, out)
    yield from _lane(detail, out)
    yield Text("Next:", style="bold")
    for command in next_commands(detail):
        yield Text(f"  {command}")


def _due(detail: DeliveryDetail) -> str:
    state = State(detail.line.state)
    if state is State.IN_DOUBT and detail.retry_after is None:
        return "never by itself: the target cannot be asked, a person decides"
    if detail.retry_after is None:
        return ""
    what = "the target is asked" if state is State.IN_DOUBT else "due"
    return f"{what} in {duration(detail.retry_after)}" if detail.retry_after.total_seconds() > 0 else f"{what} now"


def _exchange(detail: DeliveryDetail) -> Iterator[RenderableType]:
    exchanged = [attempt for attempt in detail.attempts if attempt.sent or attempt.received]
    if exchanged:
        last = exchanged[-1]
        for title, body in (("Sent", last.sent), ("Answered", last.received)):
            if body:
                yield Panel(
                    Text(readable(body, "", limit=EXCHANGE)), title=title, title_align="left", border_style="dim"
                )
    elif detail.output is not None:
        type_name, content_type, body = detail.output
        yield Panel(
            Text(readable(body, content_type, limit=EXCHANGE)),
            title=Text(f"To be sent: {type_name}"),
            title_align="left",
            border_style="dim",
        )


def _history(detail: DeliveryDetail, out: Output) -> Iterator[RenderableType]:
    if detail.attempts:
        yield out.table(
            detail.attempts[-10:],
            Column("Attempt", lambda a: a.began_at),
            Column("Took", lambda a: duration(a.ended_at - a.began_at), right=True),
            Column("Outcome", lambda a: f"{outcome(a.outcome)}{' (late)' if a.late else ''}"),
            Column("Why", lambda a: one_line(f"{a.cause} {a.detail}")[:160]),
            Column("Worker", lambda a: a.worker, room=WIDE),
        )
    deeds = [row for row in detail.journal if row.actor.startswith("person:")]
    if deeds:
        yield out.table(
            deeds[-10:],
            Column("Deed", lambda j: j.at),
            Column("Who", lambda j: j.actor),
            Column("Did", lambda j: j.act),
            Column("Why", lambda j: j.reason),
        )


def _lane(detail: DeliveryDetail, out: Output) -> Iterator[RenderableType]:
    line = detail.line
    if not line.lane:
        yield Text("It is in no lane: nothing waits for it.", style="dim")
        return
    if detail.before is not None:
        head = detail.before
        yield Text.assemble(f"Before it in lane {plain(line.lane)}: delivery {head.number}, ", styled(head.state))
    if not line.stands:
        yield Text(f"It holds nothing in lane {plain(line.lane)}.", style="dim")
    elif detail.behind.count:
        count = counted(detail.behind.count, "delivery", exact=detail.behind.count_is_exact)
        yield out.table(
            detail.behind.first,
            Column("Delivery", lambda d: number(d.number), right=True),
            Column("Message", lambda d: number(d.message), right=True),
            Column("Route", lambda d: d.route),
            Column("State", lambda d: styled(d.state)),
            title=f"{count} behind it in lane {plain(line.lane)}, the first of them:",
        )
    else:
        yield Text(f"Nothing waits behind it in lane {plain(line.lane)}.", style="dim")
