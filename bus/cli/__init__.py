"""The command line: one file per noun; results on stdout, the rest on stderr; exit 0 ok, 1 bad, 2 not available."""

from __future__ import annotations

import atexit
import gc
import os
import sys

COLLECTING = gc.get_threshold()
"""When Python itself looks for garbage; what a command that stays goes back to."""


def main() -> None:
    """The command `bus`."""
    os.umask(0o077)  # what a command or its processes make may hold messages or passwords
    # A command ends before garbage matters: looking for it, most of all at the very end, takes a quarter of its time.
    gc.set_threshold(200_000)
    atexit.register(gc.freeze)
    try:
        from bus.cli.root import bus
    except KeyboardInterrupt:  # Ctrl-C before there is anything that could answer it
        sys.exit(130)

    bus.main(prog_name="bus")
