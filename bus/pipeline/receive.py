"""receive: open envelopes, keep the messages, plan their deliveries; one transaction for a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bus.crash_points import crash_point
from bus.errors import DataRefused, MessageInvalid, MessageRefused, StoreConflict
from bus.model.catalogue import Catalogue
from bus.model.envelope import Envelope, claimed_sender, open_envelope
from bus.model.message import Opened, digest_of
from bus.model.message_class import MessageClass
from bus.model.route import Selection
from bus.pipeline.plan import Entry, plan
from bus.ports import Kept, MessageStore, Receipt, ReceiptKind, Taken, Telemetry, Transaction

MAX_OPENINGS = 3
"""Times the opening of one message may end the process before it is stored raw."""

MAX_BYTES = 1_048_576
"""Default limit for a body, checked before anything is parsed."""


MAX_DETAIL = 20_000
"""Letters of a receipt's detail that are kept; places and values named in it come from outside."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An envelope that opened, with its routes already selected."""

    envelope: Envelope
    opened: Opened
    selections: Sequence[Selection]


_Item = _Candidate | Receipt


def receive(
    envelopes: Sequence[Envelope],
    *,
    store: MessageStore,
    catalogue: Catalogue,
    telemetry: Telemetry,
    max_bytes: int = MAX_BYTES,
    survived: set[bytes] | None = None,
    message_class: MessageClass | None = None,
) -> set[str]:
    """Keep the messages and plan their deliveries; safe to call twice.

    Returns after the commit, with the queues that have work now. Acknowledge the broker only then. `survived` is the
    process's own: messages it opened and lived, but could not keep yet; they are not held to be deadly.
    `message_class` is that of the queue they were read from: a message of another one is refused. None: all are taken.

    Raises:
        StoreUnavailable: nothing of the current batch was kept; leave it unacknowledged.
    """
    queues: set[str] = set()
    survived = set() if survived is None else survived
    for batch in _batches(envelopes):
        items = [_open_noted(envelope, store, catalogue, max_bytes, survived, message_class) for envelope in batch]
        digests = [_opening_digest(envelope) for envelope in batch if envelope.redelivered]
        crash_point("receive.after_open", holding=len(batch))
        queues |= _keep(items, digests, store=store, catalogue=catalogue, telemetry=telemetry)
        crash_point("receive.after_commit", holding=len(batch))
        survived.difference_update(digests)
    return queues


def _batches(envelopes: Sequence[Envelope]) -> Iterator[Sequence[Envelope]]:
    """Redelivered ones alone, everything else together, in the order of arrival."""
    batch: list[Envelope] = []
    for envelope in envelopes:
        if envelope.redelivered:
            if batch:
                yield batch
                batch = []
            yield [envelope]
        else:
            batch.append(envelope)
    if batch:
        yield batch


def _opening_digest(envelope: Envelope) -> bytes:
    message_id = str(envelope.properties.get("message_id") or "")
    return digest_of(envelope.routing_key, message_id, envelope.body)


def _open_noted(
    envelope: Envelope,
    store: MessageStore,
    catalogue: Catalogue,
    max_bytes: int,
    survived: set[bytes],
    message_class: MessageClass | None,
) -> _Item:
    """Open it; what comes back redelivered, because its opening may have ended a process, is noted before."""
    digest = _opening_digest(envelope) if envelope.redelivered else None
    if digest is None or digest in survived:
        return _open(envelope, catalogue, max_bytes, message_class)
    openings = store.note_opening(digest)
    if openings >= MAX_OPENINGS:
        return _receipt(
            envelope, ReceiptKind.INVALID, "reader.killed", f"opening it ended the process {MAX_OPENINGS} times"
        )
    item = _open(envelope, catalogue, max_bytes, message_class)
    survived.add(digest)
    if openings:
        # It was not the opening that ended a process. A first note may stay until the commit: one alone blames nobody.
        with store.transaction() as transaction:
            transaction.forget_openings([digest])
    return item


def _open(envelope: Envelope, catalogue: Catalogue, max_bytes: int, message_class: MessageClass | None) -> _Item:
    try:
        opened = open_envelope(
            envelope,
            contracts=catalogue.contracts,
            systems=catalogue.systems,
            sites=catalogue.sites,
            max_bytes=max_bytes,
            message_class=message_class,
        )
    except MessageInvalid as error:
        return _receipt(envelope, ReceiptKind.INVALID, error.cause, "\n".join(map(str, error.violations)))
    except MessageRefused as error:
        return _receipt(envelope, ReceiptKind.REFUSED, error.cause, error.detail)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # a receipt records it; the reader must live
        return _receipt(envelope, ReceiptKind.INVALID, "reader.raised", f"{type(error).__name__}: {error}")
    return _Candidate(envelope, opened, catalogue.routes.select(opened))


def _receipt(envelope: Envelope, kind: ReceiptKind, cause: str, detail: str) -> Receipt:
    system, type_name = claimed_sender(envelope.routing_key)
    if len(detail) > MAX_DETAIL:
        detail = f"{detail[:MAX_DETAIL]} … ({len(detail) - MAX_DETAIL} letters more)"
    return Receipt(
        kind=kind,
        cause=cause,
        detail=detail,
        routing_key=envelope.routing_key,
        properties={**envelope.properties, "headers": dict(envelope.headers)},
        body=envelope.body,
        message_id=str(envelope.properties.get("message_id") or ""),
        system=system,
        type=type_name,
    )


def _keep(
    items: Sequence[_Item],
    openings: Sequence[bytes],
    *,
    store: MessageStore,
    catalogue: Catalogue,
    telemetry: Telemetry,
) -> set[str]:
    """Commit the batch; where the database refuses a value, bisect until the culprit stands alone."""
    while True:
        try:
            with store.transaction() as transaction:
                receipts, kept, queues = _write(items, catalogue, transaction)
                transaction.forget_openings(openings)
                crash_point("receive.before_commit", holding=len(items))
            break
        except StoreConflict:
            continue
        except DataRefused as error:
            if len(items) == 1:
                (item,) = items
                if isinstance(item, Receipt):
                    raise
                items = [_receipt(item.envelope, ReceiptKind.INVALID, "store.refused-value", str(error))]
                continue
            middle = len(items) // 2
            parts = (items[:middle], items[middle:])
            return set().union(
                *(_keep(part, openings, store=store, catalogue=catalogue, telemetry=telemetry) for part in parts)
            )
    _tell(receipts, kept, telemetry)
    return queues


def _write(
    items: Sequence[_Item], catalogue: Catalogue, transaction: Transaction
) -> tuple[list[Receipt], list[Kept], set[str]]:
    accepted, receipts = _resolve(items, transaction)
    transaction.add_receipts(receipts)
    entries = [Entry(opened=candidate.opened, selections=candidate.selections) for candidate in accepted]
    kept, queues = plan(entries, catalogue=catalogue, transaction=transaction)
    return receipts, kept, queues


def _resolve(items: Sequence[_Item], transaction: Transaction) -> tuple[list[_Candidate], list[Receipt]]:
    """Which candidates are new; the others become receipts: duplicates, or conflicts with what stands."""
    first: dict[tuple[str, str], _Candidate] = {}
    for item in items:
        if isinstance(item, _Candidate):
            first.setdefault((item.opened.message.system, item.opened.message.id), item)
    taken: dict[tuple[str, str], Taken] = dict(
        zip(first, transaction.take_ids([c.opened.message for c in first.values()]), strict=True)
    )
    accepted: list[_Candidate] = []
    receipts: list[Receipt] = []
    for item in items:
        if isinstance(item, Receipt):
            receipts.append(item)
            continue
        key = (item.opened.message.system, item.opened.message.id)
        if first[key] is item and taken[key].is_new:
            accepted.append(item)
        elif item.opened.message.digest == taken[key].digest:
            receipts.append(_receipt(item.envelope, ReceiptKind.DUPLICATE, "id.duplicate", f"message id {key[1]}"))
        else:
            detail = f"message id {key[1]} of {key[0]} already stands with another content; the first one stands"
            receipts.append(_receipt(item.envelope, ReceiptKind.CONFLICT, "id.conflict", detail))
    return accepted, receipts


def _tell(receipts: Sequence[Receipt], kept: Sequence[Kept], telemetry: Telemetry) -> None:
    for receipt in receipts:
        telemetry.event(
            f"message {receipt.kind}",
            cause=receipt.cause,
            system=receipt.system,
            type=receipt.type,
            id=receipt.message_id,
        )
    for k in kept:
        telemetry.event(
            "message accepted",
            message=k.row,
            type=k.message.type,
            subject=k.message.subject,
            correlation=k.message.correlation_id,
        )
