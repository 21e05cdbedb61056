"""The checker: after heal and drain, what store and targets say is held against what is known to be true.

I1 every confirmed message has exactly the receipts, deliveries and ends it must have. I2 at most one effect of a
delivery, and no silent repeat where the target forgets keys. I3 order per key at the target. I4 nothing is under way.
I5 journal and attempts explain every state. It is never loosened to let a run pass.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from sqlalchemy import func, select

from bus.model.delivery import ENDED, State
from bus.model.message import BUS
from bus.pipeline.plan import REENTRY
from bus.store import tables as t
from bus.store.engine import Database
from bus.store.verify import verify
from tests.faults.workload import DEADLY, POISON, Expected, Truth
from tests.system.booking_target import BookingTarget, Entry, Posted

Invariant = Literal["I1", "I2", "I3", "I4", "I5"]
MOVING = ("READY", "CLAIMED", "SENDING", "RETRYING")


@dataclass(frozen=True)
class Finding:
    """Something that must not be."""

    invariant: Invariant
    text: str

    @property
    def verdict(self) -> str:
        return {"I1": "lost", "I3": "out of order"}.get(self.invariant, "unexplained")

    def __str__(self) -> str:
        return f"{self.invariant} ({self.verdict}): {self.text}"


@dataclass(frozen=True)
class Book:
    """What a target says happened to it."""

    remembers_keys: bool
    entries: Sequence[Entry]
    posts: Sequence[Posted]


def books_of(**targets: BookingTarget) -> dict[str, Book]:
    return {
        name: Book(target.remembers_keys, tuple(target.book), tuple(target.posted)) for name, target in targets.items()
    }


@dataclass
class Records:
    """Everything the store says of the orders of one truth."""

    name: str
    messages: dict[int, Any] = field(default_factory=dict)
    receipts: list[Any] = field(default_factory=list)
    deliveries: dict[int, Any] = field(default_factory=dict)
    journal: dict[int, list[Any]] = field(default_factory=lambda: defaultdict(list))
    attempts: dict[int, list[Any]] = field(default_factory=lambda: defaultdict(list))

    @cached_property
    def of_message(self) -> dict[int, list[Any]]:
        found: dict[int, list[Any]] = defaultdict(list)
        for row in self.deliveries.values():
            found[row.message].append(row)
        return found

    @cached_property
    def children(self) -> dict[int, list[Any]]:
        """Messages by the delivery that made them."""
        found: dict[int, list[Any]] = defaultdict(list)
        for row in self.messages.values():
            if row.parent is not None:
                found[row.parent].append(row)
        return found

    @cached_property
    def sent(self) -> dict[tuple[str, str], Any]:
        """Deliveries by destination and idempotency key."""
        return {(row.destination, row.key): row for row in self.deliveries.values() if row.destination != BUS}

    def place(self, delivery: Any) -> tuple[int, int]:
        """Where its message stands in the order of acceptance: by the message received, then by what it was made."""
        message = self.messages[delivery.message]
        root = message
        while root.parent is not None:
            root = self.messages[self.deliveries[root.parent].message]
        return root.id, message.id

    def step(self, message: int) -> int:
        return int(json.loads(self.messages[message].body)["step"])


def records(database: Database, name: str) -> Records:
    """Read in one snapshot."""
    of_name = t.message.c.subject.like(f"order:{name}-%")
    in_name = t.delivery.join(t.message, t.message.c.id == t.delivery.c.message)
    found = Records(name)
    with database.read() as connection:
        for row in connection.execute(select(t.message).where(of_name).order_by(t.message.c.id)):
            found.messages[row.id] = row
        for row in connection.execute(select(t.delivery).select_from(in_name).where(of_name).order_by(t.delivery.c.id)):
            found.deliveries[row.id] = row
        for table, rows in ((t.journal, found.journal), (t.attempt, found.attempts)):
            joined = in_name.join(table, table.c.delivery == t.delivery.c.id)
            for row in connection.execute(select(table).select_from(joined).where(of_name).order_by(table.c.id)):
                rows[row.delivery].append(row)
        receipts = select(t.receipt).where(t.receipt.c.message_id.like(f"%{name}-%")).order_by(t.receipt.c.id)
        found.receipts = list(connection.execute(receipts))
    return found


def check(truth: Truth, database: Database, books: Mapping[str, Book], *, exact: bool = False) -> list[Finding]:
    """Everything that is wrong; `exact`: nothing may have come twice by itself, so every receipt has its publication.

    Where a connection was cut or a router ended, a message may have come again: then at least so many receipts.
    """
    found = records(database, truth.name)
    return [
        *_received(truth, found, exact=exact),
        *_ends(truth, found),
        *_repeated(truth, found),
        *_effects(truth, found, books),
        *_order(found, books),
        *_at_rest(found, database),
        *_explained(found),
        *(Finding("I1", each.text) for each in verify(database)),
    ]


# --- I1 --------------------------------------------------------------------------------------------------------------


def _received(truth: Truth, found: Records, *, exact: bool) -> Iterator[Finding]:
    """Receipts and messages of everything that was confirmed."""
    accepted = Counter(row.message_id for row in found.messages.values() if row.parent is None)
    receipts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in found.receipts:
        receipts[row.message_id][row.kind] += 1
    for message_id, expected in truth.expected.items():
        said = _receipts_due(truth, message_id, expected)
        got = receipts[message_id] + Counter(accepted=accepted[message_id])
        wrong = got != said if exact else not got >= said or set(got) - set(said) - _may_come_again(expected)
        # What was never confirmed may be there or not, but once.
        if truth.confirmed[message_id] and wrong:
            yield Finding("I1", f"{message_id}: confirmed means {dict(said)}, the store has {dict(got)}")
        if got["accepted"] > 1:
            yield Finding("I1", f"{message_id} was accepted {got['accepted']} times")
    for message_id in sorted((set(accepted) | set(receipts)) - set(truth.expected)):
        yield Finding("I5", f"nobody published {message_id}, the store has it")


def _receipts_due(truth: Truth, message_id: str, expected: Expected) -> Counter[str]:
    copies, conflicts = truth.confirmed[message_id], truth.conflicts[message_id]
    if not expected.is_valid:
        return Counter(invalid=copies)
    return +Counter(accepted=min(copies, 1), duplicate=copies - 1, conflict=conflicts)


def _may_come_again(expected: Expected) -> set[str]:
    return {"duplicate"} if expected.is_valid else {"invalid"}


def _ends(truth: Truth, found: Records) -> Iterator[Finding]:
    """Deliveries of every accepted message, and how they ended."""
    for message in found.messages.values():
        expected = truth.expected.get(message.message_id)
        if message.parent is not None or expected is None:
            continue
        yield from _ends_of(message, expected, found)


def _ends_of(message: Any, expected: Expected, found: Records) -> Iterator[Finding]:
    planned = _planned(message, found)
    carriers = [message]
    if expected.is_native:
        if [row.destination for row in planned] != [BUS]:
            yield Finding(
                "I1", f"{message.message_id} planned {[row.destination for row in planned]}, not the bus alone"
            )
            return
        yield from _is_delivered(planned[0], message, found)
        carriers = found.children[planned[0].id]
    steps = tuple(found.step(each.id) for each in carriers)
    if steps != expected.steps:
        yield Finding("I1", f"{message.message_id} stands for the steps {expected.steps}, the store has {steps}")
    for carrier in carriers:
        there = [row.destination for row in _planned(carrier, found)]
        if sorted(there) != sorted(expected.targets):
            yield Finding("I1", f"{carrier.message_id} goes to {expected.targets}, planned is {there}")
        for row in found.of_message[carrier.id]:
            yield from _is_delivered(row, carrier, found)


def _planned(message: Any, found: Records) -> list[Any]:
    """What receiving it planned: queueing up is no plan, and what a person repeats was not planned then."""
    return [row for row in found.of_message[message.id] if row.route != REENTRY and not row.replay]


def _repeated(truth: Truth, found: Records) -> Iterator[Finding]:
    """Repeats are those that a person ordered."""
    there: Counter[tuple[str, str, int]] = Counter(
        (row.destination, found.messages[row.message].subject.removeprefix("order:"), found.step(row.message))
        for row in found.deliveries.values()
        if row.replay
    )
    if there != truth.repeated:
        yield Finding("I1", f"repeated is {dict(there)}, ordered was {dict(truth.repeated)}")


def _is_delivered(delivery: Any, message: Any, found: Records) -> Iterator[Finding]:
    """Everything ends delivered; what is poison or deadly ends dead, and what stands behind it waits."""
    due = State.DELIVERED
    if found.step(message.id) in (POISON, DEADLY):
        due = State.DEAD
    elif any(other.state == State.DEAD for other in _before(delivery, found)):
        due = State.WAITING
    if delivery.state != due:
        what = f"delivery {delivery.id} of {message.message_id} to {delivery.destination}"
        yield Finding("I1", f"{what} is {delivery.state} {delivery.cause}, not {due}")


def _before(delivery: Any, found: Records) -> list[Any]:
    if delivery.lane is None:
        return []
    return [row for row in found.deliveries.values() if row.lane == delivery.lane and row.place < delivery.place]


# --- I2 --------------------------------------------------------------------------------------------------------------


def _effects(truth: Truth, found: Records, books: Mapping[str, Book]) -> Iterator[Finding]:
    for name, book in books.items():
        entries = [entry for entry in book.entries if entry.order.startswith(f"{found.name}-")]
        yield from _once(name, entries, truth)
        by_key = {entry.key: entry for entry in entries}
        for row in found.deliveries.values():
            if row.destination == name and row.state == State.DELIVERED and row.key not in by_key:
                yield Finding("I1", f"delivery {row.id} is DELIVERED, {name} never booked {row.key}")
        for entry in entries:
            yield from _belongs(name, entry, found)
        if not book.remembers_keys:
            yield from _repeats(name, book, found)


def _once(name: str, entries: Sequence[Entry], truth: Truth) -> Iterator[Finding]:
    if len({entry.key for entry in entries}) < len(entries):
        yield Finding("I2", f"{name} booked one key twice")
    for (order, step), times in Counter((entry.order, entry.step) for entry in entries).items():
        if times > 1 + truth.repeated[name, order, step]:
            yield Finding("I2", f"{name} booked step {step} of {order} {times} times")


def _belongs(name: str, entry: Entry, found: Records) -> Iterator[Finding]:
    row = found.sent.get((name, entry.key))
    what = f"{name} booked step {entry.step} of {entry.order} as {entry.number}"
    if row is None:
        yield Finding("I2", f"{what}: no delivery bears its key")
    elif row.state != State.DELIVERED:
        yield Finding("I2", f"{what}: delivery {row.id} is {row.state}")
    elif row.document != entry.number:
        yield Finding("I5", f"{what}: delivery {row.id} names the document {row.document!r}")


def _repeats(name: str, book: Book, found: Records) -> Iterator[Finding]:
    """A target that forgets keys is posted to again only after it is known that the first post was not booked."""
    for key, posts in Counter(post.key for post in book.posts if post.order.startswith(f"{found.name}-")).items():
        row = found.sent.get((name, key))
        if row is None:
            yield Finding("I2", f"{name} was posted {key}: no delivery bears that key")
            continue
        refused = sum(each.outcome == "fail" for each in found.attempts[row.id])
        absent = sum(each.act == "absent" for each in found.journal[row.id])
        if posts > 1 + refused + absent:
            known = f"{refused} refused and {absent} found absent"
            yield Finding("I2", f"{name} was posted delivery {row.id} {posts} times, {known}")


# --- I3 --------------------------------------------------------------------------------------------------------------


def _order(found: Records, books: Mapping[str, Book]) -> Iterator[Finding]:
    for name, book in books.items():
        booked: dict[str, list[tuple[tuple[int, int], int]]] = defaultdict(list)
        for entry in book.entries:
            row = found.sent.get((name, entry.key))
            if row is not None and not row.replay:  # a repeat goes to the tail
                booked[entry.order].append((found.place(row), entry.step))
        for order, line in booked.items():
            if line != sorted(line):
                yield Finding(
                    "I3", f"{name} booked {order} as {[step for _, step in line]}, accepted was another order"
                )
            elif (steps := [step for _, step in line]) != sorted(steps):
                yield Finding("I3", f"{name} booked {order} as {steps}, published was another order")


# --- I4 --------------------------------------------------------------------------------------------------------------


def _at_rest(found: Records, database: Database) -> Iterator[Finding]:
    for row in found.deliveries.values():
        if row.state in MOVING or row.worker:
            yield Finding("I4", f"delivery {row.id} to {row.destination} is {row.state}, worker {row.worker!r}")
    with database.read() as connection:
        openings = connection.execute(select(func.count()).select_from(t.opening)).scalar_one()
    if openings:
        yield Finding("I4", f"{openings} messages are noted as being opened")


# --- I5 --------------------------------------------------------------------------------------------------------------


def _explained(found: Records) -> Iterator[Finding]:
    for row in found.deliveries.values():
        # A repeat stands in the journal of the delivery that is repeated, with the state of the new one.
        journal = [each for each in found.journal[row.id] if each.act != "repeat"]
        attempts = found.attempts[row.id]
        what = f"delivery {row.id} to {row.destination}"
        ends = [each for each in journal if each.new in ENDED]
        if row.state in ENDED and (not ends or ends[-1].new != row.state):
            yield Finding("I5", f"{what} is {row.state}, the journal says {[each.new for each in ends]}")
        if row.state == State.DEAD and ends and ends[-1].cause != row.cause:
            yield Finding("I5", f"{what} is DEAD by {row.cause}, the journal says {ends[-1].cause}")
        outcomes = [each.outcome for each in attempts]
        if row.destination != BUS and row.state == State.DELIVERED:
            told = any(each.act == "found" for each in journal)
            if not told and not {"succeed", "probe: found"} & set(outcomes):
                yield Finding("I5", f"{what} is DELIVERED, its attempts say {outcomes}")
        doubts = [each for each in attempts if each.outcome == "doubt" and not each.late]
        if len([each for each in journal if each.new == State.IN_DOUBT]) < len(doubts):
            yield Finding("I5", f"{what} was in doubt {len(doubts)} times, the journal does not know")
        for at, each in enumerate(journal[1:], start=1):
            before = journal[at - 1].new
            if before in (State.DELIVERED, State.DISCARDED):
                yield Finding("I5", f"{what} went from {before} to {each.new}")
    repeats = Counter((row.message, row.route, row.part) for row in found.deliveries.values() if row.replay)
    ordered = Counter(
        (row.message, row.route, row.part)
        for row in found.deliveries.values()
        for each in found.journal[row.id]
        if each.act == "repeat"
    )
    for message, route, part in (repeats - ordered) | (ordered - repeats):
        yield Finding("I5", f"repeats of message {message}, route {route}, part {part} are not those of the journal")
