"""A trace, drawn: messages as branches, their deliveries below them, each with its time and how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text
from rich.tree import Tree

from bus.cli.output import styled
from bus.cli.texts import clock, duration, plain, when
from bus.model.delivery import State

if TYPE_CHECKING:
    from bus.store.follow import Trace, TracedDelivery, TracedMessage


def trace_parts(trace: Trace) -> Iterator[RenderableType]:
    """The tree, and what it leaves out. Times are of the local day in the first line; + is since the first message."""
    begin = min((root.line.accepted_at for root in trace.roots), default=None)
    if begin is None:
        return
    about = trace.subject or trace.correlation_id
    tree = Tree(Text.assemble((plain(about), "bold"), (f"  from {when(begin)}", "dim")), guide_style="dim")
    for root in trace.roots:
        _grow(tree, root, begin, trace.asked)
    yield tree
    if trace.is_cut:
        yield Text(f"… of {trace.messages:,} messages or more only the oldest are shown", style="yellow")
    if trace.kin_left_out:
        yield Text(
            f"Other messages of {plain(trace.subject)}: bus message list --subject {plain(trace.subject)}", style="dim"
        )


def _grow(tree: Tree, message: TracedMessage, begin: datetime, asked: int) -> None:
    line = message.line
    label = Text.assemble(
        (clock(line.accepted_at), "dim"),
        "  ",
        (f"{line.number}", "bold underline" if line.number == asked else "bold"),
        "  ",
        plain(line.type),
        (f"  {plain(line.system)} at {plain(line.site)}" if line.parent is None else "", "dim"),
        ("  ← the message asked for" if line.number == asked else "", "bold"),
    )
    branch = tree.add(label)
    if not message.deliveries:
        branch.add(Text("unrouted: no route takes it", style="yellow"))
    for delivery in message.deliveries:
        _grow_delivery(branch, delivery, begin, asked)
    for effect in message.caused:
        _grow(branch, effect, begin, asked)


def _grow_delivery(tree: Tree, delivery: TracedDelivery, begin: datetime, asked: int) -> None:
    line = delivery.line
    label = Text.assemble((clock(line.changed_at), "dim"), "  → ", plain(line.destination), "  ", styled(line.state))
    if line.document:
        label.append(f"  document {plain(line.document)}", style="bold green")
    if line.state not in (State.DELIVERED, State.DISCARDED):
        label.append(f"  {plain(line.cause)}" if line.cause else "")
    label.append(f"  +{duration(line.changed_at - begin)}", style="dim")
    notes = [f"delivery {line.number}", plain(line.route)]
    if line.attempts > 1:
        notes.append(f"{line.attempts} attempts")
    if line.replay:
        notes.append(f"replay {line.replay}")
    label.append(f"  ({', '.join(notes)})", style="dim")
    branch = tree.add(label)
    for made in delivery.made:
        _grow(branch, made, begin, asked)
