"""The README's pictures, drawn from the code: `python -m tests.project.pictures --write` puts them into README.md."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from bus.model.delivery import FINAL, TRANSITIONS, State
from bus.model.envelope import EXCHANGE as IN
from bus.model.message_class import MessageClass
from bus.model.topology import DEAD, OUT, UNROUTED, Topology
from bus.project import Project, load_project, topology_of

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
COMMAND = "python -m tests.project.pictures --write"

BEGIN = {State.WAITING: "planned", State.READY: "planned, unordered", State.DEAD: "planned, its condition raised"}
"""Where a delivery begins; see bus.pipeline.plan.new_delivery."""


def delivery_states() -> str:
    """The state machine of bus.model.delivery as a mermaid diagram; one arrow for each pair of states."""
    arrows: dict[tuple[State, State], list[str]] = {}
    for (state, event), following in TRANSITIONS.items():
        arrows.setdefault((state, following), []).append(event.value)
    lines = ["stateDiagram-v2"]
    lines += [f"    [*] --> {state}: {why}" for state, why in BEGIN.items()]
    lines += [f"    {state} --> {following}: {' / '.join(events)}" for (state, following), events in arrows.items()]
    lines += [f"    {state} --> [*]" for state in State if state in FINAL]
    return _fenced(lines)


def flow(project: Project) -> str:
    """The way of a message through the project's topology as a mermaid flowchart."""
    return _fenced(["flowchart LR", *(f"    {line}" for line in _flow(project, topology_of(project)))])


def _flow(project: Project, topology: Topology) -> Iterator[str]:
    settings = project.settings
    for system in settings.systems.values():
        if system.publishes:
            yield _node(f"from {system.name}", f"{system.name} ({system.role})", *system.publishes)
            yield f"{_id(f'from {system.name}')} -->|as its own user| {_id(IN)}"
    yield _node(IN, f"exchange {IN}", "site.system.type")
    for name in (UNROUTED, DEAD):
        yield _node(name, f"queue {name}")
    yield f"{_id(IN)} -.->|no contract| {_id(UNROUTED)}"
    for message_class in MessageClass:
        yield from _of_class(message_class, topology)
    yield f"{_id(UNROUTED)} -.->|recorded| {_id('store')}"
    yield f"{_id(DEAD)} -.->|recorded| {_id('store')}"
    yield f'{_id("store")}[("store<br/>messages · deliveries · attempts · journal")]'
    yield _node("relay", "relay", "what is due, unattended, orphaned")
    yield f"{_id('store')} <--> {_id('relay')}"
    for endpoint in settings.endpoints.values():
        name = f"to {endpoint.name}"
        adapter = endpoint.adapter.rpartition(":")[2]
        yield _node(endpoint.queue, f"worker {endpoint.queue}", f"adapter {adapter}")
        yield f"{_id('store')} <-->|claim, settle| {_id(endpoint.queue)}"
        yield _node(name, f"exchange {OUT}" if endpoint.adapter == "amqp" else f"{endpoint.system} over HTTP")
        yield f"{_id(endpoint.queue)} --> {_id(name)}"


def _of_class(message_class: MessageClass, topology: Topology) -> Iterator[str]:
    queues = [queue.name for queue in topology.queues if queue.name.startswith(f"{IN}.{message_class}.")]
    router, worker = f"router {message_class}", f"transform.{message_class}"
    yield _node(queues[0], *(f"queue {name}" for name in queues))
    yield _node(router, router, "check, store, plan, acknowledge")
    yield _node(worker, f"worker {worker}")
    yield f"{_id(IN)} -->|{message_class}s| {_id(queues[0])} --> {_id(router)}"
    yield f"{_id(router)} -->|one transaction| {_id('store')}"
    yield f"{_id('store')} <-->|claim, settle| {_id(worker)}"


def _node(name: str, *lines: str) -> str:
    return f'{_id(name)}["{"<br/>".join(lines)}"]'


def _id(name: str) -> str:
    return re.sub(r"\W+", "_", name)


def _fenced(lines: Iterable[str]) -> str:
    return "\n".join(["```mermaid", *lines, "```"])


# --- the README ------------------------------------------------------------------------------------------------------


def pictures(project: Project) -> dict[str, str]:
    """Every drawn picture by the name its markers in the README bear."""
    return {"flow": flow(project), "delivery-states": delivery_states()}


def with_pictures(text: str, drawn: dict[str, str]) -> str:
    """The text with the pictures between their markers.

    Raises:
        LookupError: the text has no markers, or more than one pair, for a picture.
    """
    for name, picture in drawn.items():
        begin, end = f"<!-- {name}: drawn by {COMMAND} -->", f"<!-- end of {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise LookupError(f"{begin} and {end} must each stand once")
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{picture}\n{end}{rest.partition(end)[2]}"
    return text


def main() -> int:
    """Write the README's pictures anew, or say whether they are current."""
    found = README.read_text(encoding="utf-8")
    wanted = with_pictures(found, pictures(load_project(ROOT)))
    if "--write" in sys.argv[1:]:
        README.write_text(wanted, encoding="utf-8")
    elif found != wanted:
        sys.stderr.write(f"README.md: a picture is out of date; type {COMMAND}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
