"""The end of the day on paper: routes with their latency, the reckoning, what an operator typed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta

from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from bus.model.message import BUS
from tests.plant.books import BusBooks
from tests.plant.operator_part import Typed
from tests.plant.reckoning import Check


def routes_table(bus: BusBooks) -> RenderableType:
    """Per route what became of its deliveries, and how long after the plant wrote it down they were delivered."""
    table = Table(title="Routes", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("Route", no_wrap=True)
    for title in ("to", "delivered", "dead", "open", "p50", "p99"):
        table.add_column(title, justify="left" if title == "to" else "right", no_wrap=True)
    latencies: dict[str, list[timedelta]] = defaultdict(list)
    states: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for delivery in bus.deliveries.values():
        kind = {"DELIVERED": "delivered", "DEAD": "dead"}.get(delivery["state"], "open")
        states[delivery["route"], delivery["destination"]][kind] += 1
        if kind == "delivered":
            latencies[delivery["route"]].append(delivery["changed_at"] - bus.published_at(delivery))
    for (route, destination), counts in sorted(states.items(), key=lambda item: (item[0][1] != BUS, item[0])):
        ordered = sorted(latencies[route])
        figures = (f"{counts[kind]:,}" if counts[kind] else "·" for kind in ("delivered", "dead", "open"))
        table.add_row(route, destination, *figures, _duration(ordered, 0.50), _duration(ordered, 0.99))
    return table


def checks_table(title: str, checks: Sequence[Check]) -> RenderableType:
    """What was reckoned, each with its figures."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        mark = Text("✓", style="green") if check.holds else Text("✗", style="bold red")
        table.add_row(mark, check.subject, Text(check.what, style="" if check.holds else "bold red"))
    return table


def typed_panel(typed: Typed) -> RenderableType:
    """A command as it was typed, and its output."""
    words = [f"'{word}'" if " " in word else word for word in typed.words]
    return Panel(
        Text(typed.output or "(nothing)"), title=f"$ bus {' '.join(words)}", title_align="left", border_style="cyan"
    )


def _duration(ordered: Sequence[timedelta], share: float) -> str:
    """The nearest-rank percentile."""
    if not ordered:
        return "·"
    rank = max(int(-(-len(ordered) * share // 1)), 1)
    seconds = ordered[rank - 1].total_seconds()
    return f"{seconds * 1000:,.0f} ms" if seconds < 1 else f"{seconds:,.1f} s"
