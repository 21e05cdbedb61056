"""Prove promise 2 from the rows, in one snapshot: every discrepancy is named with its message or delivery."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, case, exists, func, not_, or_, select

from bus.model import ledger
from bus.model.delivery import FINAL, RUNNING, Stage, State, is_laned_now, stands
from bus.model.lane import Moves, Standing, head_run
from bus.model.message import BUS
from bus.pipeline.plan import REENTRY
from bus.store import tables as t
from bus.store.engine import Database
from bus.store.overview import totals
from bus.store.recount import recount
from bus.store.retired import retired_ledger

PAGE = 5_000
"""Rows of a table compared in one statement."""

_M = t.message.c
_D = t.delivery.c
_FINAL = [str(state) for state in FINAL]


@dataclass(frozen=True, slots=True, kw_only=True)
class Discrepancy:
    """Something that does not add up."""

    check: str
    """planned, entering, produced, parent, key, totals, stands, places, order or claims."""
    text: str
    message: int | None = None
    delivery: int | None = None
    lane: str = ""


Progress = Callable[[str, int, int], None]
"""(check, rows done, rows in all)"""


def verify(database: Database, *, progress: Progress = lambda *_: None) -> Iterator[Discrepancy]:
    """Compare what was counted with what is there, page by page in one snapshot; yields nothing where all is well."""
    with database.history() as connection:
        for check in (_messages, _deliveries, _lanes):
            yield from check(connection, progress)
        yield from _totals(connection)


def _pages(connection: Connection, number: Any, name: str, progress: Progress) -> Iterator[Any]:
    """Conditions on the number that cover the table, page by page."""
    last = connection.execute(select(func.max(number))).scalar() or 0
    for start in range(0, last, PAGE):
        progress(name, start, last)
        yield and_(number > start, number <= start + PAGE)
    progress(name, last, last)


# --- messages: planned, entering, keys, parents ----------------------------------------------------------------------


def _messages(connection: Connection, progress: Progress) -> Iterator[Discrepancy]:
    for page in _pages(connection, _M.id, "messages", progress):
        yield from _counts(connection, page)
        yield from _keys(connection, page)
        yield from _parents(connection, page)


def _counts(connection: Connection, page: Any) -> Iterator[Discrepancy]:
    planned = func.count(case((_D.route != REENTRY, _D.id)))  # queueing up is no plan
    entering = func.coalesce(func.sum(case((and_(_D.destination == BUS, _D.state.not_in(_FINAL)), 1), else_=0)), 0)
    query = (
        select(_M.id, _M.planned, _M.entering, planned.label("rows"), entering.label("entering_rows"))
        .select_from(t.message.outerjoin(t.delivery, _D.message == _M.id))
        .where(page)
        .group_by(_M.id, _M.planned, _M.entering)
        .having(or_(planned != _M.planned, entering != _M.entering))
        .order_by(_M.id)
    )
    for row in connection.execute(query):
        if row.rows != row.planned:
            text = f"message {row.id} planned {row.planned} deliveries, {row.rows} are there"
            yield Discrepancy(check="planned", message=row.id, text=text)
        if row.entering_rows != row.entering:
            text = f"message {row.id} counts {row.entering} deliveries still entering, {row.entering_rows} are there"
            yield Discrepancy(check="entering", message=row.id, text=text)


def _keys(connection: Connection, page: Any) -> Iterator[Discrepancy]:
    key = t.message_key.c
    same = and_(key.system == _M.system, key.message_id == _M.message_id)
    query = (
        select(_M.id, _M.system, _M.message_id, key.digest.label("key_digest"))
        .select_from(t.message.outerjoin(t.message_key, same))
        .where(page, _M.parent.is_(None), or_(key.digest.is_(None), key.digest != _M.digest))
        .order_by(_M.id)
    )
    for row in connection.execute(query):
        what = "is missing" if row.key_digest is None else "stands for another content"
        text = f"message {row.id}: the key of {row.system} {row.message_id} {what}; a resend would not be recognised"
        yield Discrepancy(check="key", message=row.id, text=text)


def _parents(connection: Connection, page: Any) -> Iterator[Discrepancy]:
    parent = t.delivery.alias("parent")
    orphan = _M.parent.is_not(None) & not_(exists().where(parent.c.id == _M.parent))
    for row in connection.execute(select(_M.id, _M.parent).where(page, orphan).order_by(_M.id)):
        text = f"message {row.id} was made by delivery {row.parent}, which is not there"
        yield Discrepancy(check="parent", message=row.id, delivery=row.parent, text=text)


# --- deliveries: produced, messages, stands, claims ------------------------------------------------------------------


def _deliveries(connection: Connection, progress: Progress) -> Iterator[Discrepancy]:
    for page in _pages(connection, _D.id, "deliveries", progress):
        yield from _produced(connection, page)
        yield from _rows(connection, page)


def _produced(connection: Connection, page: Any) -> Iterator[Discrepancy]:
    child = t.message.alias("child")
    count = func.count(child.c.id)
    query = (
        select(_D.id, _D.message, _D.produced, count.label("rows"))
        .select_from(t.delivery.outerjoin(child, child.c.parent == _D.id))
        .where(page)
        .group_by(_D.id, _D.message, _D.produced)
        .having(count != func.coalesce(_D.produced, 0))
        .order_by(_D.id)
    )
    for row in connection.execute(query):
        text = f"delivery {row.id} made {row.produced or 0} messages, {row.rows} are there"
        yield Discrepancy(check="produced", delivery=row.id, message=row.message, text=text)


def _rows(connection: Connection, page: Any) -> Iterator[Discrepancy]:
    columns = (_D.id, _D.message, _D.state, _D.lane, _D.stands, _D.blocks, _D.worker, _M.id.label("there"))
    joined = t.delivery.outerjoin(t.message, _M.id == _D.message)
    for row in connection.execute(select(*columns).select_from(joined).where(page).order_by(_D.id)):
        state = State(row.state)
        if row.there is None:
            text = f"delivery {row.id} belongs to message {row.message}, which is not there"
            yield Discrepancy(check="parent", delivery=row.id, message=row.message, text=text)
        should_stand = row.lane is not None and stands(state, blocks=bool(row.blocks))
        if bool(row.stands) is not should_stand:
            said, is_so = ("stands", "should not") if row.stands else ("does not stand", "should")
            text = f"delivery {row.id} {said} in its lane; as it is {state} it {is_so}"
            yield Discrepancy(check="stands", delivery=row.id, message=row.message, text=text)
        if state is State.WAITING and row.lane is None:
            text = f"delivery {row.id} is {state}, though it is in no lane"
            yield Discrepancy(check="order", delivery=row.id, message=row.message, text=text)
        if state in (State.CLAIMED, State.SENDING) and not row.worker:
            text = f"delivery {row.id} is {state}, and no worker holds it"
            yield Discrepancy(check="claims", delivery=row.id, message=row.message, text=text)


# --- lanes: places and order -----------------------------------------------------------------------------------------


def _lanes(connection: Connection, progress: Progress) -> Iterator[Discrepancy]:
    columns = (_D.id, _D.lane, _D.message, _D.stage, _D.state, _D.place, _D.part, t.lane.c.destination, t.lane.c.key)
    joined = t.delivery.join(t.lane, t.lane.c.id == _D.lane)
    for page in _pages(connection, t.lane.c.id, "lanes", progress):
        query = select(*columns).select_from(joined).where(page, _D.stands)
        lane = _Lane()
        for row in connection.execute(query.order_by(_D.lane, _D.place, _D.part, _D.id)):
            if row.lane != lane.number:
                lane = _Lane(number=row.lane)
            yield from lane.next(row)


@dataclass
class _Lane:
    """Walks along one lane: what may be READY, and whether two have one place."""

    number: int | None = None
    place: tuple[int, int] | None = None
    before: int = 0
    runs: bool = True
    stopped_by: int = 0

    def next(self, row: Any) -> Iterator[Discrepancy]:
        name = f"{row.destination}/{row.key}"
        state, stage = State(row.state), Stage(row.stage)
        laned = is_laned_now(row.destination, stage)
        if self.place == (row.place, row.part):
            text = f"deliveries {self.before} and {row.id} have one place ({row.place}.{row.part}) in lane {name}"
            yield Discrepancy(check="places", delivery=row.id, message=row.message, lane=name, text=text)
        # A lane's head that waits would wait for good: what the model calls the head run is READY.
        if self.place is None and head_run(row.destination, [Standing(row.id, stage, state)]) != Moves((), ()):
            text = f"delivery {row.id} is {state}, though nothing stands before it in lane {name}"
            yield Discrepancy(check="order", delivery=row.id, message=row.message, lane=name, text=text)
        if laned and not self.runs and state in RUNNING:
            text = f"delivery {row.id} is {state}, though {self.stopped_by} stands before it in lane {name}"
            yield Discrepancy(check="order", delivery=row.id, message=row.message, lane=name, text=text)
        if self.runs and not (laned and state in RUNNING):
            self.runs, self.stopped_by = False, row.id
        self.place, self.before = (row.place, row.part), row.id


# --- totals ----------------------------------------------------------------------------------------------------------


def _totals(connection: Connection) -> Iterator[Discrepancy]:
    counted = totals(connection)
    recounted = recount(connection) + retired_ledger(connection)
    for measure, route in sorted({*counted, *recounted}):
        said, found = counted.get((measure, route), 0), recounted[measure, route]
        if said != found:
            of = f" of route {route}" if route else ""
            text = f"the totals say {measure} {said:,}{of}, the rows say {found:,}"
            yield Discrepancy(check="totals", text=text)
    sums: Counter[str] = Counter()
    for (measure, _), amount in recounted.items():
        sums[measure] += amount
    for equation in ledger.equations(sums):
        if not equation.balances:
            yield Discrepancy(check="totals", text=f"the rows do not balance: {equation}")
