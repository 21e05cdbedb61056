"""`bus dead`: deliveries that failed for good; see why, send them on, or give them up."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import rich_click as click
from rich.text import Text

from bus.cli.desk import Desk, desk
from bus.cli.failure import failure_parts, next_commands, supporters
from bus.cli.frame import DELIVERY, FOUND_BAD, OK, BusGroup, more_note, paged, reason
from bus.cli.output import WIDE, WIDEST, Column, number
from bus.cli.texts import counted, one_line
from bus.model.delivery import State

if TYPE_CHECKING:
    from bus.control.orders import Done
    from bus.store.failures import FailureQuery

PAGE = 100
"""Deliveries acted on between two looks at the progress."""


@click.group(cls=BusGroup)
def dead() -> None:
    """Deliveries that failed for good: see why, replay or discard them."""


def _filters(function: Callable[..., object]) -> Callable[..., object]:
    for name, text in (
        ("cause", "Died of this cause: target.422."),
        ("route", "On this route."),
        ("endpoint", "To this endpoint."),
    ):
        function = click.option(f"--{name}", default="", help=text)(function)
    return function


@dead.command("list")
@_filters
@click.option("--singly", is_flag=True, help="Only the deliveries, not their causes.")
@paged
def list_(cause: str, route: str, endpoint: str, singly: bool, limit: int, everything: bool) -> None:
    """Dead deliveries: how many of which cause, then the newest one by one."""
    from bus.store.failures import FailureQuery, dead_groups, list_failures

    work = desk()
    query = FailureQuery(cause=cause, route=route, endpoint=endpoint)
    page = list_failures(work.database, State.DEAD, query, limit=PAGE if everything else limit)
    lines = list(page.items)
    while everything and page.goes_on_at is not None:
        page = list_failures(work.database, State.DEAD, query, limit=PAGE, before=page.goes_on_at)
        lines += page.items
    if work.out.format == "table" and lines and not singly:
        from bus.model.causes import remedy

        groups = dead_groups(work.database, query)
        work.out.items(
            groups,
            Column("Dead", lambda g: g.count, right=True),
            Column("Cause", lambda g: g.cause),
            Column("Route", lambda g: g.route),
            Column("Oldest", lambda g: g.oldest, room=WIDE),
            Column("What to do", lambda g: remedy(g.cause)),
            empty="",
            title="By cause",
        )
    work.out.items(
        lines,
        Column("Delivery", lambda f: number(f.delivery.number), right=True),
        Column("Since", lambda f: f.delivery.changed_at),
        Column("Cause", lambda f: f.delivery.cause),
        Column("To", lambda f: f.delivery.destination),
        Column("Subject", lambda f: f.subject),
        Column("Type", lambda f: f.type, room=WIDEST),
        Column("Says", lambda f: one_line(f.delivery.detail)[:120]),
        empty="Nothing is dead.",
        title="Newest first",
    )
    if not everything:
        more_note(page.more, exact=page.more_is_exact)
    if lines:
        work.out.say(f"Next: bus dead show {lines[0].delivery.number}")


@dead.command()
@click.argument("delivery", type=DELIVERY, metavar="ID")
def show(delivery: int) -> None:
    """Why a delivery died, what was sent and answered, what waits behind it, whom to call, what to type next."""
    show_delivery(delivery, State.DEAD)


def show_delivery(delivery: int, expected: State) -> None:
    """Show a delivery; one in another state is shown too, and it is said."""
    from bus.model.causes import remedy
    from bus.store.failures import delivery_detail

    work = desk()
    detail = delivery_detail(work.database, delivery)
    if detail.line.state != expected:
        work.out.say(f"Delivery {delivery} is {detail.line.state}, not {expected}.")
    value = {
        "delivery": detail.line,
        "remedy": remedy(detail.line.cause) if detail.line.cause else "",
        "message": detail.message,
        "output": detail.output,
        "attempts": detail.attempts,
        "journal": detail.journal,
        "before": detail.before,
        "behind": detail.behind,
        "support": supporters(detail, work.catalogue),
        "next": next_commands(detail),
    }
    work.out.one(value, lambda: failure_parts(detail, work.catalogue, work.out))


# --- acts ------------------------------------------------------------------------------------------------------------


def _acts(function: Callable[..., object]) -> Callable[..., object]:
    function = click.option(
        "-n", "--number", "limit", type=click.IntRange(1), help="With filters: at most so many, the oldest first."
    )(function)
    function = click.option("--yes", is_flag=True, help="Do not ask before acting on what the filters found.")(function)
    function = reason(_filters(function))
    return click.argument("numbers", nargs=-1, type=DELIVERY, metavar="[ID]...")(function)


@dead.command()
@_acts
@click.option("--retransform", is_flag=True, help="Transform it anew instead of sending the bytes it has.")
@click.option("--repeat", is_flag=True, help="Also send finished ones once more, as new deliveries.")
def replay(
    numbers: tuple[int, ...],
    cause: str,
    route: str,
    endpoint: str,
    reason: str,
    yes: bool,
    limit: int | None,
    retransform: bool,
    repeat: bool,
) -> int:
    """Send dead deliveries on their way again, under their key and in their place: by ID, or by filters."""
    from bus.control.actor import person
    from bus.control.orders import replay_deliveries
    from bus.store.failures import FailureQuery

    work = desk()
    actor, catalogue, store = person(reason), work.project.require_sound().catalogue, work.store

    def act(page: Sequence[int]) -> Done:
        return replay_deliveries(
            page, store=store, catalogue=catalogue, actor=actor, retransform=retransform, repeat=repeat
        )

    query = FailureQuery(cause=cause, route=route, endpoint=endpoint)
    return _act_on(work, numbers, query, act, verb="replay", done="replayed", yes=yes, limit=limit)


@dead.command()
@_acts
def discard(
    numbers: tuple[int, ...],
    cause: str,
    route: str,
    endpoint: str,
    reason: str,
    yes: bool,
    limit: int | None,
) -> int:
    """Give dead deliveries (by ID also what is still to be sent) up for good; what waits behind them goes on."""
    from bus.control.actor import person
    from bus.control.orders import discard_deliveries
    from bus.store.failures import FailureQuery

    work = desk()
    actor, store = person(reason), work.store

    def act(page: Sequence[int]) -> Done:
        return discard_deliveries(page, store=store, actor=actor)

    query = FailureQuery(cause=cause, route=route, endpoint=endpoint)
    return _act_on(work, numbers, query, act, verb="discard", done="discarded", yes=yes, limit=limit)


def _act_on(
    work: Desk,
    numbers: Sequence[int],
    query: FailureQuery,
    act: Callable[[Sequence[int]], Done],
    *,
    verb: str,
    done: str,
    yes: bool,
    limit: int | None,
) -> int:
    from bus.control.orders import Done, states_of

    filtered = bool(query.cause or query.route or query.endpoint)
    if bool(numbers) == filtered:
        raise click.UsageError(f"name what to {verb}: delivery numbers, or --cause, --route, --endpoint; not both")
    if limit is not None and not filtered:
        raise click.UsageError("-n goes with --cause, --route or --endpoint")
    if filtered:
        count = _count(work, query, limit)
        if not count:
            work.out.say("Nothing dead fits these filters; nothing was done.")
            return OK
        _ask(verb, count, yes)
        pages = _pages_of(work, query, limit)
    else:
        count = len(dict.fromkeys(numbers))
        states_of(numbers, work.store)
        pages = iter([list(dict.fromkeys(numbers))])
    total = Done()
    for page in pages:
        total.add(act(page))
        if count > PAGE:
            work.out.say(f"{len(total.done) + len(total.repeated):,} of {count:,} {done} …")
        work.wake(set(total.queues))
        total.queues.clear()
    return report(work, total, done)


def _count(work: Desk, query: FailureQuery, limit: int | None) -> int:
    from bus.store.failures import count_failures

    count = count_failures(work.database, State.DEAD, query)
    return count if limit is None else min(count, limit)


def _ask(verb: str, count: int, yes: bool) -> None:
    if yes:
        return
    many = counted(count, "dead delivery")
    if not sys.stdin.isatty():
        raise click.UsageError(f"this would {verb} {many}; nobody is here to ask: add --yes")
    click.confirm(f"{verb.capitalize()} {many}?", abort=True, err=True)


def _pages_of(work: Desk, query: FailureQuery, limit: int | None) -> Iterator[list[int]]:
    """Pages of numbers, oldest first; each delivery once, even if it dies again meanwhile."""
    from bus.store.failures import numbers_of_failures

    above, left = 0, limit
    while left is None or left > 0:
        page = numbers_of_failures(
            work.database, State.DEAD, query, limit=PAGE if left is None else min(PAGE, left), above=above
        )
        if not page:
            return
        yield page
        above = page[-1]
        left = None if left is None else left - len(page)


def report(work: Desk, total: Done, done: str) -> int:
    """Print what became of each delivery; 1 where some were refused."""
    rows = [
        *({"delivery": one, "result": done} for one in total.done),
        *({"delivery": one, "result": "sent once more, as a new delivery"} for one in total.repeated),
        *({"delivery": one, "result": "left alone", "why": why} for one, why in total.refused.items()),
    ]
    many = work.out.format == "table" and len(rows) > PAGE
    work.out.items(
        [row for row in rows if "why" in row] if many else rows,
        Column("Delivery", lambda r: number(r["delivery"]), right=True),
        Column("Result", lambda r: Text(str(r["result"]), style="yellow" if "why" in r else "green")),
        Column("Why", lambda r: r.get("why", "")),
        empty="",
    )
    if many:
        work.out.print(Text(f"{len(total.done) + len(total.repeated):,} {done}, {len(total.refused):,} left alone"))
    return FOUND_BAD if total.refused else OK
