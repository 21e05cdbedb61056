"""The command line: one file per noun; results on stdout, the rest on stderr; exit 0 ok, 1 bad, 2 not available."""

from __future__ import annotations


def main() -> None:
    """The command `bus`."""
    from bus.cli.root import bus

    bus.main(prog_name="bus")
