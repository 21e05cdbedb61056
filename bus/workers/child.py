"""Becomes another program that ends with its parent: `python child.py PARENT PROGRAM ARGUMENT…`.

Runs as a file of its own with the standard library only: the code that subprocess runs between fork and exec
(`preexec_fn`) may hang in a process with threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def _end_with(parent: int) -> None:
    """Have the kernel send SIGTERM when the parent ends; that holds after this process became another program too."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit("its parent ended first")


if __name__ == "__main__":
    _end_with(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - the supervisor's own argument list, no shell
