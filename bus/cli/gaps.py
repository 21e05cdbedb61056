"""`bus message gaps`: numbers of a sequence that are missing, and whom to ask to say them again."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import rich_click as click

from bus.cli.desk import Desk, desk
from bus.cli.frame import FOUND_BAD, OK, BusCommand, Instant, more_note, paged
from bus.cli.output import WIDE, Column, number
from bus.cli.texts import counted, plain

if TYPE_CHECKING:
    from bus.store.gaps import GapLine

ALL = 1_000_000


@click.command(cls=BusCommand)
@click.option("--system", default="", help="Of this system.")
@click.option("--subject", default="", help="About this: order:4711.")
@click.option(
    "--since", type=Instant(), help="That came to light since: 2026-03-01T06:30, or an age: 90s, 15m, 2h, 3d."
)
@paged
def gaps(system: str, subject: str, since: datetime | None, limit: int, everything: bool) -> int:
    """Numbers that are missing where systems send `sequence`. Exit code 1 where there are any.

    A system counts what it says at a site about a subject: 1, 2, 3 … A store that was restored from a backup lacks
    what it accepted later: it shows as soon as the system says anything more about the subject. Of months
    that were retired, and of what reaches back into them, no gap is told.
    """
    from bus.model.contract import Contracts
    from bus.store.gaps import list_gaps

    work = desk()
    page = list_gaps(
        work.database,
        contracts=work.catalogue.contracts if work.catalogue else Contracts(()),
        limit=ALL if everything else limit,
        system=system,
        subject=normal_subject(subject, work),
        since=since,
    )
    work.out.items(
        [_with_contacts(gap, work) for gap in page.items],
        Column("System", lambda g: g["system"]),
        Column("Site", lambda g: g["site"], room=WIDE),
        Column("Subject", lambda g: g["subject"]),
        Column("From", lambda g: number(g["first"]), right=True),
        Column("To", lambda g: number(g["last"]), right=True),
        Column(
            "Message before", lambda g: number(g["before"]) if g["before"] else "the beginning", right=True, room=WIDE
        ),
        Column("Message after", lambda g: number(g["after"]), right=True, room=WIDE),
        Column("Came to light", lambda g: g["after_at"]),
        empty="No number is missing.",
    )
    more_note(page.more, exact=page.more_is_exact)
    if not page.items:
        return OK
    _say_what_to_do(page.items, work)
    return FOUND_BAD


def normal_subject(subject: str, work: Desk) -> str:
    """The subject as the store has it: `order:0004711` is `order:4711` where the contract says so."""
    kind = subject.partition(":")[0]
    for contract in work.catalogue.contracts.values() if subject and work.catalogue else ():
        if contract.key is not None and contract.key.kind == kind:
            return contract.key.normalise(subject)
    return subject


def _with_contacts(gap: GapLine, work: Desk) -> dict[str, Any]:
    system = work.settings.systems.get(gap.system)
    return asdict(gap) | {"owner": system.owner if system else "", "support": system.support if system else ""}


def _say_what_to_do(found: list[GapLine], work: Desk) -> None:
    for name in sorted({gap.system for gap in found}):
        system = work.settings.systems.get(name)
        whom = f"{name} ({system.support})" if system else f"{name}, which is no system of bus.toml any more"
        first = next(gap for gap in found if gap.system == name)
        numbers = f"{first.first}" if first.first == first.last else f"{first.first} to {first.last}"
        others = sum(gap.system == name for gap in found) - 1
        rest = f", and what {counted(others, 'more gap')} above name{'s' if others == 1 else ''}" if others else ""
        work.out.say(plain(f"Next: ask {whom} to publish {numbers} about {first.subject} again{rest}."))
    work.out.say(
        "Each under the message id and the number it had: what the bus knows already is a duplicate and changes "
        "nothing, what it lost is delivered behind all it accepted meanwhile.\n"
        "Was the store restored from a backup? Then ask every system for all it said since: a loss shows here only "
        "where something was said later."
    )
