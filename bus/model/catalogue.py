"""The Catalogue: everything a project declares, checked against each other, for the pipeline to decide by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from bus.errors import ConfigurationError
from bus.model.contract import Contracts
from bus.model.message import BUS
from bus.model.message_class import MessageClass
from bus.model.route import Route, RouteTable, types_of
from bus.model.system import Endpoint, Site, System
from bus.model.values import ValueMaps


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Sites, systems, endpoints, contracts, routes and value maps of one project."""

    contracts: Contracts
    routes: RouteTable
    sites: Mapping[str, Site] = field(default_factory=dict)
    systems: Mapping[str, System] = field(default_factory=dict)
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    maps: Mapping[str, ValueMaps] = field(default_factory=dict)

    @cached_property
    def entering_kinds(self) -> frozenset[str]:
        """Kinds of subjects for which native messages re-enter: every message of these looks at its bus lane."""
        kinds = set()
        for route in self.routes:
            if route.to == BUS and route.transform is not None:
                for type_name in (*route.transform.takes, *route.transform.makes):
                    contract = self.contracts.get(type_name)
                    if contract is not None and contract.key is not None:
                        kinds.add(contract.key.kind)
        return frozenset(kinds)

    def message_class(self, type_name: str) -> MessageClass:
        contract = self.contracts.get(type_name)
        return contract.message_class if contract else MessageClass.TRANSACTION

    def transform_queue(self, type_name: str) -> str:
        return f"transform.{self.message_class(type_name)}"

    @cached_property
    def queues(self) -> tuple[str, ...]:
        """Every queue of the workers."""
        return (
            *(f"transform.{message_class}" for message_class in MessageClass),
            *(endpoint.queue for endpoint in self.endpoints.values()),
        )

    def maps_of(self, partner: str) -> ValueMaps:
        return self.maps.get(partner, ValueMaps(partner))

    def maps_for(self, route: Route, *, sender: str) -> ValueMaps:
        """The partner's value maps: the sender's on the way in, the receiving system's on the way out."""
        if route.to == BUS:
            return self.maps_of(sender)
        endpoint = self.endpoints.get(route.to)
        return self.maps_of(endpoint.system if endpoint else route.to)

    def digests(self, route: Route, *, sender: str) -> str:
        """What makes a route's output: digests of route, transformer and value maps."""
        made_by = f"{route.transform.name}@{route.transform.digest}" if route.transform else "none"
        return f"route={route.digest} transformer={made_by} maps={self.maps_for(route, sender=sender).digest}"

    def complaints(self) -> Iterator[str]:
        """Everything that does not fit together, each naming the thing and what to change."""
        for route in self.routes:
            yield from self._route_complaints(route)
        for system in self.systems.values():
            yield from self._system_complaints(system)
        for endpoint in self.endpoints.values():
            if endpoint.system not in self.systems:
                yield f"endpoint {endpoint.name}: system {endpoint.system!r} is not declared ({_known(self.systems)})"
            if endpoint.visible_after < endpoint.timeout:
                yield f"endpoint {endpoint.name}: visible_after is below its timeout; a late booking would be missed"
        yield from self._rings()

    def _rings(self) -> Iterator[str]:
        """Routes to=BUS along which a type becomes itself again: a message would enter for ever."""
        makes: dict[str, dict[str, Route]] = {}
        for route in self.routes:
            if route.to == BUS and route.transform is not None:
                for taken in sorted(types_of(route) or route.transform.takes):
                    for made in route.transform.makes:
                        makes.setdefault(taken, {}).setdefault(made, route)
        told: set[str] = set()
        for start in makes:
            ring = _way_back(start, makes)
            if ring and not told & set(ring):
                told.update(ring)
                steps = zip(ring, (*ring[1:], start), strict=True)
                names = ", ".join(dict.fromkeys(makes[taken][made].name for taken, made in steps))
                yield (
                    f"route {makes[start][(*ring[1:], start)[0]].name}: to=BUS leads in a ring ({names}): "
                    f"{' → '.join((*ring, start))}; a message would enter for ever: let one of them make another type"
                )

    def _system_complaints(self, system: System) -> Iterator[str]:
        for site in system.sites:
            if site not in self.sites:
                yield f"system {system.name}: site {site!r} is not declared ({_known(self.sites)})"
        for type_name in system.publishes:
            if type_name not in self.contracts:
                yield f"system {system.name} publishes {type_name!r}, which has no contract"
            elif self.contracts[type_name].owner != system.role:
                owner = self.contracts[type_name].owner
                yield (
                    f"system {system.name} ({system.role}) publishes {type_name}, "
                    f"whose owner is {owner}: a system states only what its role owns"
                )
        for other in system.speaks_for:
            if other not in self.systems:
                yield f"system {system.name} speaks for {other!r}, which is not declared"

    def _route_complaints(self, route: Route) -> Iterator[str]:
        types = types_of(route)
        for type_name in sorted(types):
            if type_name not in self.contracts:
                yield f"route {route.name}: type {type_name!r} has no contract"
        if route.to != BUS and route.to not in self.endpoints:
            yield f"route {route.name}: nobody serves endpoint {route.to!r} ({_known(self.endpoints)})"
        if route.transform is None:
            return
        for type_name in sorted(types - set(route.transform.takes)):
            yield f"route {route.name}: {route.transform.name} does not take {type_name}"
        for type_name in route.transform.makes:
            if type_name not in self.contracts:
                yield f"route {route.name}: {route.transform.name} makes {type_name!r}, a type without a contract"
            elif route.to == BUS and not self.contracts[type_name].canonical:
                yield f"route {route.name}: to=BUS, but {type_name} is not canonical"
        if route.to == BUS:
            classes = {self.message_class(name) for name in (*types, *route.transform.makes)}
            if len(classes) > 1:
                yield f"route {route.name}: what it takes and makes is of several classes ({_known(classes)})"

    def check(self) -> None:
        """Refuse a project that does not fit together.

        Raises:
            ConfigurationError: with every complaint, a line each.
        """
        complaints = list(self.complaints())
        if complaints:
            raise ConfigurationError("\n".join(complaints))


def _way_back(start: str, makes: Mapping[str, Mapping[str, Route]]) -> tuple[str, ...]:
    """The types along a shortest way from a type to itself, itself first; empty: there is none."""
    ways: list[tuple[str, ...]] = [(start,)]
    seen: set[str] = set()
    for way in ways:  # grows: the breadth-first queue
        for made in makes.get(way[-1], ()):
            if made == start:
                return way
            if made not in seen:
                seen.add(made)
                ways.append((*way, made))
    return ()


def _known(names: Iterable[str]) -> str:
    return "declared: " + (", ".join(sorted(names)) or "none")
