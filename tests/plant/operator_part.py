"""The operator's part, by the real command line: why it died, correct, replay; nothing in doubt; one order's trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from bus.model.delivery import State
from bus.store import tables as t
from tests.plant.bus_run import ask
from tests.plant.day import PATIENCE, Facts, until_over
from tests.plant.launch import PlantTrouble
from tests.plant.stage import Stage
from tests.plant.watch import Watch


@dataclass(frozen=True)
class Typed:
    """A command and what it printed."""

    words: Sequence[str]
    output: str


class Operator:
    """Types commands of `bus`; `shown` gets each with its output."""

    def __init__(
        self, stage: Stage, watch: Watch, facts: Facts, *, columns: int, shown: Callable[[Typed], None]
    ) -> None:
        self._columns = columns
        self._stage = stage
        self._watch = watch
        self._facts = facts
        self._shown = shown

    def replay_what_died(self) -> None:
        """The order whose material P100 did not know: corrected there, replayed, and what waited behind it follows.

        Raises:
            PlantTrouble: a command refused, or the lane did not drain.
        """
        number = self._dead()
        self.type("dead", "list")
        self.type("dead", "show", str(number))
        self._stage.plant.mes_p100.command("correct", order=self._facts.unknown_order)
        self.type("dead", "replay", str(number), "--reason", "material master at P100 corrected")
        self._watch.until(
            lambda seen: not seen.dead and not seen.blocked,
            within=PATIENCE,
            what=f"delivery {number} was replayed and its lane drained",
        )
        until_over(self._stage.plant.systems, self._watch)
        self.type("dead", "list")

    def see_that_nothing_is_in_doubt(self) -> None:
        """The posting whose answer was lost was probed and found: nobody has to decide anything.

        Raises:
            PlantTrouble: something is in doubt.
        """
        if self._watch.latest.count(State.IN_DOUBT):
            raise PlantTrouble("something is in doubt, and nothing should be")
        self.type("doubt", "list")

    def trace_an_order(self) -> None:
        """One order from the ERP's message to the last document number: the one whose answer was lost."""
        m = t.message.c
        subject = f"order:{self._facts.lost_answer_order}"
        first = select(m.id).where(m.subject == subject, m.parent.is_(None)).order_by(m.id).limit(1)
        (row,) = self._stage.ledger.rows(first)
        self.type("message", "trace", str(row["id"]))

    def prove_the_ledger(self) -> None:
        """`bus status --verify`: every sum, message by message.

        Raises:
            PlantTrouble: one does not hold.
        """
        self.type("status", "--verify")

    def type(self, *words: str) -> str:
        """Type it, show it; what it printed on stdout.

        Raises:
            PlantTrouble: it did not end with 0.
        """
        done = ask(*words, environment=self._stage.environment, columns=self._columns)
        self._shown(Typed(words, (done.stdout + done.stderr).rstrip()))
        if done.returncode:
            raise PlantTrouble(f"bus {' '.join(words)} ended with exit code {done.returncode}")
        return done.stdout

    def _dead(self) -> int:
        d = t.delivery.c
        found = self._stage.ledger.rows(select(d.id).where(d.state == str(State.DEAD)).order_by(d.id))
        if len(found) != 1:
            raise PlantTrouble(f"one dead delivery was expected, found {len(found)}")
        return int(found[0]["id"])
