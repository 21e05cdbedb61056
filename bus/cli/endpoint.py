"""`bus endpoint`: the interfaces the bus delivers to; whether they are open, what they hold, what they took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.console import RenderableType
from rich.text import Text

from bus.cli.desk import Desk, desk
from bus.cli.frame import BusGroup
from bus.cli.output import WIDE, WIDEST, Column, styled
from bus.cli.texts import duration, plain
from bus.errors import NotFound
from bus.model.shown_url import shown_url
from bus.secret_references import is_reference

if TYPE_CHECKING:
    from bus.model.catalogue import Catalogue
    from bus.model.system import Endpoint
    from bus.store.overview import EndpointLine


@click.group(cls=BusGroup)
def endpoint() -> None:
    """Endpoints: the interfaces the bus delivers to. See which are down and what they hold."""


@dataclass(frozen=True)
class _Row:
    """An endpoint as bus.toml, the store and the totals know it together."""

    name: str
    system: str
    state: str
    cause: str
    detail: str
    since: datetime | None
    ready: int
    ready_is_exact: bool
    oldest: datetime | None
    next_check: datetime | None
    delivered: int
    dead: int
    in_doubt: int
    open: int


@endpoint.command("list")
def list_() -> None:
    """Every endpoint: open, paused or tripped, what it holds and what it took."""
    work = desk()
    work.out.items(
        _rows(work),
        Column("Endpoint", lambda row: row.name),
        Column("State", lambda row: styled(row.state)),
        Column("Cause", lambda row: row.cause),
        Column("Since", lambda row: row.since),
        Column("Held", _held, right=True),
        Column("Oldest", lambda row: row.oldest, room=WIDEST),
        Column("Delivered", lambda row: row.delivered, right=True),
        Column("Dead", lambda row: row.dead, right=True),
        Column("In doubt", lambda row: row.in_doubt, right=True, room=WIDE),
        Column("Open", lambda row: row.open, right=True),
        empty="bus.toml declares no endpoint.",
    )


def _held(row: _Row) -> str:
    return f"{row.ready:,}{'' if row.ready_is_exact else '+'}" if row.state != "open" else ""


@endpoint.command()
@click.argument("name", metavar="ENDPOINT")
def show(name: str) -> None:
    """One endpoint: why it is not open, since when, what waits, who supports it, which routes lead to it."""
    work = desk()
    rows = {row.name: row for row in _rows(work)}
    if name not in rows:
        raise NotFound(f"no endpoint is named {name}; there are: {', '.join(rows) or 'none'}")
    row, catalogue = rows[name], work.catalogue
    declared = catalogue.endpoints.get(name) if catalogue else None
    about = _about(declared, catalogue)
    value = {**vars(row), "declared": about, "routes": _routes_to(name, catalogue)}
    work.out.one(value, lambda: _parts(row, about, catalogue, work))


def _rows(work: Desk) -> list[_Row]:
    from bus.store.overview import counts_by_route, endpoint_lines

    declared = work.settings.endpoints
    taken = _taken(counts_by_route(work.database), work.catalogue)
    return [_row(line, declared.get(line.name), taken) for line in endpoint_lines(work.database, declared)]


def _row(line: EndpointLine, declared: Endpoint | None, taken: Mapping[str, Mapping[str, int]]) -> _Row:
    counts = taken.get(line.name, {})
    return _Row(
        name=line.name,
        system=declared.system if declared else "",
        state=line.state,
        cause=line.cause,
        detail=line.detail,
        since=line.since,
        ready=line.ready,
        ready_is_exact=line.ready_is_exact,
        oldest=line.oldest,
        next_check=line.check_at if line.state == "tripped" else None,
        delivered=counts.get("delivered", 0),
        dead=counts.get("dead", 0),
        in_doubt=counts.get("in-doubt", 0),
        open=counts.get("open", 0),
    )


def _taken(by_route: Mapping[str, Mapping[str, int]], catalogue: Catalogue | None) -> Mapping[str, Mapping[str, int]]:
    """Endpoint → measure → amount, over the routes that lead to it."""
    found: dict[str, Counter[str]] = {}
    for route in catalogue.routes if catalogue else ():
        found.setdefault(route.to, Counter()).update(by_route.get(route.name, {}))
    return found


def _shown(address: str) -> str:
    """Without what may be secret; a reference is none, and says what has to be there."""
    if is_reference(address):
        return address
    return ";".join(map(shown_url, address.split(";")))


def _about(declared: Endpoint | None, catalogue: Catalogue | None) -> dict[str, Any]:
    if declared is None or catalogue is None:
        return {}
    system = catalogue.systems.get(declared.system)
    return {
        "adapter": declared.adapter,
        "address": _shown(declared.address),
        "concurrency": declared.concurrency,
        "timeout": declared.timeout,
        "visible_after": declared.visible_after,
        "system": declared.system,
        "owner": system.owner if system else "",
        "support": system.support if system else "",
    }


def _routes_to(name: str, catalogue: Catalogue | None) -> list[str]:
    return [route.name for route in catalogue.routes if route.to == name] if catalogue else []


def _parts(row: _Row, about: Mapping[str, Any], catalogue: Catalogue | None, work: Desk) -> Iterator[RenderableType]:
    yield Text.assemble((plain(row.name), "bold"), "  ", styled(row.state), f"  {plain(row.cause)}")
    if row.cause:
        from bus.model.causes import remedy

        yield Text(remedy(row.cause), style="italic")
    held = f"{row.ready:,}{'' if row.ready_is_exact else ' or more'}"
    yield work.out.fields(
        (
            ("since", row.since),
            ("says", row.detail),
            ("checked again", row.next_check),
            ("held" if row.state != "open" else "ready", f"{held}, the oldest since" if row.ready else "nothing"),
            ("", row.oldest),
            ("delivered", row.delivered),
            ("dead", row.dead),
            ("in doubt", row.in_doubt),
            ("open", row.open),
            *((key, duration(value) if key in ("timeout", "visible_after") else value) for key, value in about.items()),
            ("routes", "\n".join(_routes_to(row.name, catalogue))),
        )
    )
    nexts = []
    if row.dead:
        nexts.append(f"bus dead list --endpoint {row.name}")
    if row.in_doubt:
        nexts.append(f"bus doubt list --endpoint {row.name}")
    if row.open:
        nexts.append(f"bus lane list --endpoint {row.name}")
    for command in nexts:
        yield Text(f"Next: {command}", style="dim")
