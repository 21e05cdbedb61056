"""The reckoning at the end of the day: the plant's books against the ledger, fact by fact."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tests.plant.books import BusBooks, PlantBooks, Row
from tests.plant.day import Facts

MES = ("mes-p100", "mes-p200")
CONFIRMATION = "ProdnOrdConf2"
NAMED = 5
"""Culprits named in one check."""


@dataclass(frozen=True)
class Check:
    """One thing that must hold, with the figures; where it does not, `what` says which."""

    subject: str
    holds: bool
    what: str


def reckon(
    plant: PlantBooks, bus: BusBooks, facts: Facts, *, dead: Collection[tuple[str, str]], killed: bool = False
) -> list[Check]:
    """Every check; none stops at the first that fails.

    `dead`: the (lane key, cause) expected to be dead. `killed`: a router was, so the broker brought again what was
    stored and not acknowledged: further receipts of what was accepted may say `duplicate`.
    """
    return [
        *(Check("sums", sum_.balances, str(sum_)) for sum_ in bus.sums),
        *(_sent_is_received(system, plant, bus, facts, killed=killed) for system in plant.books),
        *(_jobs_are_deliveries(mes, plant, bus) for mes in MES),
        *_documents_are_deliveries(plant, bus),
        *(_order_is_kept(mes, plant, bus, _by_key(plant.jobs(mes))) for mes in MES),
        _order_is_kept("erp", plant, bus, _by_external_id(plant, bus)),
        _only_the_expected_are_dead(bus, dead),
        _nothing_is_left_undone(bus, dead),
    ]


def reckon_events(plant: PlantBooks, bus: BusBooks, facts: Facts, *, attempts_allowed: int) -> list[Check]:
    """What the day did on purpose had the effect it must have. `attempts_allowed`: sends to P200 while it is down."""
    return [
        *_outage_cost_others_nothing(bus, facts, attempts_allowed),
        _lost_answer_is_booked_once(plant, bus, facts),
        _locked_order_was_retried(plant, bus, facts),
        _tokens_were_renewed(plant),
    ]


# --- what was sent ---------------------------------------------------------------------------------------------------


def _sent_is_received(system: str, plant: PlantBooks, bus: BusBooks, facts: Facts, *, killed: bool) -> Check:
    """Each publication was received exactly once, and became what it had to become."""
    published = plant.published(system)
    sent = Counter(str(row["message_id"]) for row in published if row["state"] == "confirmed")
    expected: Counter[tuple[str, str]] = Counter()
    for message_id, times in sent.items():
        kinds = {kind: many for (s, m, kind), many in facts.not_accepted.items() if (s, m) == (system, message_id)}
        expected.update({(message_id, kind): many for kind, many in kinds.items()})
        expected[message_id, "accepted"] += times - sum(kinds.values())
    found: Counter[tuple[str, str]] = Counter()
    found.update((m["message_id"], "accepted") for m in bus.messages.values() if _came_from(m, system))
    found.update((r["message_id"], r["kind"]) for r in bus.receipts if r["system"] == system)
    again = Counter({key: many for key, many in (found - expected).items() if key[1] == "duplicate"})
    wrong = (+expected - found) + (found - expected) - (again if killed else Counter())
    unconfirmed = [row["message_id"] for row in published if row["state"] != "confirmed"]
    kinds_found = Counter[str]()
    for (_, kind), many in found.items():
        kinds_found[kind] += many
    figures = " + ".join(f"{many:,} {kind}" for kind, many in sorted(kinds_found.items()))
    figures = f"{len(published):,} sent, received as {figures}"
    if killed and again:
        figures += f" ({again.total()} brought again by the broker)"
    culprits = [f"{message_id}: {kind}" for message_id, kind in wrong] + [f"{m}: not confirmed" for m in unconfirmed]
    return _check(f"{system} → bus", culprits, figures)


def _came_from(message: Row, system: str) -> bool:
    return message["parent"] is None and message["system"] == system


# --- what was delivered ----------------------------------------------------------------------------------------------


def _jobs_are_deliveries(mes: str, plant: PlantBooks, bus: BusBooks) -> Check:
    """Each job of a MES is one delivery, under its key and, where the bus keeps it, the MES's own number."""
    jobs = Counter(str(job["idempotency_key"]) for job in plant.jobs(mes))
    delivered = bus.delivered_to(mes)
    culprits = _differences(jobs, Counter(str(d["key"]) for d in delivered), "job", "delivery")
    numbers = {job["idempotency_key"]: job["job_id"] for job in plant.jobs(mes)}
    for delivery in delivered:
        if delivery["document"] and delivery["document"] != numbers.get(delivery["key"]):
            culprits.append(f"delivery {delivery['id']} says {delivery['document']}, the book another number")
    return _check(f"bus → {mes}", culprits, f"{len(delivered):,} delivered = {jobs.total():,} jobs in its book")


def _documents_are_deliveries(plant: PlantBooks, bus: BusBooks) -> Iterator[Check]:
    """Each document of the ERP is one delivery, booked once, under the number the bus recorded."""
    documents = plant.documents
    booked = Counter(str(document["external_id"]) for document in documents)
    delivered = [(bus.external_id(d), d) for d in bus.delivered_to("erp")]
    culprits = _differences(booked, Counter(external_id for external_id, _ in delivered), "document", "delivery")
    yield _check("bus → erp", culprits, f"{len(delivered):,} delivered = {len(documents):,} documents in its book")
    twice = [f"{external_id} booked {many} times" for external_id, many in booked.items() if many > 1]
    yield _check("no double booking", twice, f"{len(booked):,} external ids, each booked exactly once")
    recorded = {external_id: delivery["document"] for external_id, delivery in delivered}
    culprits = [
        f"{document['external_id']}: booked as {_number(document)}, recorded as {number!r}"
        for document in documents
        if (number := recorded.get(document["external_id"])) != _number(document)
    ]
    yield _check("document numbers", culprits, f"{len(documents):,} numbers recorded as the ERP gave them")


def _number(document: Row) -> str:
    """As the bus writes it: a confirmation's group and count, a material document and its year."""
    if document["entity"] == CONFIRMATION:
        return str(document["number"])
    return f"{document['number']}/{document['year']}"


# --- the order -------------------------------------------------------------------------------------------------------


def _by_key(jobs: Sequence[Row]) -> Callable[[Row], int | None]:
    places = {job["idempotency_key"]: int(job["n"]) for job in jobs}
    return lambda delivery: places.get(delivery["key"])


def _by_external_id(plant: PlantBooks, bus: BusBooks) -> Callable[[Row], int | None]:
    places = {document["external_id"]: int(document["n"]) for document in plant.documents}
    return lambda delivery: places.get(bus.external_id(delivery))


def _order_is_kept(
    endpoint: str, plant: PlantBooks, bus: BusBooks, place_in_book: Callable[[Row], int | None]
) -> Check:
    """Per key the target's book has the order of acceptance, and that is the order in which the source wrote it."""
    lanes: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for delivery in bus.delivered_to(endpoint):
        message = bus.received_message(delivery)
        here = place_in_book(delivery)
        if here is not None:
            lanes[delivery["subject"]].append((plant.place_of[message["system"], message["message_id"]], here))
    culprits = [key for key, places in lanes.items() if not _rises(places)]
    many = sum(len(places) > 1 for places in lanes.values())
    return _check(f"order at {endpoint}", culprits, f"{len(lanes):,} keys, {many:,} of them with several, all in order")


def _rises(places: Sequence[tuple[int, int]]) -> bool:
    """In lane order: never back at the source, always onwards at the target."""
    return all(one[0] <= next_[0] and one[1] < next_[1] for one, next_ in pairwise(places))


# --- the dead --------------------------------------------------------------------------------------------------------


def _only_the_expected_are_dead(bus: BusBooks, expected: Collection[tuple[str, str]]) -> Check:
    dead = Counter((str(d["subject"]), str(d["cause"])) for d in bus.deliveries.values() if d["state"] == "DEAD")
    culprits = [f"{key}: {cause} was not expected" for key, cause in dead - Counter(expected)]
    culprits += [f"{key}: {cause} is missing" for key, cause in Counter(expected) - dead]
    listed = ", ".join(f"{key}: {cause}" for key, cause in dead)
    return _check("dead letters", culprits, f"{listed}; exactly what was expected" if listed else "none, as expected")


def _nothing_is_left_undone(bus: BusBooks, dead: Collection[tuple[str, str]]) -> Check:
    """What has not ended waits behind something dead."""
    blocked = {key for key, _ in dead}
    open_ = [d for d in bus.deliveries.values() if d["state"] not in ("DELIVERED", "DISCARDED", "DEAD")]
    culprits = [f"delivery {d['id']} is {d['state']}" for d in open_ if d["subject"] not in blocked]
    return _check("nothing left undone", culprits, f"{len(open_)} open, each behind something dead")


# --- what the day did on purpose -------------------------------------------------------------------------------------


def _outage_cost_others_nothing(bus: BusBooks, facts: Facts, attempts_allowed: int) -> Iterator[Check]:
    outage = facts.outage
    if outage is None:
        yield Check("outage of P200", False, "there was none")
        return
    attempts = [
        a
        for a in bus.attempts
        if bus.deliveries[a["delivery"]]["destination"] == "mes-p200"
        and a["stage"] == "send"
        and outage.began < a["began_at"] < outage.ended
    ]
    figures = (
        f"{outage.held} held, {outage.delivered_meanwhile:,} delivered to all others; "
        f"calls to P200 while it was down: {len(attempts)} by deliveries, {outage.checks} checks"
    )
    yield Check("outage of P200", len(attempts) <= attempts_allowed and outage.delivered_meanwhile > 0, figures)


def _lost_answer_is_booked_once(plant: PlantBooks, bus: BusBooks, facts: Facts) -> Check:
    """The posting whose answer was lost was in doubt, probed, found, and stands in the ERP's book once."""
    unanswered = [r for r in plant.requests("erp") if r["status"] == 0 and "booked" in r["note"]]
    of_order = [r for r in unanswered if r["order_number"] == facts.lost_answer_order]
    if len(of_order) != 1:
        return Check("lost answer", False, f"{len(of_order)} postings of {facts.lost_answer_order} stayed unanswered")
    external_id = of_order[0]["external_id"]
    documents = [d for d in plant.documents if d["external_id"] == external_id]
    delivery = next((d for d in bus.delivered_to("erp") if bus.external_id(d) == external_id), None)
    outcomes = [a["outcome"] for a in bus.attempts if delivery and a["delivery"] == delivery["id"]]
    posted = documents[0]["requests"] if documents else 0
    holds = len(documents) == 1 and posted == 1 and outcomes == ["doubt", "probe: found"]
    said = f"posted {posted} time, booked {len(documents)} time, then: {', '.join(outcomes)}"
    return Check("lost answer", holds, f"confirmation {external_id}: {said}")


def _locked_order_was_retried(plant: PlantBooks, bus: BusBooks, facts: Facts) -> Check:
    refused = [r for r in plant.requests("erp") if r["status"] == 423]
    strangers = {r["order_number"] for r in refused} - {facts.locked_order}
    booked = sum(d["order_number"] == facts.locked_order for d in plant.documents)
    holds = len(refused) >= 2 and not strangers and booked > 0
    return Check("locked order", holds, f"{len(refused)} refusals with 423, then {booked} documents of it, in order")


def _tokens_were_renewed(plant: PlantBooks) -> Check:
    refused = [r for r in plant.requests("erp") if r["status"] == 403]
    return Check("CSRF tokens", bool(refused), f"{len(refused)} postings refused after they expired, and sent again")


def _differences(book: Counter[str], ledger: Counter[str], theirs: str, ours: str) -> list[str]:
    only_there = [f"{theirs} {key} without a {ours}" for key in book - ledger]
    return only_there + [f"{ours} {key} without a {theirs}" for key in ledger - book]


def _check(subject: str, culprits: Sequence[Any], figures: str) -> Check:
    if not culprits:
        return Check(subject, True, figures)
    more = f" … and {len(culprits) - NAMED} more" if len(culprits) > NAMED else ""
    return Check(subject, False, f"{figures}; wrong: {'; '.join(map(str, culprits[:NAMED]))}{more}")
