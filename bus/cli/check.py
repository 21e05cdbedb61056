"""`bus check`: whether the project fits together; every complaint with its file and place."""

from __future__ import annotations

import rich_click as click
from rich.text import Text

from bus.cli.desk import desk
from bus.cli.frame import FOUND_BAD, OK, BusCommand
from bus.cli.output import Column
from bus.cli.texts import counted
from bus.errors import ConfigurationError


@click.command(cls=BusCommand)
def check() -> int:
    """Check bus.toml, contracts, routes, transformers and adapters against each other; needs no broker and no store."""
    from bus.bootstrap import complaints_of
    from bus.control.rehearse import absent_maps

    work = desk()
    found: dict[str, int] = {}
    try:
        project = work.project
        complaints = list(complaints_of(project)) or absent_maps(project.catalogue)
        catalogue = project.catalogue
        found = {
            "contracts": len(catalogue.contracts),
            "routes": len(list(catalogue.routes)),
            "systems": len(catalogue.systems),
            "endpoints": len(catalogue.endpoints),
        }
    except ConfigurationError as error:
        complaints = str(error).splitlines()
    rows = [{"complaint": complaint} for complaint in dict.fromkeys(complaints)]
    if work.out.format == "table" and not rows:
        counts = ", ".join(f"{count} {noun}" for noun, count in found.items())
        work.out.print(Text.assemble(("ok", "bold green"), f"  {counts} fit together"))
    else:
        work.out.items(rows, Column("Complaint", lambda row: row["complaint"]), empty="")
    if rows:
        work.out.say(f"{counted(len(rows), 'complaint')}: the bus does not start with this project.")
    return FOUND_BAD if rows else OK
