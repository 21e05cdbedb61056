"""Routes and the table that selects them: cost does not grow with the routes that do not match."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bus.errors import ConfigurationError
from bus.model.message import BUS, Opened, digest_of
from bus.model.path import MISSING, value_at
from bus.model.predicate import Opaque, Predicate
from bus.model.retry import RetryPolicy
from bus.model.transformer import Transformer

ROUTE_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class Route:
    """Which messages go where, and made into what. Its name is something an operator says."""

    name: str
    when: Predicate | Callable[[Opened], bool]
    to: str
    """Name of an endpoint of bus.toml, or BUS: make a native message canonical and let it enter again."""
    transform: Transformer | None = None
    retry: RetryPolicy = RetryPolicy()
    key: str | None = "subject"
    """Ordering in the lane: `subject`, a path into the document, or None for no order. A document that lacks the path
    is not sent out of order: its delivery is DEAD(key.missing)."""
    on_dead: str = "block"
    """`block`: a dead delivery holds its lane; `skip`: later ones of the key overtake it."""
    owner: str = ""
    support: str = ""

    def __post_init__(self) -> None:
        if not ROUTE_NAME.fullmatch(self.name):
            raise ConfigurationError(f"route {self.name!r}: a name is lower case words joined by hyphens")
        if self.on_dead not in ("block", "skip"):
            raise ConfigurationError(f"route {self.name}: on_dead is 'block' or 'skip', not {self.on_dead!r}")
        if self.to == BUS and self.key not in ("subject", None):
            raise ConfigurationError(f"route {self.name}: to=BUS is ordered by the subject; leave key as it is")
        if self.to == BUS and self.transform is None:
            raise ConfigurationError(f"route {self.name}: to=BUS needs a transform that makes the message canonical")

    @property
    def predicate(self) -> Predicate:
        return self.when if isinstance(self.when, Predicate) else Opaque(self.when)

    @property
    def digest(self) -> str:
        """Short digest of what the route says, kept with every attempt."""
        transform = self.transform.name if self.transform else ""
        return digest_of(self.name, str(self.predicate), transform, self.to, self.on_dead, str(self.key)).hex()[:12]

    def lane_key(self, opened: Opened) -> str:
        """The ordering key in the lane; empty: unordered, or it has none (see `lacks_key`)."""
        if self.key is None or self.lacks_key(opened):
            return ""
        if self.key == "subject":
            return opened.message.subject
        return f"{self.key}:{value_at(opened.document, self.key)}"

    def lacks_key(self, opened: Opened) -> str:
        """Why the message cannot be ordered by this route's path, as a sentence; empty: it can."""
        if self.key is None or self.key == "subject":
            return ""
        value = value_at(opened.document, self.key)
        if value is not MISSING and value is not None:
            return ""
        return f"route {self.name} orders by {self.key}, and the document has nothing there"


@dataclass(frozen=True)
class Selection:
    """A route that takes a message; `error` where its predicate raised or its key is missing: planned DEAD(cause)."""

    route: Route
    error: str = ""
    cause: str = "predicate.raised"
    """Of the error."""


_Test = tuple[str, str]


@dataclass
class _Bucket:
    """Routes of one message type: by their first equality test, and those without one."""

    by_value: dict[_Test, dict[Any, list[tuple[int, Route]]]] = field(default_factory=dict)
    rest: list[tuple[int, Route]] = field(default_factory=list)

    def candidates(self, opened: Opened) -> Iterator[tuple[int, Route]]:
        for (source, path), values in self.by_value.items():
            actual = getattr(opened.message, path) if source == "header" else value_at(opened.document, path)
            try:
                yield from values.get(actual, ())
            except TypeError:  # an unhashable value equals no indexed one
                continue
        yield from self.rest


class RouteTable:
    """All routes of a project, indexed by type and one equality test each.

    Raises:
        ConfigurationError: two routes have one name.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes: tuple[Route, ...] = tuple(routes)
        self._by_name: dict[str, Route] = {}
        self._by_type: dict[str | None, _Bucket] = {}
        for index, route in enumerate(self.routes):
            if self._by_name.setdefault(route.name, route) is not route:
                raise ConfigurationError(f"two routes are named {route.name!r}: a name says which one is meant")
            self._index(index, route)

    def _index(self, index: int, route: Route) -> None:
        equalities = dict(route.predicate.equalities())
        types: Iterable[str | None] = equalities.pop(("header", "type"), [None])
        for type_name in types:
            bucket = self._by_type.setdefault(type_name, _Bucket())
            if equalities:
                test, values = next(iter(equalities.items()))
                for value in values:
                    bucket.by_value.setdefault(test, {}).setdefault(value, []).append((index, route))
            else:
                bucket.rest.append((index, route))

    def __iter__(self) -> Iterator[Route]:
        return iter(self.routes)

    def get(self, name: str) -> Route | None:
        return self._by_name.get(name)

    def select(self, opened: Opened) -> Sequence[Selection]:
        """The routes that take the message, in the table's order; one that raises or lacks its key with the error."""
        found: list[tuple[int, Selection]] = []
        for bucket in (self._by_type.get(opened.message.type), self._by_type.get(None)):
            for index, route in bucket.candidates(opened) if bucket else ():
                if (selection := _selection(route, opened)) is not None:
                    found.append((index, selection))
        return [selection for _, selection in sorted(found, key=lambda pair: pair[0])]


def _selection(route: Route, opened: Opened) -> Selection | None:
    try:
        if not route.predicate.holds(opened):
            return None
    except (Exception, SystemExit) as error:  # noqa: BLE001  # a delivery records it: DEAD(predicate.raised)
        return Selection(route, f"{type(error).__name__}: {error}")
    lacking = route.lacks_key(opened)
    return Selection(route, lacking, "key.missing") if lacking else Selection(route)


def types_of(route: Route) -> frozenset[str]:
    """The message types a route names; empty: any."""
    return dict(route.predicate.equalities()).get(("header", "type"), frozenset())
