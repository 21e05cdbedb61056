"""Sequence numbers: each system counts what it says about a subject, 1, 2, 3 …; a missing one shows a loss."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from bus.errors import MessageInvalid
from bus.model.contract import Contracts
from bus.model.stated import read_place

FIRST = 1


class Stream(NamedTuple):
    """What one counter counts: everything a system says at a site about a subject, whatever its type."""

    system: str
    site: str
    subject: str


def missing_between(first: int, last: int, known: Collection[int]) -> Iterator[tuple[int, int]]:
    """The ranges of `first` to `last`, both included, that hold none of the known numbers."""
    for number in sorted({number for number in known if first <= number <= last}):
        if first < number:
            yield first, number - 1
        first = number + 1
    if first <= last:
        yield first, last


def place_stated(
    routing_key: str, properties: Mapping[str, Any], body: bytes, contracts: Contracts
) -> tuple[Stream, int] | None:
    """The stream and number of what was received and did not become a message; None: it states none.

    `properties` are those of AMQP, with the headers as one of them.
    """
    place = read_place(properties, properties.get("headers") or {}, body)
    site, _, rest = routing_key.partition(".")
    system, _, type_name = rest.partition(".")
    if place is None:
        return None
    subject = _normal(place.subject, type_name, place.body, contracts)
    return Stream(system, site, subject), place.sequence


def _normal(stated: str, type_name: str, body: bytes, contracts: Contracts) -> str:
    """The subject as a message of the type would bear it; from the body where the sender left it to the contract."""
    contract = contracts.get(type_name)
    if contract is None or contract.key is None:
        return stated
    if stated:
        return contract.key.normalise(stated)
    try:
        return contract.subject_of(contract.read(body))
    except MessageInvalid:
        return ""
    except (Exception, SystemExit):  # noqa: BLE001  # the contract's own reader stumbled: its receipt says so
        return ""
