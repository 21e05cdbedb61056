"""`bus status`: the ledger's sums, what each route did and how fast, what is wrong, who is at work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.console import RenderableType
from rich.text import Text

from bus.cli.desk import Desk, desk
from bus.cli.frame import FOUND_BAD, LIMIT, OK, BusCommand
from bus.cli.output import WIDE, Column
from bus.cli.texts import counted, duration, plain, when

if TYPE_CHECKING:
    from bus.model.ledger import Equation
    from bus.store.overview import Latency, LeaseLine, Overview
    from bus.store.verify import Discrepancy


@click.command(cls=BusCommand)
@click.option("--verify", "prove", is_flag=True, help="Prove the sums from the rows, message by message.")
@click.option(
    "-n",
    "--number",
    "limit",
    type=click.IntRange(1),
    default=LIMIT,
    show_default=True,
    help="Discrepancies shown at most.",
)
def status(prove: bool, limit: int) -> int:
    """The ledger: nothing accepted is lost. Exit code 1 where a sum does not balance.

    --verify also counts the numbers that are missing in what systems said; see bus message gaps.
    """
    from bus.store.overview import endpoint_lines, overview

    work = desk()
    found = overview(work.database)
    endpoints = [line for line in endpoint_lines(work.database, work.settings.endpoints) if line.state != "open"]
    discrepancies, more = _proved(work, limit) if prove else ([], 0)
    gaps = _gaps(work) if prove else 0
    value = {
        "at": found.at,
        "equations": [_equation(equation) for equation in found.equations],
        "routes": found.routes,
        "latency": found.latency,
        "dead": found.dead,
        "re_entering_dead": found.re_entering_dead,
        "in_doubt": found.doubts,
        "endpoints_not_open": endpoints,
        "leases": [
            {"name": e.name, "beat_at": e.beat_at, "age": e.age, "alive": _alive(e, work)} for e in found.leases
        ],
    }
    if prove:
        value |= {"verified": not discrepancies, "discrepancies": discrepancies, "more": more, "gaps": gaps}
    work.out.one(value, lambda: _parts(found, endpoints, work))
    if prove and work.out.format == "table":
        _show_proof(discrepancies, more, work)
        if gaps:
            _show_gaps(gaps, work)
    sound = all(equation.balances for equation in found.equations) and not discrepancies
    return OK if sound else FOUND_BAD


def _equation(equation: Equation) -> dict[str, Any]:
    return {"name": equation.name, "whole": equation.whole, "parts": equation.parts, "balances": equation.balances}


def _sum(equation: Equation) -> Text:
    sign = ("balances", "green") if equation.balances else ("DOES NOT BALANCE", "bold red")
    return Text.assemble(str(equation).partition(": ")[2], "  ", sign)


def _alive(lease: LeaseLine, work: Desk) -> bool:
    return lease.age < work.settings.lease


def _parts(found: Overview, endpoints: list[Any], work: Desk) -> Iterator[RenderableType]:
    yield Text(f"Ledger at {when(found.at)}", style="bold")
    yield work.out.fields((equation.name, _sum(equation)) for equation in found.equations)
    yield Text("")
    if found.routes:
        yield work.out.table(
            found.routes,
            Column("Route", lambda r: r.route),
            Column("Planned", lambda r: r.planned, right=True, room=WIDE),
            Column("Delivered", lambda r: r.delivered, right=True),
            Column("Dead", lambda r: r.dead, right=True),
            Column("Doubt", lambda r: r.in_doubt, right=True),
            Column("Discarded", lambda r: r.discarded, right=True, room=WIDE),
            Column("Open", lambda r: r.open, right=True),
            Column("Measured", lambda r: r.latency.measured if r.latency else 0, right=True, room=WIDE),
            Column("p50", lambda r: _percentile(r.latency, "p50"), right=True, room=WIDE),
            Column("p99", lambda r: _percentile(r.latency, "p99"), right=True),
        )
    if found.latency is not None:
        yield Text(
            f"Accepted to delivered, the newest {counted(found.latency.measured, 'delivery')}: "
            f"p50 {duration(found.latency.p50)}, p99 {duration(found.latency.p99)}"
        )
        yield Text(
            "  With every wait: for earlier ones of the key, retries, an endpoint that was down. "
            "-: nothing lately, or the route leads back to the bus.",
            style="dim",
        )
    yield from _wrong(found, endpoints)
    alive = [lease for lease in found.leases if _alive(lease, work)]
    silent = [lease for lease in found.leases if not _alive(lease, work)]
    names = ", ".join(plain(lease.holder if lease.name == "relay" else lease.name) for lease in alive)
    yield Text(
        f"At work: {names}" if alive else "At work: nobody; start it with: bus run", style="" if alive else "yellow"
    )
    for lease in silent:
        yield Text(f"Silent for {duration(lease.age)}: {plain(lease.holder)}", style="yellow")


def _percentile(latency: Latency | None, name: str) -> str:
    return duration(getattr(latency, name)) if latency is not None else "-"


def _wrong(found: Overview, endpoints: list[Any]) -> Iterator[RenderableType]:
    for endpoint in endpoints:
        since = when(endpoint.since)
        yield Text(
            f"{endpoint.name} is {endpoint.state} since {since}: {plain(endpoint.cause)}; {endpoint.ready:,} held.  "
            f"Next: bus endpoint show {endpoint.name}",
            style="red",
        )
    dead = found.dead + found.re_entering_dead
    if dead:
        yield Text(f"{dead:,} dead.  Next: bus dead list", style="red")
    if found.re_entering_dead:
        yield Text(
            f"  {found.re_entering_dead:,} of them could not be made canonical: their messages count as entering"
        )
    if found.doubts:
        yield Text(f"{found.doubts:,} in doubt.  Next: bus doubt list", style="magenta")


# --- proof -----------------------------------------------------------------------------------------------------------


def _proved(work: Desk, limit: int) -> tuple[list[Discrepancy], int]:
    """The first discrepancies, and how many more there are."""
    from bus.store.verify import verify

    shown: list[Discrepancy] = []
    more = 0
    with work.out.stderr.status("verifying …") as spinner:

        def progress(name: str, done: int, last: int) -> None:
            spinner.update(f"verifying {name}: {done:,} of {last:,}")

        for discrepancy in verify(work.database, progress=progress):
            if len(shown) < limit:
                shown.append(discrepancy)
            else:
                more += 1
    return shown, more


def _gaps(work: Desk) -> int:
    """Gaps in what systems numbered, counted up to COUNTED; what was received adds up without them."""
    from bus.model.contract import Contracts
    from bus.store.gaps import list_gaps

    contracts = work.catalogue.contracts if work.catalogue else Contracts(())
    page = list_gaps(work.database, contracts=contracts, limit=1)
    return len(page.items) + page.more


def _show_gaps(gaps: int, work: Desk) -> None:
    from bus.store.views import COUNTED

    said = f"{counted(gaps, 'gap', exact=gaps <= COUNTED)} in what systems numbered: never received, or lost since."
    work.out.print(Text(f"{said}  Next: bus message gaps", style="yellow"))


def _show_proof(discrepancies: list[Discrepancy], more: int, work: Desk) -> None:
    if not discrepancies:
        work.out.print(
            Text.assemble(("verified", "bold green"), "  every message, delivery, lane and total agrees with the rows")
        )
        return
    work.out.print(Text(f"{len(discrepancies) + more:,} discrepancies", style="bold red"))
    work.out.items(
        discrepancies, Column("Check", lambda d: d.check), Column("What does not add up", lambda d: d.text), empty=""
    )
    if more:
        work.out.say(f"… and {more:,} more; -n NUMBER shows them")
