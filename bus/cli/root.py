"""The command `bus`: its nouns in the order in which people need them."""

from __future__ import annotations

import os
from pathlib import Path

import rich_click as click

from bus.cli import (
    bench,
    check,
    contract,
    dead,
    doctor,
    doubt,
    endpoint,
    lane,
    message,
    processes,
    publish,
    route,
    status,
    topology,
)
from bus.cli import store as store_noun
from bus.cli.desk import desk, quiet_libraries
from bus.cli.frame import Root

click.rich_click.COMMAND_GROUPS = {
    "bus": [
        {"name": "Look", "commands": ["status", "message", "dead", "doubt", "lane", "endpoint"]},
        {"name": "Build", "commands": ["check", "route", "contract", "publish"]},
        {"name": "Run", "commands": ["run", "router", "worker", "relay", "doctor", "topology", "store", "bench"]},
    ]
}


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--project", type=click.Path(path_type=Path), help="Folder with bus.toml; else BUS_PROJECT, else the nearest above."
)
@click.option("--debug", is_flag=True, help="Show the whole story of an error.")
@click.version_option(package_name="plantbus", message="plantbus %(version)s")
def bus(project: Path | None, debug: bool) -> None:
    """Enterprise service bus for manufacturers.

    Results go to stdout, everything else to stderr. Exit code 0: ok, 1: found bad, 2: usage, or something is not there.
    """
    work = desk()
    work.folder = project
    work.debug = debug
    os.environ["LOGURU_DIAGNOSE"] = "NO"  # a traceback shows no values of variables: they may be secrets
    if not debug:
        quiet_libraries()


for command in (
    status.status,
    message.message,
    doubt.doubt,
    lane.lane,
    endpoint.endpoint,
    check.check,
    route.route,
    contract.contract,
    publish.publish,
    processes.run,
    processes.router,
    processes.worker,
    processes.relay,
    doctor.doctor,
    topology.topology,
    store_noun.store,
    bench.bench,
):
    bus.add_command(command)
bus.add_command(dead.dead, aliases=["dlq"])
