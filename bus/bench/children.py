"""The processes of a contender: started with a log, watched, ended with their whole group."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from bus.bench.frame import BenchFailure
from bus.workers import child as launcher

DRAIN = 10.0
"""Seconds they get, together, to end by themselves."""
_STEP_LIMIT = 60.0


class Children:
    """They end with this process, too."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        """`folder`: theirs to work in, and for their logs."""
        self._folder = folder
        # What a user's shell says of his own project is not for them.
        own = {name: value for name, value in os.environ.items() if not name.startswith("BUS_")}
        self._environment = {**own, **environment}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *words: str) -> None:
        """Start `python -m` with these words."""
        with self._log(name).open("wb") as log:
            self._running[name] = subprocess.Popen(  # noqa: S603  # this Python, with words of this package
                [sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()), sys.executable, "-m", *words],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def pid(self, name: str) -> int:
        """The process that was started under this name."""
        return self._running[name].pid

    def run(self, *words: str) -> None:
        """Run `python -m` with these words to its end.

        Raises:
            BenchFailure: it failed; with what it said.
        """
        done = subprocess.run(  # noqa: S603  # this Python, with words of this package
            [sys.executable, "-m", *words],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_STEP_LIMIT,
            check=False,
        )
        if done.returncode:
            raise BenchFailure(f"`{' '.join(words)}` failed: {done.stderr.strip()}")

    def require_alive(self) -> None:
        """
        Raises:
            BenchFailure: one of them ended; with the end of its log.
        """
        for name, process in self._running.items():
            if process.poll() is not None:
                lines = self._log(name).read_text(errors="replace").strip().splitlines()[-8:]
                raise BenchFailure(
                    "\n".join([f"its process {name} ended with exit code {process.returncode}:", *lines])
                )

    def stop(self) -> None:
        """Ask all of them to end, and kill what does not."""
        for process in self._running.values():
            process.terminate()
        kill_at = time.monotonic() + DRAIN
        for process in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(kill_at - time.monotonic(), 0))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._running.clear()

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"
