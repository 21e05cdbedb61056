"""The live view of a plant day; plain lines of progress where the output is no terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from bus.model.delivery import State
from tests.plant.ledger import Snapshot
from tests.plant.story import Entry, Story

SPAN = 3.0
"""Rates are taken over this many seconds."""

PROGRESS = 5.0
"""Seconds between two lines of progress where there is no live view."""

TOLD = 9
"""Entries of the story that are shown."""


class View:
    """Shows looks at the ledger and the story, while the block runs."""

    def __init__(self, console: Console, *, destinations: Mapping[str, str]) -> None:
        """`destinations`: route → endpoint, in the order to be shown."""
        self.story = Story(tell=self._told)
        self.picture: RenderableType | None = None
        self._console = console
        self._destinations = destinations
        self._looks: deque[Snapshot] = deque()
        self._progress_at = 0.0
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._is_shown = False

    def __enter__(self) -> Self:
        self._is_shown = True
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_shown = False
        if self._live is not None:
            self._live.stop()

    def show(self, seen: Snapshot) -> None:
        """Take a look in; called by the watch."""
        if not self._is_shown:
            return
        self.story.notice(seen)
        self._looks.append(seen)
        while len(self._looks) > 2 and seen.at - self._looks[1].at > SPAN:
            self._looks.popleft()
        if self._live is not None:
            self._live.update(self.drawn(), refresh=True)
        elif self.story.seconds >= self._progress_at:
            self._progress_at = self.story.seconds + PROGRESS
            self._console.print(Text(f"{'':9}{seen}", style="dim"), soft_wrap=True)

    def keep_picture(self) -> None:
        """Keep how it looks now, for the README."""
        self.picture = self.drawn()

    def drawn(self) -> RenderableType:
        """The newest look as a picture."""
        if not self._looks:
            return Text("")
        seen, before = self._looks[-1], self._looks[0]
        side = Table.grid(padding=(0, 3))
        side.add_row(self._flows(seen, before), Group(self._endpoints(seen, before), _trouble(seen)))
        told = [Text(str(entry), no_wrap=True, overflow="ellipsis") for entry in self.story.entries[-TOLD:]]
        title = f"plantbus · a plant day · {int(self.story.seconds) // 60:02d}:{int(self.story.seconds) % 60:02d}"
        sums = [Text(line, style="dim") for line in seen.sums]
        return Panel(
            Group(side, Text(""), *sums, Text(""), *told), title=title, title_align="left", border_style="blue"
        )

    def _told(self, entry: Entry) -> None:
        if self._live is None:
            self._console.print(Text(str(entry)), soft_wrap=True)

    def _flows(self, seen: Snapshot, before: Snapshot) -> Table:
        table = _table("Flow", "delivered", "open", "per s")
        for route in self._destinations:
            delivered = seen.of_route(route, "delivered")
            rate = _rate(seen, before, delivered - before.of_route(route, "delivered"))
            table.add_row(route, f"{delivered:,}", _number(seen.of_route(route, "open")), rate)
        received = seen.total("received")
        entering = _number(seen.total("entering"))
        table.add_section()
        table.add_row(
            "received from the plant",
            f"{received:,}",
            entering,
            _rate(seen, before, received - before.total("received")),
        )
        delivered = seen.total("delivered")
        table.add_row(
            "delivered",
            f"{delivered:,}",
            _number(seen.total("open")),
            _rate(seen, before, delivered - before.total("delivered")),
        )
        return table

    def _endpoints(self, seen: Snapshot, before: Snapshot) -> Table:
        table = _table("Endpoint", "state", "held", "running", "retrying", "per s")
        for name, endpoint in seen.endpoints.items():
            held = 0 if endpoint.is_open else endpoint.count(State.READY)
            delivered = self._delivered_to(name, seen) - self._delivered_to(name, before)
            table.add_row(
                name,
                Text(endpoint.state, style="green" if endpoint.is_open else "bold red"),
                Text(_number(held), style="bold yellow"),
                _number(endpoint.count(State.CLAIMED, State.SENDING)),
                _number(endpoint.count(State.RETRYING)),
                _rate(seen, before, delivered),
            )
        return table

    def _delivered_to(self, endpoint: str, seen: Snapshot) -> int:
        return sum(seen.of_route(route, "delivered") for route, to in self._destinations.items() if to == endpoint)


def _trouble(seen: Snapshot) -> RenderableType:
    lines = [Text("")]
    kinds = [
        f"{kind} {seen.total(kind)}" for kind in ("invalid", "refused", "conflict", "duplicate") if seen.total(kind)
    ]
    lines.append(Text("Not accepted: " + (", ".join(kinds) or "none")))
    dead = ", ".join(f"{many} {cause}" for cause, many in seen.dead.items())
    lines.append(Text(f"Dead: {dead or 'none'}", style="bold red" if dead else ""))
    lines.append(Text(f"Lanes blocked: {len(seen.blocked) or 'none'}", style="yellow" if seen.blocked else ""))
    lines += [
        Text(f"  {lane.name}  {lane.state}, {lane.behind} behind it", style="yellow") for lane in seen.blocked[:4]
    ]
    return Group(*lines)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold cyan")
    table.add_column(first, no_wrap=True)
    for title in others:
        table.add_column(title, justify="left" if title == "state" else "right", no_wrap=True)
    return table


def _number(value: int) -> str:
    return f"{value:,}" if value else "·"


def _rate(seen: Snapshot, before: Snapshot, difference: int) -> str:
    span = seen.at - before.at
    return f"{difference / span:,.0f}" if span and difference > 0 else "·"
