"""One delivery that did not go well, drawn: why, what was sent and answered, what waits, whom to call, what to type."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from bus.cli.bodies import readable, readable_exchange
from bus.cli.output import WIDE, Column, Output, number, styled
from bus.cli.texts import clock, counted, duration, one_line, outcome, plain
from bus.model.causes import remedy
from bus.model.delivery import State
from bus.model.message import BUS

if TYPE_CHECKING:
    from bus.model.catalogue import Catalogue
    from bus.store.failures import DeliveryDetail
    from bus.store.views import AttemptLine

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
    if state is State.RETRYING:  # giving up comes last: it is tried again without anybody
        watch = f"bus lane show {line.lane}" if line.lane else f"bus message trace {line.message}"
        return [watch, f"bus dead discard {line.number} --reason …"]
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
            (_due_name(detail), _due(detail)),
            *((f"{role} support", text) for role, text in supporters(detail, catalogue).items()),
        )
    )
    yield from _exchange(detail)
    yield from _history(detail, out)
    yield from _lane(detail, out)
    yield Text("Next:", style="bold")
    for command in next_commands(detail):
        yield Text(f"  {command}")


def _due_name(detail: DeliveryDetail) -> str:
    return "target is asked" if State(detail.line.state) is State.IN_DOUBT else "tried again"


def _due(detail: DeliveryDetail) -> str:
    if detail.retry_after is None:
        in_doubt = State(detail.line.state) is State.IN_DOUBT
        return "never: it cannot be asked, a person decides" if in_doubt else ""
    return f"in {duration(detail.retry_after)}" if detail.retry_after.total_seconds() > 0 else "now"


def _exchange(detail: DeliveryDetail) -> Iterator[RenderableType]:
    """What was sent and answered: first the newest attempt to deliver, which is what a doubt is about; then a probe."""
    exchanged = [attempt for attempt in detail.attempts if attempt.sent or attempt.received]
    tries = [attempt for attempt in exchanged if not attempt.is_probe]
    if tries:
        yield from _wire(tries[-1], "Sent", "Answered")
    elif detail.output is not None:
        type_name, content_type, body = detail.output
        yield _framed(f"To be sent: {type_name}", readable(body, content_type, limit=EXCHANGE))
    if exchanged and exchanged[-1].is_probe:
        yield from _wire(exchanged[-1], "Asked whether it has it", "Answered to that")


def _wire(attempt: AttemptLine, sent: str, answered: str) -> Iterator[RenderableType]:
    if attempt.sent:
        yield _framed(f"{sent}, {clock(attempt.began_at)}", readable_exchange(attempt.sent, limit=EXCHANGE))
    if attempt.received:
        yield _framed(f"{answered}, {clock(attempt.ended_at)}", readable_exchange(attempt.received, limit=EXCHANGE))
    elif attempt.sent:
        yield Text("No answer came to it.", style="dim")


def _framed(title: str, text: str) -> Panel:
    return Panel(Text(text), title=Text(title), title_align="left", border_style="dim")


@dataclass(frozen=True, slots=True)
class _Alike:
    """Attempts in a row that ended alike: the last of them, and how many they are."""

    last: AttemptLine
    count: int = 1


def _alike(attempts: Sequence[AttemptLine]) -> list[_Alike]:
    found: list[_Alike] = []
    for attempt in attempts:
        if found and _ending(found[-1].last) == _ending(attempt):
            found[-1] = replace(found[-1], last=attempt, count=found[-1].count + 1)
        else:
            found.append(_Alike(attempt))
    return found


def _ending(attempt: AttemptLine) -> tuple[object, ...]:
    return attempt.outcome, attempt.late, attempt.cause, attempt.detail, attempt.stage


def _outcome(alike: _Alike) -> str:
    late = " (late)" if alike.last.late else ""
    times = f", {alike.count} times" if alike.count > 1 else ""
    return f"{outcome(alike.last.outcome)}{late}{times}"


def _history(detail: DeliveryDetail, out: Output) -> Iterator[RenderableType]:
    if detail.attempts:
        yield out.table(
            _alike(detail.attempts)[-10:],
            Column("Attempt", lambda a: a.last.began_at),
            Column("Took", lambda a: duration(a.last.ended_at - a.last.began_at), right=True),
            Column("Outcome", _outcome),
            Column("Why", lambda a: one_line(f"{a.last.cause} {a.last.detail}")[:400]),
            Column("Worker", lambda a: a.last.worker, room=WIDE),
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
