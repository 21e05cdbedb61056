"""Numbers of a sequence that are missing: what a system said, and this store never received or knows no more.

Reckoned from the messages when somebody asks; receiving writes nothing for it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Text, bindparam, func, or_, select

from bus.model.cloud_event import STRUCTURED
from bus.model.contract import Contracts
from bus.model.sequence import FIRST, Stream, missing_between, place_stated
from bus.store import tables as t
from bus.store.bulk import NUMBERS, Listed, one_of
from bus.store.engine import Database
from bus.store.retired import retired_until
from bus.store.views import COUNTED, Page
from bus.store.work import chunks

PAGE = 500
"""Receipts read at a time, with their bodies."""

_M = t.message.c
_R = t.receipt.c


@dataclass(frozen=True, slots=True, kw_only=True)
class GapLine:
    """Numbers `first` to `last` of a stream are missing, between two messages by their numbers in the store."""

    system: str
    site: str
    subject: str
    first: int
    last: int
    missing: int
    """How many."""
    before: int | None
    before_at: datetime | None
    """None: it is the beginning that is missing."""
    after: int
    after_at: datetime
    """When the message behind the gap was accepted, and so when the gap came to light."""


def list_gaps(
    database: Database,
    *,
    contracts: Contracts,
    limit: int,
    system: str = "",
    subject: str = "",
    since: datetime | None = None,
) -> Page[GapLine]:
    """The gaps by system, site, subject and number; `since`: those that came to light since.

    A number that came with a receipt (invalid, refused, …) is not missing: the receipt says what became of it. Nor is
    one that may have been dropped with a retired month: one without a message before it that came after that month.
    Reads every message that bears a number; with `since` those of the subjects that somebody spoke about since.
    """
    with database.history() as connection:
        found = _gaps(system=system, subject=subject, since=since, retired_until=retired_until(connection))
        rows = connection.execute(found.limit(limit + COUNTED)).all()
        known = _receipts(connection, {row.system for row in rows}, contracts)
        gaps = [
            (row, first, last)
            for row in rows
            for first, last in missing_between(
                (row.before or FIRST - 1) + 1,
                row.sequence - 1,
                known[Stream(row.system, row.site, row.subject)],
            )
        ]
        shown = gaps[:limit]
        times = _times(connection, {number for row, _, _ in shown for number in (row.before_id, row.id) if number})
    lines = [_line(row, first, last, times) for row, first, last in shown]
    return Page(lines, len(gaps) - len(shown), len(rows) < limit + COUNTED)


def _gaps(*, system: str, subject: str, since: datetime | None, retired_until: datetime | None) -> Select[Any]:
    """A row for each received message before whose number one is missing, with the message before it in its stream."""
    said = (_M.sequence.is_not(None), _M.parent.is_(None))
    each = select(
        *(_M.id, _M.system, _M.site, _M.subject, _M.sequence),
        _of_the_one_before(_M.sequence).label("before"),
        _of_the_one_before(_M.id).label("before_id"),
    ).where(*said)
    if system:
        each = each.where(_M.system == system)
    if subject:
        each = each.where(_M.subject == subject)
    if since is not None:
        recent = t.message.alias("recent").c
        spoken_of = select(recent.subject).where(recent.accepted_at >= since, recent.sequence.is_not(None))
        each = each.where(_M.subject.in_(spoken_of)).add_columns(_M.accepted_at)
    if retired_until is not None:
        each = each.add_columns(_of_the_one_before(_M.accepted_at).label("before_at"))
    numbered = each.subquery("numbered").c
    found = select(
        *(numbered.id, numbered.system, numbered.site, numbered.subject, numbered.sequence),
        *(numbered.before, numbered.before_id),
    ).where(numbered.sequence > func.coalesce(numbered.before, FIRST - 1) + 1)
    if since is not None:
        found = found.where(numbered.accepted_at >= since)
    if retired_until is not None:
        found = found.where(numbered.before_at >= retired_until)
    return found.order_by(numbered.system, numbered.site, numbered.subject, numbered.sequence)


def _of_the_one_before(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The column of the message before in the same stream, by its number."""
    return func.lag(column).over(partition_by=(_M.system, _M.site, _M.subject), order_by=(_M.sequence, _M.id))


def _receipts(connection: Connection, systems: Collection[str], contracts: Contracts) -> dict[Stream, set[int]]:
    """Numbers that these systems stated in what did not become a message."""
    found: dict[Stream, set[int]] = defaultdict(set)
    if systems:
        for row in _with_numbers(connection, sorted(systems)):
            place = place_stated(row.routing_key, json.loads(row.properties), bytes(row.body), contracts)
            if place is not None:
                stream, number = place
                found[stream].add(number)
    return found


def _with_numbers(connection: Connection, systems: Sequence[str]) -> Iterator[Any]:
    states_one = or_(_R.properties.contains("sequence"), _R.properties.contains(STRUCTURED))
    of_systems = one_of(_R.system, bindparam("systems", type_=Listed(Text)))
    query = select(_R.id, _R.routing_key, _R.properties, _R.body).where(
        of_systems, states_one, _R.id > bindparam("after")
    )
    after = 0
    while rows := connection.execute(query.order_by(_R.id).limit(PAGE), {"systems": systems, "after": after}).all():
        yield from rows
        after = rows[-1].id


def _times(connection: Connection, numbers: Collection[int]) -> dict[int, datetime]:
    query = select(_M.id, _M.accepted_at).where(one_of(_M.id, NUMBERS))
    found: dict[int, datetime] = {}
    for part in chunks(sorted(numbers)):
        found.update({row.id: row.accepted_at for row in connection.execute(query, {"numbers": part})})
    return found


def _line(row: Any, first: int, last: int, times: dict[int, datetime]) -> GapLine:
    return GapLine(
        system=row.system,
        site=row.site,
        subject=row.subject,
        first=first,
        last=last,
        missing=last - first + 1,
        before=row.before_id,
        before_at=times.get(row.before_id),
        after=row.id,
        after_at=times[row.id],
    )
