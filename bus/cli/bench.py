"""`bus bench`: how many messages a second this machine moves, beside what else could be taken for the same job."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import rich_click as click
from rich.text import Text

from bus.cli.desk import desk
from bus.cli.frame import FOUND_BAD, NOT_AVAILABLE, OK, BusCommand

NAMES = (
    *("pipeline.postgresql", "pipeline.sqlite", "pipeline.postgresql.native", "pipeline.sqlite.native"),
    *("celery", "faststream", "handwritten", "limit", "latency"),
)
"""What can be measured; bus.bench.comparison has them, and takes long to import."""


@click.command(cls=BusCommand)
@click.option("--quick", is_flag=True, help="Three rounds of 10 s each; ends within five minutes.")
@click.option(
    "--postgresql",
    metavar="URL",
    default="",
    envvar="BUS_BENCH_POSTGRESQL",
    help="A PostgreSQL whose user may create databases; else one is started (pip install 'plantbus[bench]').",
)
@click.option("--only", multiple=True, type=click.Choice(NAMES), help="Measure this alone. May be repeated.")
@click.option("--rounds", type=click.IntRange(1, 100), help="How often each is measured.")
@click.option("--seconds", type=click.FloatRange(0.5, 600), help="How long a round should take.")
@click.option("--results", type=click.Path(dir_okay=False, path_type=Path), help="Write the JSON to this file, too.")
def bench(
    quick: bool,
    postgresql: str,
    only: tuple[str, ...],
    rounds: int | None,
    seconds: float | None,
    results: Path | None,
) -> int:
    """Measure this machine: the bus, Celery, FastStream and plain code doing one audited job, and the broker alone.

    It starts a RabbitMQ and processes of its own, needs no project, and leaves nothing behind. Nothing else should run
    meanwhile.
    """
    from bus.bench.comparison import QUICK, THOROUGH, benchmarks, report
    from bus.bench.services import Services, unwind_on_sigterm

    unwind_on_sigterm()
    work = desk()
    plan = QUICK if quick else THOROUGH
    if rounds:
        plan = replace(plan, rounds=rounds, latency_rounds=min(rounds, plan.latency_rounds))
    if seconds:
        box = timedelta(seconds=seconds)
        plan = replace(plan, box=box, latency_box=min(box, plan.latency_box))
    with Services(postgresql=postgresql, tell=work.out.say) as services:
        found = report(services, benchmarks(services, plan, only), tell=work.out.say)
    if results is not None:
        found.write(results)
    work.out.one(found.as_value(), lambda: [found.table(), Text(found.caption(), style="dim")])
    if any(finding.failed for finding in found.findings):
        return FOUND_BAD
    return OK if any(finding.values for finding in found.findings) else NOT_AVAILABLE
