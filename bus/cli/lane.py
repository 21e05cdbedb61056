"""`bus lane`: one destination, one ordering key; what blocks it, and what stands in it in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rich_click as click
from rich.text import Text

from bus.cli.desk import desk
from bus.cli.frame import BusGroup, more_note, paged
from bus.cli.output import WIDE, Column, number, styled
from bus.cli.texts import plain

if TYPE_CHECKING:
    from bus.store.lane_views import LaneLine

ALL = 1_000_000


@click.group(cls=BusGroup)
def lane() -> None:
    """Lanes: deliveries to one endpoint about one thing, in order. See what blocks one."""


@lane.command("list")
@click.option("--endpoint", default="", help="Towards this endpoint.")
@click.option("--blocked", is_flag=True, help="Only those that something blocks.")
@paged
def list_(endpoint: str, blocked: bool, limit: int, everything: bool) -> None:
    """Lanes in which something stands: blocked ones first, then the longest."""
    from bus.store.lane_views import list_lanes

    work = desk()
    page = list_lanes(work.database, limit=ALL if everything else limit, endpoint=endpoint, only_blocked=blocked)
    work.out.items(
        page.items,
        Column("Lane", lambda line: line.lane),
        Column("Standing", lambda line: line.standing, right=True),
        Column("Blocked by", _blocked_by),
        Column("Delivery", lambda line: number(line.delivery), right=True),
        Column("Cause", lambda line: line.cause),
        Column("Since", lambda line: line.since),
        empty="No lane is blocked." if blocked else "Nothing stands in any lane.",
    )
    more_note(page.more, exact=page.more_is_exact)


def _blocked_by(line: LaneLine) -> Text:
    if line.blocked_by:
        return styled(line.blocked_by)
    if line.endpoint_state != "open":
        return Text.assemble("endpoint ", styled(line.endpoint_state), no_wrap=True)
    return Text("it moves", style="dim")


@lane.command()
@click.argument("name", metavar="LANE")
@paged
def show(name: str, limit: int, everything: bool) -> None:
    """What stands in a lane, in order. LANE: endpoint/key, such as erp/order:4711, or its number."""
    from bus.store.lane_views import lane_detail

    work = desk()
    detail = lane_detail(work.database, name, limit=ALL if everything else limit)
    if work.out.format != "table":
        work.out.one({"lane": detail.lane, "line": detail.line, "standing": detail.standing.items}, lambda: ())
        return
    line = detail.line
    if line is None:
        work.out.say(f"Nothing stands in lane {detail.lane}: what went through it is done.")
        return
    if line.blocked_by:
        work.out.print(
            Text.assemble(
                f"Lane {plain(detail.lane)} is blocked by delivery {line.delivery}: ",
                styled(line.blocked_by),
                f" {plain(line.cause)}",
            )
        )
    elif line.endpoint_state != "open":
        work.out.print(
            Text.assemble(f"Lane {plain(detail.lane)} is held: its endpoint is ", styled(line.endpoint_state))
        )
    else:
        work.out.print(Text(f"Lane {plain(detail.lane)} moves"))
    work.out.items(
        detail.standing.items,
        Column("Place", lambda d: f"{d.place}.{d.part}" if d.part else str(d.place), right=True),
        Column("Delivery", lambda d: number(d.number), right=True),
        Column("Message", lambda d: number(d.message), right=True),
        Column("Route", lambda d: d.route),
        Column("Stage", lambda d: d.stage, room=WIDE),
        Column("State", lambda d: styled(d.state)),
        Column("Cause", lambda d: d.cause),
        empty="",
    )
    more_note(detail.standing.more, exact=True)
    if line.blocked_by:
        noun = "doubt" if line.blocked_by == "IN_DOUBT" else "dead"
        work.out.say(f"Next: bus {noun} show {line.delivery}")
