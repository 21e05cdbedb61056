"""Bodies in claims: small ones are carried, for a large one stands a claim check until its turn comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Integer, Select, bindparam, case, func, select

from bus.errors import PermanentFailure
from bus.model.message import Message
from bus.ports import ClaimCheck, Claimed, Kept, Output
from bus.store import tables as t
from bus.store.engine import Database

CARRIED = 256 * 1024
"""Bytes of the largest body that a claim carries."""

CARRIED_TOGETHER = 4 * 1024 * 1024
"""Bytes that the messages' bodies in one claim may add up to, and once more those of the outputs."""

NOTED = CARRIED_TOGETHER // 128
"""Bytes above which the digest of an output is noted: what a claim of 128 may leave in the store."""

_M = t.message.c
_O = t.output.c
_AT_MOST: BindParameter[int] = bindparam("carried", type_=Integer())
_NUMBER: BindParameter[int] = bindparam("number", type_=_M.id.type)
_MESSAGE_BODY = select(_M.body).where(_M.id == _NUMBER)
_OUTPUT_BODY = select(_O.body).where(_O.delivery == _NUMBER)


def noted_digest(output: Output) -> bytes | None:
    """The digest that is kept with an output; none where a claim carries it anyway."""
    return output.body_digest if len(output.body) > NOTED else None


def largest_carried(deliveries: int) -> int:
    """Bytes of the largest body that a claim of so many deliveries carries: the parameter `carried`."""
    return min(CARRIED, CARRIED_TOGETHER // max(deliveries, 1))


def _carried(body: ColumnElement[bytes]) -> ColumnElement[bytes]:
    # Both databases know the length of a body without reading it from where large values are kept.
    return case((func.length(body) <= _AT_MOST, body))


MESSAGE = (
    _M.id,
    _M.message_id,
    _M.type,
    _M.system,
    _M.site,
    _M.subject,
    _M.content_type,
    _M.time,
    _M.correlation_id,
    _M.causation_id,
    _M.sequence,
    _M.business_date,
    _M.dataschema,
    _M.traceparent,
    _carried(_M.body),
    func.length(_M.body),
    _M.digest,
)
"""What a claim reads of a message, in the order in which `kept_in` takes it; a large body is NULL."""

OUTPUT = (
    _O.delivery,
    _O.type,
    _O.content_type,
    _O.digest,
    _carried(_O.body),
    func.length(_O.body),
    _O.body_digest,
)
"""What a claim reads of an output, in the order in which `output_in` takes it; a large body is NULL."""


def kept_in(values: Sequence[Any]) -> Kept:
    """The message of a claim's row, or what stands for it. By position: by name it was half of a claim's time."""
    (
        row,
        message_id,
        type_name,
        system,
        site,
        subject,
        content_type,
        time,
        correlation_id,
        causation_id,
        sequence,
        business_date,
        dataschema,
        traceparent,
        body,
        size,
        digest,
    ) = values
    message = Message(
        id=message_id,
        type=type_name,
        system=system,
        site=site,
        subject=subject,
        content_type=content_type,
        body=bytes(body or b""),
        time=time,
        correlation_id=correlation_id,
        causation_id=causation_id,
        sequence=sequence,
        business_date=business_date,
        dataschema=dataschema,
        traceparent=traceparent,
    )
    return Kept(row, message, ClaimCheck(size, bytes(digest)) if body is None else None)


def output_in(values: Sequence[Any]) -> Output | None:
    """The output of a claim's row, or what stands for it."""
    delivery, type_name, content_type, digest, body, size, body_digest = values
    if delivery is None:
        return None
    check = ClaimCheck(size, bytes(body_digest or b"")) if body is None else None
    return Output(type=type_name, content_type=content_type, body=bytes(body or b""), digest=digest, check=check)


def bring_message(database: Database, claimed: Claimed) -> Message:
    """See MessageStore.message_of."""
    kept = claimed.kept
    if kept.check is None:
        return kept.message
    where = f"message {kept.row}"
    message = replace(kept.message, body=_bring(database, _MESSAGE_BODY, kept.row, where))
    _compare(kept.check, message.digest, where)
    return message


def bring_output(database: Database, claimed: Claimed) -> Output | None:
    """See MessageStore.output_of."""
    output = claimed.output
    if output is None or output.check is None:
        return output
    where = f"the output of delivery {claimed.id}"
    brought = replace(output, body=_bring(database, _OUTPUT_BODY, claimed.id, where), check=None)
    _compare(output.check, brought.body_digest, where)
    return brought


def _bring(database: Database, query: Select[Any], number: int, where: str) -> bytes:
    with database.look() as connection:
        body = connection.execute(query, {"number": number}).scalar()
    if body is None:  # what is replayed may lie in a closed month
        with database.history() as connection:
            body = connection.execute(query, {"number": number}).scalar()
    if body is None:
        raise PermanentFailure("body.missing", f"{where} has no body in the store any more")
    return bytes(body)


def _compare(check: ClaimCheck, digest: bytes, where: str) -> None:
    if check.digest and digest != check.digest:
        raise PermanentFailure(
            "body.altered", f"{where}: its body is not the one that was kept (SHA-256 {check.digest.hex()} noted then)"
        )
