"""Large steps and a route that copies them whole; as a process of its own it works off those in a store.

It prints by how many bytes it grew at the most while it did so.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bus.errors import Exchange
from bus.model.document import write_json
from bus.model.message import Message, Opened, Outgoing
from bus.model.predicate import on
from bus.model.route import Route
from bus.model.transformer import TransformContext, transformer
from bus.ports import Adapter, Answer, Parcel
from bus.store.engine import Database
from bus.store.sqlstore import SqlStore
from tests.conformance.stages import a_bus
from tests.small_project import SOON, a_step

MEGABYTE = 1_000_000


@transformer(takes="test.step.v1", makes="target.step.v1")
def whole(opened: Opened, context: TransformContext) -> Outgoing:
    """The document as it is."""
    return Outgoing(type="target.step.v1", body=write_json(dict(opened.document)))


WHOLE = Route(name="whole-steps", when=on("test.step.v1"), to="target", transform=whole, retry=SOON)


def a_large_step(order: str = "4711", step: int | None = None, *, size: int = MEGABYTE) -> Message:
    """A step whose body is a little larger than `size` bytes."""
    return a_step(order, step, document={"note": "x" * size})


class Taker:
    """Takes everything and keeps nothing; answers with what it was sent."""

    remembers_keys = True

    def send(self, parcel: Parcel) -> Answer:
        return Answer(exchange=Exchange(sent=parcel.message.body))

    def close(self) -> None:
        return


class TakerOfMany(Taker):
    """As Taker, several at a time."""

    def send_many(self, parcels: list[Parcel]) -> list[Answer]:
        return [self.send(parcel) for parcel in parcels]


def _bytes_of(name: str) -> int:
    """A line of this process's status that counts kB: VmRSS is what it has in memory, VmHWM the most it ever had."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


def work_off(address: str, adapter: Adapter) -> int:
    """Transform and send everything; returns by how many bytes this process grew at the most."""
    database = Database(address)
    bus = a_bus(SqlStore(database), WHOLE, adapters={"target": adapter})
    before = _bytes_of("VmRSS")
    bus.run_until_idle()
    database.close()
    return _bytes_of("VmHWM") - before


if __name__ == "__main__":
    print(work_off(sys.argv[1], TakerOfMany() if sys.argv[2] == "many" else Taker()))  # noqa: T201  # the answer
