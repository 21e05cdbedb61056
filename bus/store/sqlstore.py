"""SqlStore: the MessageStore on SQLite and PostgreSQL; each concern lives in its own module here."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy import update

from bus.model.delivery import Event, State
from bus.model.message import Message
from bus.ports import Actor, AttemptRecord, Batch, Claimed, Doubt, EndpointRow, MonthTurn, Output
from bus.store import bodies, claims, endpoints, leases, months, relay
from bus.store import tables as t
from bus.store.engine import Database
from bus.store.retired import refuse_retired
from bus.store.transaction import SqlTransaction
from bus.store.work import storable


class SqlStore:
    """See bus.ports.MessageStore for what each method promises. Safe to use from several threads."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def close(self) -> None:
        self.database.close()

    @contextmanager
    def transaction(self) -> Iterator[SqlTransaction]:
        with self.database.write() as connection:
            transaction = SqlTransaction(self.database, connection)
            yield transaction
            transaction.finish()

    def note_opening(self, digest: bytes) -> int:
        o = t.opening.c
        with self.transaction() as transaction:
            noted = transaction.insert(t.opening).values(digest=digest, count=1, at=transaction.now)
            noted = noted.on_conflict_do_update(index_elements=["digest"], set_={"count": o.count + 1})
            return int(transaction.execute(noted.returning(o.count)).scalar_one()) - 1

    # -- claims -------------------------------------------------------------------------------------------------------

    def claim(self, queue: str, *, worker: str, token: str, limit: int) -> Batch:
        return claims.claim(self.database, queue, worker=worker, token=token, limit=limit)

    def claim_trial(self, queue: str, *, worker: str, token: str) -> list[Claimed]:
        return claims.claim_trial(self.database, queue, worker=worker, token=token)

    def has_ready(self, queue: str) -> bool:
        return claims.has_ready(self.database, queue)

    def mark_sending(self, delivery: int, token: str) -> bool:
        return claims.mark_sending(self.database, delivery, token)

    def message_of(self, claimed: Claimed) -> Message:
        return bodies.bring_message(self.database, claimed)

    def output_of(self, claimed: Claimed) -> Output | None:
        return bodies.bring_output(self.database, claimed)

    def claim_doubts(self, queue: str, *, limit: int, again_in: timedelta) -> list[Doubt]:
        return claims.claim_doubts(self.database, queue, limit=limit, again_in=again_in)

    # -- doubts and deeds ---------------------------------------------------------------------------------------------

    def settle_doubt(
        self,
        delivery: int,
        event: Event,
        *,
        actor: Actor,
        of_claim: str | None = None,
        attempt: AttemptRecord | None = None,
        document: str = "",
    ) -> set[str]:
        values: dict[str, Any] = {"token": ""}
        if document:
            values["document"] = storable(document)
        with self.transaction() as transaction:
            # Lanes before deliveries: an attempt locks its delivery, so it comes after the move.
            queues = transaction.move(
                [delivery], event, expected=State.IN_DOUBT, actor=actor, of_claim=of_claim, **values
            ).queues
            if attempt is not None:
                transaction.record([attempt])
            return queues

    def put_off_doubt(
        self, delivery: int, *, of_claim: str, attempt: AttemptRecord | None, again_in: timedelta | None
    ) -> None:
        d = t.delivery.c
        with self.transaction() as transaction:
            if attempt is not None:
                transaction.record([attempt])
            due = transaction.now + again_in if again_in is not None else None
            transaction.execute(
                update(t.delivery)
                .where(d.id == delivery, d.state == str(State.IN_DOUBT), d.token == of_claim)
                .values(due_at=due)
            )

    def move(
        self, deliveries: Sequence[int], event: Event, *, expected: State, actor: Actor, **values: Any
    ) -> set[str]:
        with self.transaction() as transaction:
            return transaction.move(deliveries, event, expected=expected, actor=actor, **values).queues

    def deliveries(self, numbers: Collection[int]) -> list[Claimed]:
        with self.database.history() as connection:
            found = list(claims.load(connection, numbers))
            for number in sorted({*numbers} - {claimed.id for claimed in found}):
                refuse_retired(connection, t.delivery, number)
            return found

    # -- endpoints ----------------------------------------------------------------------------------------------------

    def endpoint(self, name: str) -> EndpointRow:
        return endpoints.endpoint(self.database, name)

    def trip(self, name: str, *, cause: str, detail: str, check_in: timedelta, actor: Actor) -> bool:
        return endpoints.trip(self.database, name, cause=cause, detail=detail, check_in=check_in, actor=actor)

    def put_off_check(self, name: str, *, check_in: timedelta, cause: str = "", detail: str = "") -> bool:
        return endpoints.put_off_check(self.database, name, check_in=check_in, cause=cause, detail=detail)

    def reopen(self, name: str, *, actor: Actor) -> bool:
        return endpoints.reopen(self.database, name, actor=actor)

    # -- the relay ----------------------------------------------------------------------------------------------------

    def wake_due(self, *, limit: int) -> set[str]:
        return relay.wake_due(self.database, limit=limit)

    def queues_with_work(self, *, queues: Collection[str], older_than: timedelta) -> set[str]:
        return relay.queues_with_work(self.database, queues=queues, older_than=older_than)

    def claims_of(self, worker: str) -> set[str]:
        return relay.claims_of(self.database, worker)

    def bury_worker(
        self, worker: str, *, actor: Actor, claims: Collection[str] | None = None, died: bool = True
    ) -> set[str]:
        return relay.bury_worker(self.database, worker, actor=actor, claims=claims, died=died)

    def end_lease(self, name: str, *, seen: tuple[str, int]) -> bool:
        return leases.end_lease(self.database, name, seen=seen)

    def workers_without_lease(self) -> set[str]:
        return relay.workers_without_lease(self.database)

    def fold_totals(self) -> None:
        relay.fold_totals(self.database)

    def turn_month(self, *, actor: Actor) -> MonthTurn | None:
        return months.turn_month(self.database, actor=actor)

    def checkpoint(self) -> None:
        self.database.checkpoint()

    def beat(self, name: str, holder: str) -> bool:
        return leases.beat(self.database, name, holder)

    def take_lease(self, name: str, holder: str, *, instead_of: tuple[str, int] | None) -> bool:
        return leases.take_lease(self.database, name, holder, instead_of=instead_of)

    def leases(self) -> dict[str, tuple[str, int]]:
        return leases.leases(self.database)

    def drop_lease(self, name: str, holder: str) -> None:
        leases.drop_lease(self.database, name, holder)
