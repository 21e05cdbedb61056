"""Planning in the store: deliveries with their places, and what a message has planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import bindparam, delete, func, select, update

from bus.model import ledger
from bus.model.delivery import stands
from bus.ports import NewDelivery, Output
from bus.store import tables as t
from bus.store.bodies import noted_digest
from bus.store.bulk import NUMBERS, add_numbered, add_rows, one_of
from bus.store.lanes import Lanes
from bus.store.revival import all_months, bring_back
from bus.store.work import chunks, storable

_M = t.message.c
_PLANNED = select(_M.id, _M.planned, _M.entering).where(one_of(_M.id, NUMBERS)).order_by(_M.id).with_for_update()
_PLAN_MORE = (
    update(t.message)
    .where(_M.id == bindparam("row"))
    .values(planned=_M.planned + bindparam("more"), entering=_M.entering + bindparam("still_entering"))
)


_FORGET_OUTPUTS = delete(t.output).where(one_of(t.output.c.delivery, NUMBERS))


class Planning(Lanes):
    """What plan writes."""

    def add_deliveries(self, deliveries: Sequence[NewDelivery]) -> None:
        if not deliveries:
            return
        rows = [
            {
                "message": d.message,
                "route": d.route,
                "destination": d.destination,
                "queue": d.queue,
                "lane": self.lanes[d.lane] if d.lane else None,
                "place": d.place,
                "part": d.part,
                "stage": str(d.stage),
                "state": str(d.state),
                "stands": d.lane is not None and stands(d.state, blocks=d.blocks),
                "blocks": d.blocks,
                "key": d.key,
                "replay": d.replay,
                "cause": d.cause,
                "detail": storable(d.detail, 20_000),
                "created_at": self.now,
                "changed_at": self.now,
            }
            for d in deliveries
        ]
        with_output = [(index, d.output) for index, d in enumerate(deliveries) if d.output is not None]
        if with_output:
            numbers = add_numbered(self.connection, t.delivery, rows)
            self.add_outputs([(numbers[index], output) for index, output in with_output])
        else:
            add_rows(self.connection, t.delivery, rows)
        for d in deliveries:
            self.deltas.update(ledger.planned_delivery(d.destination, d.route, d.state))

    def forget_outputs(self, deliveries: Sequence[int]) -> None:
        if deliveries:
            self.connection.execute(_FORGET_OUTPUTS, {"numbers": deliveries})

    def add_outputs(self, outputs: Sequence[tuple[int, Output]]) -> None:
        add_rows(
            self.connection,
            t.output,
            [
                {
                    "delivery": number,
                    "type": o.type,
                    "content_type": o.content_type,
                    "body": o.body,
                    "digest": o.digest,
                    "body_digest": noted_digest(o),
                }
                for number, o in outputs
            ],
        )

    def next_replay(self, delivery: int) -> int:
        d, this = t.delivery.c, t.delivery.alias("this")
        bring_back(self.connection, [delivery])
        self.connection.execute(
            select(t.message.c.id)
            .where(t.message.c.id == select(this.c.message).where(this.c.id == delivery).scalar_subquery())
            .with_for_update()
        )
        same = (d.message == this.c.message) & (d.route == this.c.route) & (d.part == this.c.part)
        query = select(func.max(d.replay)).select_from(this.join(t.delivery, same)).where(this.c.id == delivery)
        return int(self.connection.execute(query).scalar() or 0) + 1

    def made_by(self, message: int) -> int:
        messages = t.message if self.database.is_sqlite else all_months(t.message)
        query = select(messages.c.parent).where(messages.c.id == message)
        return int(self.connection.execute(query).scalar() or 0)

    def note_planned(self, planned: Mapping[int, tuple[int, int]]) -> None:
        for part in chunks(sorted(number for number, change in planned.items() if any(change))):
            changes = []
            for row in self.connection.execute(_PLANNED, {"numbers": part}).all():
                more, entering = planned[row.id]
                old = ledger.disposition(row.planned, row.entering)
                new = ledger.disposition(row.planned + more, row.entering + entering)
                if old != new:
                    self.deltas[old, ""] -= 1
                    self.deltas[new, ""] += 1
                changes.append({"row": row.id, "more": more, "still_entering": entering})
            self.connection.execute(_PLAN_MORE, changes)
