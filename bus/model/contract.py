"""The Contract: what a message type promises; its schema, owner, class, identity and ordering key."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from marshmallow import INCLUDE, Schema, ValidationError

from bus.errors import ConfigurationError, MessageInvalid, Violation
from bus.model.compiled import Undecided, compiled
from bus.model.document import read_json
from bus.model.message_class import MessageClass
from bus.model.path import MISSING, value_at, values_at

TYPE_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+(-[a-z0-9]+)*)+\.v[1-9][0-9]*")


MAX_VIOLATIONS = 100
"""Violations that are kept of one message."""

SchemaClass = type[Schema]


def same(text: str) -> str:
    """The identity as normal form."""
    return text


def without_leading_zeros(text: str) -> str:
    """`000020725187` and `20725187` are one order."""
    return text.lstrip("0") or "0"


@dataclass(frozen=True, slots=True)
class OrderingKey:
    """Where a type's ordering key stands: kind `order`, path `order.id` → subject `order:4711`."""

    kind: str
    path: str
    normal: Callable[[str], str] = same

    def subject(self, value: object) -> str:
        return f"{self.kind}:{self.normal(str(value).strip())}"

    def normalise(self, subject: str) -> str:
        """The normal form of a subject a publisher wrote; a foreign kind stays as it is."""
        kind, colon, value = subject.partition(":")
        return self.subject(value) if colon and kind == self.kind else subject


@dataclass(frozen=True, kw_only=True)
class Contract:
    """One message type and version. Native formats have contracts too, beside their transformers."""

    type: str
    owner: str
    """Role of the system of record (ERP, MES …): the one that may state this."""
    support: str
    """Whom to call when it fails."""
    schema: SchemaClass
    message_class: MessageClass = MessageClass.TRANSACTION
    reader: Callable[[bytes], Any] = read_json
    """Makes a plain dict of the body; raises MessageInvalid naming the place."""
    content_types: tuple[str, ...] = ("application/json",)
    identity: tuple[str, ...] = ()
    """Paths whose values together identify the fact where the publisher sends no message_id."""
    key: OrderingKey | None = None
    """None: the type is unordered."""
    searchable: tuple[str, ...] = ()
    canonical: bool = False
    examples: tuple[bytes, ...] = ()
    description: str = ""

    @cached_property
    def checker(self) -> Schema:
        return self.schema(unknown=INCLUDE)

    @cached_property
    def _load(self) -> Callable[[Mapping[str, Any]], Any]:
        return compiled(self.checker)

    def read(self, body: bytes) -> Mapping[str, Any]:
        """Read and check a body; quantities become Decimal, times aware or naive datetimes, as the schema says.

        Raises:
            MessageInvalid: with every violated field and rule.
        """
        try:
            checked = self._load(self._document(body))
        except Undecided:
            checked = self._load_or_explain(self._document(body))
        if not isinstance(checked, Mapping):
            raise ConfigurationError(f"contract {self.type}: its schema must load to a dict (no post_load objects)")
        return checked

    def _document(self, body: bytes) -> Mapping[str, Any]:
        document = self.reader(body)
        if not isinstance(document, Mapping):
            raise MessageInvalid("contract.violated", Violation("", f"an object is expected, not {_kind(document)}"))
        return document

    def _load_or_explain(self, document: Mapping[str, Any]) -> Any:
        try:
            return self.checker.load(document)
        except ValidationError as error:
            raise MessageInvalid("contract.violated", *_bounded(_violations(error.messages, ""))) from error

    def subject_of(self, document: Mapping[str, Any], *, stated: str = "") -> str:
        """The ordering key of a document, normalised; `stated` is what the publisher wrote.

        Raises:
            MessageInvalid: key.missing, key.several or key.contradicts, with the path.
        """
        if self.key is None:
            return stated
        found = {self.key.subject(value) for value in values_at(document, self.key.path) if value not in ("", None)}
        if not found:
            raise MessageInvalid("key.missing", Violation(self.key.path, "the ordering key is missing"))
        if len(found) > 1:
            names = ", ".join(sorted(found)[:5])
            raise MessageInvalid("key.several", Violation(self.key.path, f"one document, several keys: {names}"))
        subject = found.pop()
        if stated and self.key.normalise(stated) != subject:
            raise MessageInvalid(
                "key.contradicts", Violation(self.key.path, f"the body says {subject}, the header subject {stated}")
            )
        return subject

    def identity_of(self, document: Mapping[str, Any]) -> tuple[str, ...]:
        """The values that identify the fact.

        Raises:
            MessageInvalid: identity.missing, naming each path that yields nothing.
        """
        values = {path: value_at(document, path) for path in self.identity}
        missing = [path for path, value in values.items() if value is MISSING or value in ("", None)]
        if missing or not values:
            raise MessageInvalid(
                "identity.missing",
                *(
                    Violation(path, "needed for the identity, as message_id is not set")
                    for path in missing or ["message_id"]
                ),
            )
        return tuple(str(value) for value in values.values())

    def searchable_values(self, document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """(path, text) of what auditors may search by."""
        for path in self.searchable:
            for value in values_at(document, path):
                if value not in ("", None):
                    yield path, str(value)


def _kind(value: object) -> str:
    return {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a single value")


def _bounded(violations: Iterator[Violation]) -> Iterator[Violation]:
    yield from islice(violations, MAX_VIOLATIONS)
    if next(violations, None) is not None:
        yield Violation("", f"and more; the first {MAX_VIOLATIONS} are named")


def _violations(messages: object, path: str) -> Iterator[Violation]:
    if isinstance(messages, Mapping):
        for key, value in messages.items():
            if key == "_schema":
                place = path
            elif isinstance(key, int):
                place = f"{path}[{key}]"
            else:
                place = f"{path}.{key}" if path else str(key)
            yield from _violations(value, place)
    elif isinstance(messages, list):
        for message in messages:
            yield from _violations(message, path)
    else:
        yield Violation(path, str(messages))


class Contracts(Mapping[str, Contract]):
    """Every contract of a project by type name.

    Raises:
        ConfigurationError: a name is not `<domain>.<name>.v<major>` or stands twice, or types that share a kind of
            subject do not share a class (an event could overtake a transaction of the same key).
    """

    def __init__(self, contracts: Iterable[Contract]) -> None:
        self._by_type: dict[str, Contract] = {}
        classes: dict[str, Contract] = {}
        for contract in contracts:
            if not TYPE_NAME.fullmatch(contract.type):
                raise ConfigurationError(f"contract {contract.type!r}: a type is named <domain>.<name>.v<major>")
            if self._by_type.setdefault(contract.type, contract) is not contract:
                raise ConfigurationError(f"contract {contract.type!r} is declared twice")
            if contract.key is not None:
                first = classes.setdefault(contract.key.kind, contract)
                if first.message_class is not contract.message_class:
                    raise ConfigurationError(
                        f"contracts {first.type} ({first.message_class}) and {contract.type} "
                        f"({contract.message_class}) share the subject kind {contract.key.kind!r}: give them one class"
                    )

    def __getitem__(self, type_name: str) -> Contract:
        return self._by_type[type_name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_type)

    def __len__(self) -> int:
        return len(self._by_type)

    def of(self, type_name: str) -> Contract:
        """The contract of a type.

        Raises:
            MessageInvalid: type.unknown or type.version-unknown, naming the known ones.
        """
        contract = self._by_type.get(type_name)
        if contract is not None:
            return contract
        name = re.sub(r"\.v\d+$", "", type_name)
        versions = sorted(known for known in self._by_type if re.sub(r"\.v\d+$", "", known) == name)
        if versions:
            raise MessageInvalid("type.version-unknown", Violation("type", f"known versions: {', '.join(versions)}"))
        known = ", ".join(sorted(self._by_type))
        raise MessageInvalid("type.unknown", Violation("type", f"{type_name!r} is not a known type: {known}"))
