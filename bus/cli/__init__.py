"""The command line: one file per noun; results on stdout, the rest on stderr; exit 0 ok, 1 bad, 2 not available."""

from __future__ import annotations

import sys


def main() -> None:
    """The command `bus`."""
    try:
        from bus.cli.root import bus
    except KeyboardInterrupt:  # Ctrl-C before there is anything that could answer it
        sys.exit(130)

    bus.main(prog_name="bus")
