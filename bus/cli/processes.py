"""`bus run`, `router`, `worker`, `relay`: the processes, until they are told to stop."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import rich_click as click

from bus.cli import COLLECTING
from bus.cli.desk import Desk, desk
from bus.cli.frame import BusCommand
from bus.model.message_class import MOST_PARTITIONS, MessageClass

if TYPE_CHECKING:
    from bus.project import Project

_CLASS = click.option(
    "--class",
    "classes",
    multiple=True,
    type=click.Choice([str(each) for each in MessageClass]),
    help="Of this class only. May be repeated.",
)


class Partitions(click.ParamType[frozenset[int]]):
    """Numbers and ranges of them: `0-7,12`."""

    name = "numbers"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> frozenset[int]:
        if isinstance(value, frozenset):
            return value
        chosen: set[int] = set()
        for part in value.split(","):
            first, dash, last = part.strip().partition("-")
            last = last if dash else first
            if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < MOST_PARTITIONS):
                self.fail(f"{value!r}: numbers from 0 to {MOST_PARTITIONS - 1} are expected, 0-7,12 say", parameter)
            chosen.update(range(int(first), int(last) + 1))
        return frozenset(chosen)


_SUPERVISED = click.option(
    "--supervised", is_flag=True, hidden=True, help="Started by bus run, which has checked the endpoints."
)


def _start(process: Callable[[Project], int]) -> int:
    """Run a process of the project; its logs go to stderr, with -o json (or ndjson) as JSON lines."""
    from bus.telemetry.logs import configure_logs, forward_python, log_error

    gc.set_threshold(*COLLECTING)
    work = desk()
    as_json = work.out.format != "table"
    configure_logs(as_json=as_json, level="DEBUG" if work.debug else "INFO")
    forward_python()
    if as_json:
        work.out.log = log_error
    return process(work.project)


@click.command(cls=BusCommand)
def run() -> int:
    """Everything on this machine: router, workers and relay, supervised, until Ctrl-C."""
    from bus.processes import run_all

    return _start(lambda project: run_all(project, output=desk().out.format))


@click.command(cls=BusCommand)
@_CLASS
@click.option("--partitions", type=Partitions(), help="Of these partitions only: 0-7,12 say.")
@_SUPERVISED
def router(classes: tuple[str, ...], partitions: frozenset[int] | None, supervised: bool) -> int:
    """Take messages from the broker into the store."""
    from bus.processes import run_router

    chosen = tuple(MessageClass(name) for name in classes) or tuple(MessageClass)
    return _start(lambda project: run_router(project, chosen, partitions=partitions, supervised=supervised))


@click.command(cls=BusCommand)
@_CLASS
@click.option("--endpoint", "endpoints", multiple=True, help="Serve this endpoint only. May be repeated.")
@_SUPERVISED
def worker(classes: tuple[str, ...], endpoints: tuple[str, ...], supervised: bool) -> int:
    """Transform and deliver what the store holds."""
    from bus.processes import queues_of_class, run_worker

    def work(project: Project) -> int:
        queues = [queue for name in classes for queue in queues_of_class(project, MessageClass(name))]
        return run_worker(project, [*queues, *_queues_of(endpoints, desk())], supervised=supervised)

    return _start(work)


def _queues_of(endpoints: tuple[str, ...], work: Desk) -> list[str]:
    known = work.project.settings.endpoints if endpoints else {}
    for name in endpoints:
        if name not in known:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(known) or 'none'}", param_hint="--endpoint")
    return [known[name].queue for name in endpoints]


@click.command(cls=BusCommand)
@_SUPERVISED
def relay(supervised: bool) -> int:
    """Resume what is due, unattended or orphaned."""
    from bus.processes import run_relay

    return _start(lambda project: run_relay(project, supervised=supervised))
