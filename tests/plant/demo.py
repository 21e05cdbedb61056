"""`make demo`: a plant day on real RabbitMQ, shown live and reckoned at its end; exits 1 where it does not add up."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.text import Text

from bus.errors import ConfigurationError, NotAvailable
from tests.plant.books import BusBooks, PlantBooks
from tests.plant.day import Day, Facts
from tests.plant.launch import ROOT, PlantTrouble
from tests.plant.live import View
from tests.plant.operator_part import Operator
from tests.plant.reckoning import Check, reckon, reckon_events
from tests.plant.stage import Stage, Wishes, stage
from tests.plant.summary import checks_table, routes_table, typed_panel
from tests.plant.watch import Watch

OK, WRONG, NOT_SET_UP, INTERRUPTED = 0, 1, 2, 130
PICTURE_WIDTH = 132
FRAME = 4
"""Columns of the frame around what a command printed."""
PIPED = 160
"""Columns where the output is no terminal."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What was typed, and the variables of `make demo`."""

    wishes: Wishes
    orders: int
    pace: float
    keep: bool
    picture: Path | None


def main(arguments: Sequence[str]) -> int:
    """Play the day; gives the exit code."""
    options = _options(arguments)
    width = None if sys.stdout.isatty() else PIPED
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    trouble = Console(stderr=True, highlight=False, markup=False, emoji=False)
    is_set_up = False
    try:
        with _one_interrupt(), stage(options.wishes, say=lambda text: console.print(f"· {text}")) as set_up:
            is_set_up = True
            code = _play(set_up, options, console)
            if options.keep:
                _keep(set_up, console)
        console.print("Everything has ended, nothing of it is left running.")
        return code
    except KeyboardInterrupt:
        trouble.print("Interrupted; everything has ended.")
        return INTERRUPTED
    except PlantTrouble as error:
        trouble.print(f"Error: {error}", soft_wrap=True, style="bold red")
        return WRONG
    except (NotAvailable, ConfigurationError) as error:
        trouble.print(f"Error: {error}", soft_wrap=True, style="bold red")
        return WRONG if is_set_up else NOT_SET_UP


def _play(set_up: Stage, options: Options, console: Console) -> int:
    """The day, the reckoning, the operator's part and its reckoning; 1 where a check does not hold."""
    routes = {route.name: route.to for route in set_up.project.catalogue.routes}
    view = View(console, destinations=routes)
    with Watch(set_up.ledger, trouble=set_up.bus.trouble, seen=view.show) as watch:
        with view:
            day = Day(set_up, watch, view.story, orders=options.orders, pace=options.pace)
            day.until_p200_is_down()
            day.during_the_outage()
            view.keep_picture()
            day.until_all_is_done()
            view.story.say("the day is over: everything published was received, and everything received has ended")
        console.print()
        died = [(f"order:{day.facts.unknown_order}", "target.refused")]
        checks = _reckon(set_up, day.facts, console, title="The day's reckoning", dead=died)
        operator = Operator(
            set_up,
            watch,
            day.facts,
            columns=console.width - FRAME,
            shown=lambda typed: console.print(typed_panel(typed)),
        )
        operator.replay_what_died()
        operator.see_that_nothing_is_in_doubt()
        operator.trace_an_order()
        operator.prove_the_ledger()
        if options.picture is not None:
            _write_picture(options.picture, view, checks)
        checks += _reckon(set_up, day.facts, console, title="The reckoning after the operator's part", dead=[])
    wrong = [check for check in checks if not check.holds]
    for check in wrong:
        console.print(Text(f"WRONG  {check.subject}: {check.what}", style="bold red"), soft_wrap=True)
    if not wrong:
        console.print(Text(f"All {len(checks)} checks hold, after {view.story.seconds:.0f} s.", style="bold green"))
    return WRONG if wrong else OK


def _reckon(
    set_up: Stage, facts: Facts, console: Console, *, title: str, dead: Sequence[tuple[str, str]]
) -> list[Check]:
    plant, bus = PlantBooks.read(set_up.plant), BusBooks.read(set_up.ledger)
    checks = reckon(plant, bus, facts, dead=dead)
    if dead:
        allowed = 2 * set_up.project.settings.endpoints["mes-p200"].concurrency
        checks += reckon_events(plant, bus, facts, attempts_allowed=allowed)
        console.print(routes_table(bus))
        console.print()
    console.print(checks_table(title, checks))
    console.print()
    return checks


def _keep(set_up: Stage, console: Console) -> None:
    """Leave everything running until Ctrl-C."""
    path = set_up.write_env()
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    console.print(f"Everything keeps running. In another shell:\n\n    . {shown} && bus status\n\nCtrl-C ends all.")
    try:
        set_up.bus.wait()
    except KeyboardInterrupt:
        return
    raise PlantTrouble(set_up.bus.trouble())


def _write_picture(path: Path, view: View, checks: Sequence[Check]) -> None:
    """The live view in the middle of the outage, and the reckoning, as SVG."""
    paper = Console(record=True, width=PICTURE_WIDTH, file=io.StringIO(), force_terminal=True)
    paper.print(Group(view.picture or view.drawn(), Text(""), checks_table("The day's reckoning", checks)))
    path.parent.mkdir(parents=True, exist_ok=True)
    paper.save_svg(str(path), title="make demo", unique_id="plant-day")


@contextmanager
def _one_interrupt() -> Iterator[None]:
    """SIGTERM counts as Ctrl-C; the first one ends the day, further ones cannot disturb the ending."""

    def interrupt(*_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _options(arguments: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(prog="python -m tests.plant.demo", description=__doc__)
    parser.add_argument("--orders", type=int, default=200, help="orders over both sites")
    parser.add_argument("--pace", type=float, default=3.0, help="seconds a MES takes for a step of an order")
    parser.add_argument("--folder", type=Path, default=ROOT / ".demo", help="emptied first")
    parser.add_argument("--store", default="", help="an empty database; else a SQLite file in the folder")
    parser.add_argument("--picture", type=Path, help="save the view as SVG")
    given = parser.parse_args(arguments)
    return Options(
        wishes=Wishes(
            folder=given.folder,
            store=given.store,
            broker=os.environ.get("BROKER", ""),
            management=os.environ.get("MANAGEMENT", ""),
        ),
        orders=given.orders,
        pace=given.pace,
        keep=os.environ.get("KEEP", "") not in ("", "0"),
        picture=given.picture,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
