"""`bus route`: which messages go where; why one does or does not, and exactly what each receiver would get."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import rich_click as click
from rich.console import RenderableType
from rich.panel import Panel
from rich.text import Text
from rich.tree import Tree

from bus.cli.bodies import readable
from bus.cli.desk import Desk, desk
from bus.cli.frame import FOUND_BAD, OK, BusGroup
from bus.cli.output import WIDE, Column
from bus.cli.texts import counted, plain
from bus.errors import NotAllowed
from bus.model.message import BUS

if TYPE_CHECKING:
    from bus.control.rehearse import Explained, Rehearsal, Step
    from bus.model.message import Opened
    from bus.model.predicate import Explanation
    from bus.model.route import Route


@click.group(cls=BusGroup)
def route() -> None:
    """Routes: which messages go where. Explain or try one without broker and store."""


@route.command("list")
@click.option("--type", "type_name", default="", help="That take this type.")
@click.option("--to", default="", help="That lead to this endpoint (bus: re-entry).")
def list_(type_name: str, to: str) -> None:
    """Every route, in the order in which they are asked."""
    from bus.model.route import types_of

    work = desk()
    routes = [
        found
        for found in work.project.catalogue.routes
        if (not to or found.to == to) and (not type_name or type_name in types_of(found))
    ]
    work.out.items(
        [_summary(found) for found in routes],
        Column("Route", lambda r: r["name"]),
        Column("When", lambda r: r["when"]),
        Column("Transformer", lambda r: r["transform"], room=WIDE),
        Column("To", lambda r: r["to"]),
        Column("Support", lambda r: r["support"], room=WIDE),
        empty="No route fits." if to or type_name else "The project declares no route.",
    )


def _summary(found: Route) -> dict[str, Any]:
    return {
        "name": found.name,
        "when": str(found.predicate),
        "transform": found.transform.name if found.transform else "",
        "makes": list(found.transform.makes) if found.transform else [],
        "to": found.to,
        "key": found.key,
        "on_dead": found.on_dead,
        "max_attempts": found.retry.max_attempts,
        "owner": found.owner,
        "support": found.support,
        "digest": found.digest,
    }


# --- a document to explain or try ------------------------------------------------------------------------------------


def _document(function: Any) -> Any:
    for option in (
        click.option("--content-type", default="", help="Else the contract's first."),
        click.option("--subject", default="", help="The header subject it would state."),
        click.option("--site", default="", help="Else the system's first site."),
        click.option("--system", default="", help="Who sends it; else the one system that publishes the type."),
        click.option("--type", "type_name", required=True, help="Its message type."),
        click.argument("file", type=click.File("rb", lazy=True)),
    ):
        function = option(function)
    return function


def _opened(
    work: Desk, file: IO[bytes], type_name: str, system: str, site: str, subject: str, content_type: str
) -> Opened:
    from bus.control.rehearse import Sender, open_file

    project = work.project.require_sound()
    sender = Sender(system=system, site=site, subject=subject, content_type=content_type)
    limit = project.settings.max_bytes
    try:
        return open_file(file.read(limit + 1), type_name, sender, project.catalogue, max_bytes=limit)
    except NotAllowed as error:
        raise click.UsageError(str(error)) from error


# --- explain ---------------------------------------------------------------------------------------------------------


@route.command()
@_document
@click.option("--all", "everything", is_flag=True, help="Also routes about other types.")
def explain(
    file: IO[bytes],
    type_name: str,
    system: str,
    site: str,
    subject: str,
    content_type: str,
    everything: bool,
) -> None:
    """Why each route takes the document or not, condition by condition. FILE: - for standard input."""
    from bus.control.rehearse import explain as explain_routes

    work = desk()
    opened = _opened(work, file, type_name, system, site, subject, content_type)
    explained = explain_routes(opened, work.project.catalogue)
    shown = [each for each in explained if everything or each.names_type]
    rows = [
        {"route": e.route.name, "to": e.route.to, "holds": e.explanation.holds, "explanation": e.explanation}
        for e in shown
    ]
    if work.out.format != "table":
        work.out.items(rows, empty="")
        return
    message = opened.message
    work.out.print(
        Text(
            plain(f"{message.type} {message.subject} from {message.system or 'no system'} at {message.site}"),
            style="bold",
        )
    )
    for each in shown:
        work.out.print(_drawn(each))
    if not any(each.explanation.holds for each in shown):
        work.out.print(Text("No route takes it: it would be unrouted.", style="yellow"))
    others = len(explained) - len(shown)
    if others:
        work.out.say(f"{others} routes are about other types; --all shows them")
    if any(each.explanation.holds and each.route.to == BUS for each in shown):
        work.out.say(f"It enters again; what becomes of it then: bus route try {_name(file)} --type {type_name}")


def _drawn(explained: Explained) -> Tree:
    holds = explained.explanation.holds
    word = Text("takes it", style="bold green") if holds else Text("does not", style="dim")
    tree = Tree(Text.assemble((explained.route.name, "bold"), f" → {explained.route.to}  ", word), guide_style="dim")
    _grow(tree, explained.explanation)
    return tree


def _grow(tree: Tree, explanation: Explanation) -> None:
    mark = Text("holds  ", style="green") if explanation.holds else Text("failed ", style="red")
    branch = tree.add(Text.assemble(mark, plain(explanation.text)))
    for part in explanation.parts:
        _grow(branch, part)


def _name(file: IO[bytes]) -> str:
    name = getattr(file, "name", "-")
    return Path(name).name if isinstance(name, str) and name != "<stdin>" else "-"


# --- try -------------------------------------------------------------------------------------------------------------


@route.command("try")
@_document
@click.option("--exact", is_flag=True, help="Print only the bytes each receiver would get, exactly as they are.")
@click.option("--to", default="", help="With --exact: only what this endpoint would get.")
def try_(
    file: IO[bytes],
    type_name: str,
    system: str,
    site: str,
    subject: str,
    content_type: str,
    exact: bool,
    to: str,
) -> int:
    """What each receiver would get of the document, through re-entry too. Nothing is sent, nothing is stored."""
    from bus.control.rehearse import rehearse

    work = desk()
    if exact and work.out.format != "table":
        raise click.UsageError("--exact prints bytes; -o json and -o ndjson have them as text")
    if to and not exact:
        raise click.UsageError("--to goes with --exact")
    if to and to not in work.settings.endpoints:
        raise click.BadParameter(
            f"{plain(to)!r} is not one of {', '.join(work.settings.endpoints) or 'none'}", param_hint="--to"
        )
    opened = _opened(work, file, type_name, system, site, subject, content_type)
    rehearsal = rehearse(opened, work.project.catalogue)
    failed = list(rehearsal.failures())
    if exact:
        _print_exact(rehearsal, to, work)
        return FOUND_BAD if failed else OK
    work.out.one(_as_value(rehearsal), lambda: _parts(rehearsal))
    if work.out.format == "table":
        sent = sum(len(step.outputs) for step in rehearsal.sent())
        work.out.say(
            f"{counted(sent, 'document')} would be sent, {counted(len(failed), 'delivery')} would be dead. "
            "Long bodies are laid out for reading; --exact prints them byte for byte."
        )
    return FOUND_BAD if failed else OK


def _print_exact(rehearsal: Rehearsal, to: str, work: Desk) -> None:
    """Each body as it would be sent, on stdout; what it is on stderr. Only between two bodies a line is ended."""
    out = sys.stdout.buffer
    chosen = [(step, made) for step in rehearsal.sent() for made in step.outputs if to in ("", step.route.to)]
    for place, (step, made) in enumerate(chosen, start=1):
        work.out.say(f"to {step.route.to}: {made.type}, {made.content_type}, {len(made.body):,} bytes")
        out.write(made.body if place == len(chosen) or made.body.endswith(b"\n") else made.body + b"\n")
        out.flush()
    for step in rehearsal.failures():
        work.out.say(f"to {step.route.to}: would be dead: {step.failure}", style="red")
    if not chosen:
        work.out.say("Nothing would be sent.")


def _as_value(rehearsal: Rehearsal) -> dict[str, Any]:
    message = rehearsal.message
    return {
        "type": message.type,
        "subject": message.subject,
        "system": message.system,
        "site": message.site,
        "deliveries": [_step_value(step) for step in rehearsal.steps],
    }


def _step_value(step: Step) -> dict[str, Any]:
    return {
        "route": step.route.name,
        "to": step.route.to,
        "failure": step.failure,
        "outputs": [{"type": o.type, "content_type": o.content_type, "body": o.body} for o in step.outputs],
        "entering": [_as_value(entering) for entering in step.entering],
    }


def _parts(rehearsal: Rehearsal, trail: str = "") -> Iterator[RenderableType]:
    message = rehearsal.message
    here = f"{trail}{message.type} {message.subject}".strip()
    if not rehearsal.steps:
        yield Text(plain(f"{here}: unrouted, no route takes it"), style="yellow")
    for step in rehearsal.steps:
        yield Text.assemble(plain(here), " → ", (step.route.name, "bold"), f" → {step.route.to}")
        if step.failure:
            yield Text.assemble("  ", ("would be dead: ", "bold red"), plain(step.failure))
        for index, output in enumerate(step.outputs, start=1):
            of = f" ({index} of {len(step.outputs)})" if len(step.outputs) > 1 else ""
            where = "enters" if step.route.to == BUS else f"to {step.route.to}"
            yield Panel(
                Text(readable(output.body, output.content_type)),
                title=Text(f"{where}: {output.type}{of}, {output.content_type}"),
                title_align="left",
                border_style="dim" if step.route.to == BUS else "green",
            )
        for entering in step.entering:
            yield from _parts(entering, f"{here} → ")
