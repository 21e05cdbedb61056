"""Predicates as values: they print themselves, explain themselves, and tell the index their equalities."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from bus.model.message import Message, Opened
from bus.model.path import MISSING, value_at

HEADERS = frozenset(field.name for field in fields(Message)) - {"body"}

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda actual, expected: actual in expected,
}


@dataclass(frozen=True)
class Explanation:
    """Whether a part of a predicate held, why, and its own parts."""

    holds: bool
    text: str
    parts: tuple[Explanation, ...] = ()

    def lines(self, depth: int = 0) -> Iterator[str]:
        """The tree as indented lines, each starting with `holds` or `failed`."""
        yield f"{'  ' * depth}{'holds' if self.holds else 'failed'}: {self.text}"
        for part in self.parts:
            yield from part.lines(depth + 1)


class Predicate(ABC):
    """A condition on a message. Combine with `&`, `|` and `~`."""

    @abstractmethod
    def holds(self, opened: Opened) -> bool:
        """Whether the message fulfils it; may raise only where a plain callable raises."""

    @abstractmethod
    def explain(self, opened: Opened) -> Explanation:
        """Why it holds or not."""

    def equalities(self) -> Iterator[tuple[tuple[str, str], frozenset[Any]]]:
        """((`header` | `field`, path), values): tests that must hold for the whole to hold."""
        yield from ()

    def __and__(self, other: Predicate) -> Predicate:
        return All((*_parts(self, All), *_parts(other, All)))

    def __or__(self, other: Predicate) -> Predicate:
        return AnyOf((*_parts(self, AnyOf), *_parts(other, AnyOf)))

    def __invert__(self) -> Predicate:
        return Not(self)


def _parts(predicate: Predicate, kind: type[All] | type[AnyOf]) -> tuple[Predicate, ...]:
    return predicate.parts if isinstance(predicate, kind) else (predicate,)


@dataclass(frozen=True)
class Comparison(Predicate):
    """One comparison of a header or a field of the document with a value."""

    source: str
    path: str
    op: str
    value: Any

    def _actual(self, opened: Opened) -> Any:
        if self.source == "header":
            return getattr(opened.message, self.path)
        return value_at(opened.document, self.path)

    def holds(self, opened: Opened) -> bool:
        return self._compare(self._actual(opened))

    def _compare(self, actual: Any) -> bool:
        if self.op == "exists":
            return (actual is not MISSING) is self.value
        if actual is MISSING:
            return False
        try:
            return bool(_OPERATORS[self.op](actual, self.value))
        except TypeError:
            return False

    def explain(self, opened: Opened) -> Explanation:
        actual = self._actual(opened)
        holds = self._compare(actual)
        return Explanation(holds, f"{self}, was {actual if actual is MISSING else _shown(actual)}")

    def equalities(self) -> Iterator[tuple[tuple[str, str], frozenset[Any]]]:
        if self.op == "==" and _hashable(self.value):
            yield (self.source, self.path), frozenset((self.value,))
        elif self.op == "in":
            yield (self.source, self.path), frozenset(self.value)

    def __str__(self) -> str:
        name = self.path if self.source == "field" else f"header {self.path}"
        if self.op == "exists":
            return f"{name} {'exists' if self.value else 'is missing'}"
        if self.op == "in":
            return f"{name} in ({', '.join(sorted(map(_shown, self.value)))})"
        return f"{name} {self.op} {_shown(self.value)}"


def _shown(value: object) -> str:
    return str(value) if isinstance(value, int | float) or not isinstance(value, str) else f'"{value}"'


def _hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


@dataclass(frozen=True)
class All(Predicate):
    """Every part holds."""

    parts: tuple[Predicate, ...]

    def holds(self, opened: Opened) -> bool:
        return all(part.holds(opened) for part in self.parts)

    def explain(self, opened: Opened) -> Explanation:
        parts = tuple(part.explain(opened) for part in self.parts)
        return Explanation(all(part.holds for part in parts), "all of", parts)

    def equalities(self) -> Iterator[tuple[tuple[str, str], frozenset[Any]]]:
        for part in self.parts:
            yield from part.equalities()

    def __str__(self) -> str:
        return " & ".join(f"({part})" if isinstance(part, AnyOf) else str(part) for part in self.parts)


@dataclass(frozen=True)
class AnyOf(Predicate):
    """At least one part holds."""

    parts: tuple[Predicate, ...]

    def holds(self, opened: Opened) -> bool:
        return any(part.holds(opened) for part in self.parts)

    def explain(self, opened: Opened) -> Explanation:
        parts = tuple(part.explain(opened) for part in self.parts)
        return Explanation(any(part.holds for part in parts), "any of", parts)

    def __str__(self) -> str:
        return " | ".join(str(part) for part in self.parts)


@dataclass(frozen=True)
class Not(Predicate):
    """The part does not hold."""

    part: Predicate

    def holds(self, opened: Opened) -> bool:
        return not self.part.holds(opened)

    def explain(self, opened: Opened) -> Explanation:
        part = self.part.explain(opened)
        return Explanation(not part.holds, "not", (part,))

    def __str__(self) -> str:
        return f"not ({self.part})"


@dataclass(frozen=True)
class Opaque(Predicate):
    """A plain callable: allowed, but it can neither be indexed nor explained."""

    function: Callable[[Opened], bool]

    def holds(self, opened: Opened) -> bool:
        return bool(self.function(opened))

    def explain(self, opened: Opened) -> Explanation:
        return Explanation(self.holds(opened), str(self))

    def __str__(self) -> str:
        return f"{getattr(self.function, '__qualname__', 'callable')}() (opaque)"


@dataclass(frozen=True, eq=False)
class Operand:
    """A header or field to compare: `field("quantity.value") > 0`."""

    source: str
    path: str

    def __eq__(self, value: object) -> Comparison:  # type: ignore[override]  # builds a predicate, as SQLAlchemy does
        return Comparison(self.source, self.path, "==", value)

    def __ne__(self, value: object) -> Comparison:  # type: ignore[override]  # builds a predicate
        return Comparison(self.source, self.path, "!=", value)

    __hash__ = None  # type: ignore[assignment]  # an operand is not a value: it must not land in a set

    def __lt__(self, value: object) -> Comparison:
        return Comparison(self.source, self.path, "<", value)

    def __le__(self, value: object) -> Comparison:
        return Comparison(self.source, self.path, "<=", value)

    def __gt__(self, value: object) -> Comparison:
        return Comparison(self.source, self.path, ">", value)

    def __ge__(self, value: object) -> Comparison:
        return Comparison(self.source, self.path, ">=", value)

    def is_in(self, *values: object) -> Comparison:
        return Comparison(self.source, self.path, "in", frozenset(values))

    def exists(self) -> Comparison:
        return Comparison(self.source, self.path, "exists", True)

    def is_missing(self) -> Comparison:
        return Comparison(self.source, self.path, "exists", False)


def field(path: str) -> Operand:
    """A value of the document by its dotted path."""
    return Operand("field", path)


def header(name: str) -> Operand:
    """A header field of the message: site, system, subject …"""
    if name not in HEADERS:
        raise ValueError(f"header({name!r}): a message has {', '.join(sorted(HEADERS))}")
    return Operand("header", name)


def on(*types: str) -> Predicate:
    """The message is of one of these types; every route starts with it."""
    if len(types) == 1:
        return Comparison("header", "type", "==", types[0])
    return Comparison("header", "type", "in", frozenset(types))
