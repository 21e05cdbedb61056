"""Bodies in claims: small ones are carried, for a large one stands a claim check until its turn comes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Integer, Select, bindparam, case, func, select

from bus.errors import PermanentFailure
from bus.model.message import Message
from bus.ports import ClaimCheck, Claimed, Kept, Output
from bus.store import tables as t
from bus.store.engine import Database
from bus.store.message_rows import HEADER, message_of

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


def claim_columns() -> list[ColumnElement[Any]]:
    """What a claim reads of message and output: `m_` and `o_` stand before the names, a large body is NULL."""
    message = [_M[name].label(f"m_{name}") for name in ("id", "message_id", *HEADER, "digest")]
    output = [_O[name].label(f"o_{name}") for name in ("delivery", "type", "content_type", "digest", "body_digest")]
    bodies = [_carried(_M.body).label("m_body"), _carried(_O.body).label("o_body")]
    return [*message, *output, *bodies, func.length(_M.body).label("m_size"), func.length(_O.body).label("o_size")]


def kept_in(row: Any) -> Kept:
    """The message of a claim's row, or what stands for it."""
    check = ClaimCheck(row.m_size, bytes(row.m_digest)) if row.m_body is None else None
    return Kept(row.m_id, message_of(row, "m_"), check)


def output_in(row: Any) -> Output | None:
    """The output of a claim's row, or what stands for it."""
    if row.o_delivery is None:
        return None
    check = ClaimCheck(row.o_size, bytes(row.o_body_digest or b"")) if row.o_body is None else None
    return Output(
        type=row.o_type,
        content_type=row.o_content_type,
        body=bytes(row.o_body or b""),
        digest=row.o_digest,
        check=check,
    )


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
    if body is None:
        raise PermanentFailure("body.missing", f"{where} has no body in the store any more")
    return bytes(body)


def _compare(check: ClaimCheck, digest: bytes, where: str) -> None:
    if check.digest and digest != check.digest:
        raise PermanentFailure(
            "body.altered", f"{where}: its body is not the one that was kept (SHA-256 {check.digest.hex()} noted then)"
        )
