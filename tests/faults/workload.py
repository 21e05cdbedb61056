"""A workload with known truth: what is published, in which order, what was confirmed, and what must become of it."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from bus.client import Fact, connect
from bus.errors import BrokerUnavailable
from tests.system.booking_target import Act
from tests.system.running_bus import CANONICAL, NATIVE, RunningBus, a_step

POISON = 666
"""The step that no posting can be made of."""

DEADLY = 667
"""The step that ends the process which makes a posting of it."""

BATCH = 8
PATIENCE = timedelta(seconds=5)
_TARGETS = (("keeper",), ("ledger",), ("keeper", "ledger"), ("archive",), ("keeper", "ledger", "archive"))
PUBLISHERS = 2


@dataclass(frozen=True)
class Expected:
    """What must become of a message: invalid, or so many canonical steps, each delivered to these targets."""

    order: str
    steps: tuple[int, ...]
    targets: tuple[str, ...]
    is_native: bool = False
    is_valid: bool = True


@dataclass(frozen=True)
class Publication:
    """One thing a publisher says; `conflicts`: with another content than what stands under its id."""

    fact: Fact
    conflicts: bool = False


@dataclass
class Truth:
    """What was said and confirmed, by message id. `name`: the orders of this truth begin with it, and nobody else's.

    Thread-safe.
    """

    name: str
    expected: dict[str, Expected] = field(default_factory=dict)
    confirmed: Counter[str] = field(default_factory=Counter)
    conflicts: Counter[str] = field(default_factory=Counter)
    """Confirmed copies with another content."""
    repeated: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    """(target, order, step) → times that a person had it repeated after it was delivered."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def confirm(self, publication: Publication) -> None:
        with self._lock:
            counts = self.conflicts if publication.conflicts else self.confirmed
            counts[publication.fact.message_id] += 1

    def expect_step(self, fact: Fact, step: int) -> None:
        """A canonical step to keeper, of an order of which nobody else speaks, that was confirmed."""
        self.expected[fact.message_id] = Expected(fact.subject.removeprefix("order:"), (step,), ("keeper",))
        self.confirm(Publication(fact))

    def expect_last(self, fact: Fact) -> None:
        """A canonical step 0 of an order of its own, to keeper, that was confirmed after everything else."""
        self.expect_step(fact, 0)

    @property
    def received(self) -> int:
        """How many copies the bus must have received, at least."""
        with self._lock:
            return self.confirmed.total() + self.conflicts.total()


@dataclass
class Workload:
    """Publications by order, and how the targets misbehave on their way; all of it follows from the seed."""

    truth: Truth
    by_order: list[list[Publication]]
    random: random.Random

    @property
    def publications(self) -> list[Publication]:
        """Those of all orders, mixed; of each order in its own sequence."""
        left = [list(reversed(each)) for each in self.by_order if each]
        mixed = []
        while left:
            chosen = self.random.choice(left)
            mixed.append(chosen.pop())
            left = [each for each in left if each]
        return mixed

    def add(self, order: str, fact: Fact, *, targets: tuple[str, ...], step: int) -> None:
        """Have one more canonical step said, after everything else of its order."""
        self.truth.expected[fact.message_id] = Expected(order, (step,), targets)
        number = int(order.rpartition("-")[2])
        self.by_order[number].append(Publication(fact))

    def publishers(self) -> list[list[Publication]]:
        """What each publisher says; an order has one publisher."""
        parts = [self.by_order[number::PUBLISHERS] for number in range(PUBLISHERS)]
        return [replace(self, by_order=part).publications for part in parts]


def workload(bus: RunningBus, *, seed: int, name: str, orders: int = 6, steps: int = 6) -> Workload:
    """Make one up, and tell the targets of the bus how to misbehave.

    One order in six has a step that kills its transform; of all messages about one in eight is said again, one in
    twelve is invalid, one in twelve has its id stand for another content before; some are answered slowly, refused
    once, or booked without an answer.
    """
    chance = random.Random(seed)
    truth = Truth(name)
    by_order = []
    for number in range(orders):
        order = f"{name}-{number}"
        targets = _TARGETS[number % len(_TARGETS)]
        poisoned = number % 6 == 5
        said: list[Publication] = []
        step = 0
        for turn in range(steps):
            is_native = not poisoned and chance.random() < 0.3
            parts = chance.choice((1, 1, 2, 3)) if is_native else 1
            if poisoned and turn == steps // 2:
                fact = a_step(order, POISON, *targets)
                made: tuple[int, ...] = (POISON,)
            else:
                more = {"parts": parts} if is_native else {}
                fact = a_step(order, step, *targets, type_name=NATIVE if is_native else CANONICAL, **more)
                made = tuple(range(step, step + parts))
                step += parts
            truth.expected[fact.message_id] = Expected(order, made, targets, is_native=is_native)
            said.append(Publication(fact))
            said += _besides(fact, order, turn, chance, truth)
            _misbehave(bus, order, made[0], targets, chance)
        by_order.append(said)
    return Workload(truth, by_order, chance)


def _besides(fact: Fact, order: str, turn: int, chance: random.Random, truth: Truth) -> list[Publication]:
    """A copy, an invalid message, another content under the same id, or nothing."""
    drawn = chance.random()
    if drawn < 1 / 8:
        return [Publication(fact)]
    if drawn < 1 / 8 + 1 / 12:
        invalid = Fact(
            type=CANONICAL, body=b"{not JSON", subject=f"order:{order}", message_id=f"invalid {order}-{turn}"
        )
        truth.expected[invalid.message_id] = Expected(order, (), (), is_valid=False)
        return [Publication(invalid)]
    if drawn < 1 / 8 + 2 / 12:
        other = a_step(order, 99_999, type_name=fact.type)
        return [Publication(replace(other, message_id=fact.message_id), conflicts=True)]
    return []


def _misbehave(bus: RunningBus, order: str, step: int, targets: Sequence[str], chance: random.Random) -> None:
    drawn = chance.random()
    target = chance.choice(targets)
    acts: tuple[Act | int, ...] = ()
    if drawn < 0.08:
        acts = (Act.SLOW,)
    elif drawn < 0.16:
        acts = (503,)
    elif drawn < 0.22 and target != "archive":
        acts = (Act.BOOK_THEN_CUT,)
    if acts:
        {"keeper": bus.keeper, "ledger": bus.ledger, "archive": bus.archive}[target].will(order, step, *acts)


class Publishing:
    """Publishers at work, each in a thread: every publication again and again until it is confirmed.

    `pause`: after each batch.
    """

    def __init__(
        self, load: Workload, url: str, *, patience: timedelta = PATIENCE, pause: timedelta = timedelta(0)
    ) -> None:
        self._truth = load.truth
        self._url = url
        self._patience = patience
        self._pause = pause.total_seconds()
        self._given_up = threading.Event()
        self._threads = [
            threading.Thread(target=self._publish, args=(said,), name=f"publisher {number}", daemon=True)
            for number, said in enumerate(load.publishers())
        ]
        self.unconfirmed: list[str] = []
        """Message ids that were given up."""
        self.refused = 0
        """Outcomes that said that the broker could not keep the message just now."""
        for thread in self._threads:
            thread.start()

    def finish(self, *, within: float) -> None:
        """Return when everything is confirmed."""
        for thread in self._threads:
            thread.join(within)
        self.give_up()
        assert not self.unconfirmed, f"never confirmed: {self.unconfirmed[:5]}"

    def give_up(self) -> None:
        """Return when nobody publishes any more."""
        self._given_up.set()
        for thread in self._threads:
            thread.join()

    def _publish(self, said: Sequence[Publication]) -> None:
        left = list(said)
        while left and not self._given_up.is_set():
            try:
                # The line is closed with nothing kept: what it could not have confirmed is said again here.
                with connect(self._url, system="mes", site="P1", patience=self._patience) as line:
                    while left and not self._given_up.is_set():
                        batch = left[:BATCH]
                        outcomes = line.publish_many([each.fact for each in batch])
                        for each, outcome in zip(batch, outcomes, strict=True):
                            if outcome is None:
                                self._truth.confirm(each)
                            elif not isinstance(outcome, BrokerUnavailable):
                                raise outcome
                            else:
                                self.refused += "could not keep" in str(outcome)
                        unknown = [at for at, outcome in enumerate(outcomes) if outcome is not None]
                        # From the first unknown one on, so that nothing is said after what comes behind it.
                        left = left[unknown[0] if unknown else len(batch) :]
                        self._given_up.wait(self._pause)
            except BrokerUnavailable:
                self._given_up.wait(0.2)
        self.unconfirmed += [each.fact.message_id for each in left]
