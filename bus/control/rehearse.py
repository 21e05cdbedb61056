"""Rehearse a message: which routes would take it, and what each receiver would get. No broker, no store, no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from bus.errors import DeliveryFailure, NotAllowed
from bus.model.catalogue import Catalogue
from bus.model.envelope import Envelope, open_envelope
from bus.model.message import BUS, Message, Opened, Outgoing, delivery_key, derived_id
from bus.model.predicate import Explanation
from bus.model.route import Route, types_of
from bus.model.values import ABSENT
from bus.pipeline.settle import Child
from bus.pipeline.transform import make_child, run_transform


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Who is supposed to have sent it; left empty, it is found where only one may."""

    system: str = ""
    site: str = ""
    subject: str = ""
    content_type: str = ""


def open_file(body: bytes, type_name: str, sender: Sender, catalogue: Catalogue, *, max_bytes: int) -> Opened:
    """Open a document as the router would open it from that sender.

    A type that no system publishes (transformers make it) is opened by its contract alone.

    Raises:
        MessageInvalid, MessageRefused: as the router would record it.
        NotAllowed: the sender must be named: several may send this type.
    """
    contract = catalogue.contracts.of(type_name)
    publishers = [system for system in catalogue.systems.values() if type_name in system.publishes]
    if not sender.system and not publishers:
        return _open_unsent(body, type_name, sender, catalogue)
    if not sender.system and len(publishers) > 1:
        names = ", ".join(system.name for system in publishers)
        raise NotAllowed(f"several systems publish {type_name}; say which with --system: {names}")
    name = sender.system or publishers[0].name
    system = catalogue.systems.get(name)
    site = sender.site or (system.sites[0] if system is not None and system.sites else "unknown")
    envelope = Envelope(
        routing_key=f"{site}.{name}.{type_name}",
        body=body,
        properties={
            "message_id": derived_id("rehearsal", body.hex()),
            "content_type": sender.content_type or contract.content_types[0],
        },
        headers={"subject": sender.subject} if sender.subject else {},
    )
    return open_envelope(
        envelope, contracts=catalogue.contracts, systems=catalogue.systems, sites=catalogue.sites, max_bytes=max_bytes
    )


def _open_unsent(body: bytes, type_name: str, sender: Sender, catalogue: Catalogue) -> Opened:
    contract = catalogue.contracts.of(type_name)
    document = contract.read(body)
    number = derived_id("rehearsal", body.hex())
    message = Message(
        id=number,
        type=type_name,
        system="",
        site=sender.site or str(document.get("site", "")) or next(iter(catalogue.sites), ""),
        subject=contract.subject_of(document, stated=sender.subject),
        content_type=sender.content_type or contract.content_types[0],
        body=body,
        correlation_id=number,
    )
    return Opened(message, document)


# --- value maps ------------------------------------------------------------------------------------------------------


def absent_maps(catalogue: Catalogue) -> list[str]:
    """Value maps that no file has and that a contract's own example needs, each with its route.

    Every example is rehearsed as sent by each system that may publish it, from each of its sites. It runs the project's
    code, as `bus route try` does: a transformer that does not come to an end holds it up.
    """
    found: dict[str, None] = {}
    for opened in _examples(catalogue):
        for step in rehearse(opened, catalogue).failures():
            if step.failure.startswith(ABSENT):
                found[f"route {step.route.name}: {step.failure}"] = None
    return list(found)


def _examples(catalogue: Catalogue) -> Iterator[Opened]:
    for system in catalogue.systems.values():
        for contract in map(catalogue.contracts.of, system.publishes):
            for body, site in product(contract.examples, system.sites):
                sender = Sender(system=system.name, site=site)
                try:
                    yield open_file(body, contract.type, sender, catalogue, max_bytes=len(body))
                except Exception:  # noqa: BLE001, S112  # it is wrong, or says another site itself: not asked here
                    continue


# --- explain ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Explained:
    """One route, and why it takes the message or not; `names_type`: whether it is about this type at all."""

    route: Route
    explanation: Explanation
    names_type: bool


def explain(opened: Opened, catalogue: Catalogue) -> list[Explained]:
    """Every route against the message, in the order of the table."""
    return [_explained(route, opened) for route in catalogue.routes]


def _explained(route: Route, opened: Opened) -> Explained:
    types = types_of(route)
    try:
        explanation = route.predicate.explain(opened)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # the route's own code; the message would be DEAD(predicate.raised)
        explanation = Explanation(False, f"{route.predicate} raised {type(error).__name__}: {error}")
    return Explained(route, explanation, not types or opened.message.type in types)


# --- try -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """One delivery that would be made: what its endpoint would get, or what would enter the bus again."""

    message: Message
    route: Route
    key: str
    outputs: Sequence[Outgoing] = ()
    entering: Sequence[Rehearsal] = ()
    failure: str = ""
    """Why it would be dead, with the cause first."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A message and the deliveries it would make; none: it would be unrouted."""

    message: Message
    steps: list[Step] = field(default_factory=list)

    def failures(self) -> Iterator[Step]:
        """Every step of the tree that would end dead."""
        for step in self.steps:
            if step.failure:
                yield step
            for entering in step.entering:
                yield from entering.failures()

    def sent(self) -> Iterator[Step]:
        """Every step that would send something to an endpoint, in order."""
        for step in self.steps:
            if step.route.to != BUS and not step.failure:
                yield step
            for entering in step.entering:
                yield from entering.sent()


DEEPEST = 8
"""Times a message may enter again before its routes are held to lead in a ring."""


def rehearse(opened: Opened, catalogue: Catalogue, *, depth: int = 0) -> Rehearsal:
    """What would become of the message, through re-entry to every receiver's exact bytes.

    Keys are those of a first delivery of this very message; a real one has its own.
    """
    steps = []
    for selection in catalogue.routes.select(opened):
        if selection.error:
            key = delivery_key(opened.message, route=selection.route.name, replay=0)
            steps.append(Step(opened.message, selection.route, key, failure=f"{selection.cause}: {selection.error}"))
        else:
            steps.append(_step(opened, selection.route, catalogue, depth))
    return Rehearsal(opened.message, steps)


def _step(opened: Opened, route: Route, catalogue: Catalogue, depth: int) -> Step:
    key = delivery_key(opened.message, route=route.name, replay=0)
    if depth == DEEPEST:
        return Step(opened.message, route, key, failure=f"it entered {DEEPEST} times: these routes lead in a ring")
    try:
        outputs = run_transform(opened, route, key=key, catalogue=catalogue)
        if route.to != BUS:
            return Step(opened.message, route, key, outputs)
        children: list[Child] = [
            make_child(opened, made, index, key=key, route=route, catalogue=catalogue)
            for index, made in enumerate(outputs)
        ]
    except DeliveryFailure as error:
        return Step(opened.message, route, key, failure=str(error))
    entering = [rehearse(child.opened, catalogue, depth=depth + 1) for child in children]
    return Step(opened.message, route, key, outputs, entering)
