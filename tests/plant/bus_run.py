"""The command `bus` as a person types it: `bus run` as a process with a log, every other one to its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from bus.workers import child as launcher
from tests.plant.launch import ROOT, PlantTrouble

DRAIN = 60.0
"""Seconds `bus run` gets to end what it began."""

DEATHS = 3
"""Times one of its processes may die before nothing can be expected of it."""

LAST = 8
"""Lines of its log that are told when it failed."""


class BusRun:
    """`bus run`, in a session of its own, so that Ctrl-C does not reach it before the plant is done with."""

    def __init__(self, log_path: Path, environment: Mapping[str, str]) -> None:
        self.log_path = log_path
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._children: list[dict[str, object]] = []
        self._read_upto = 0

    def start(self) -> None:
        """Returns at once; it says in its log when its processes run. It ends with the process that called this."""
        with open(self.log_path, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    launcher.__file__,
                    str(os.getpid()),
                    *command("run", "-o", "json"),
                ],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Let it drain; kill it when it does not end.

        Raises:
            PlantTrouble: it did not end in time, or not well.
        """
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            code = process.wait(DRAIN)
        except subprocess.TimeoutExpired as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise PlantTrouble(f"bus run did not end within {DRAIN:g} s and was killed; see {self.log_path}") from error
        if code:
            raise PlantTrouble(f"bus run ended with exit code {code}.\n{self._last_words()}")

    def wait(self) -> None:
        """Returns when it ended by itself."""
        if self._process is not None:
            self._process.wait()

    def trouble(self) -> str:
        """Why nothing can be expected of it any more; empty while it runs, and its processes stay alive."""
        if self._process is not None and self._process.poll() is not None:
            return f"bus run ended with exit code {self._process.returncode}.\n{self._last_words()}"
        again = [f"{child} died {many} times" for child, many in Counter(self.deaths()).items() if many >= DEATHS]
        return f"{', '.join(again)}.\n{self._last_words()}" if again else ""

    def deaths(self) -> list[str]:
        """The names of its processes that died, once for each time."""
        return [str(event["child"]) for event in self._told("child died")]

    def children(self) -> dict[str, int]:
        """Name → process id of what it started last under each name."""
        return {str(event["child"]): int(str(event["pid"])) for event in self._told("child started")}

    def _told(self, name: str) -> list[dict[str, object]]:
        """What it logged of its processes under this name, oldest first; reads on where it stopped the last time."""
        with self.log_path.open("rb") as log:
            log.seek(self._read_upto)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._read_upto += len(line)
                if b'"event": "child ' in line:
                    self._children.append(json.loads(line))
        return [event for event in self._children if event["event"] == name]

    def _last_words(self) -> str:
        """The newest lines of its log that are no ordinary ones, and where all of them are."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        notable = [line for line in lines if not any(f'"level": "{level}"' in line for level in ("INFO", "DEBUG"))]
        return "\n".join(["What it said last:", *(notable or lines)[-LAST:], f"All of it: {self.log_path}"])


def command(*words: str) -> list[str]:
    """The command line of `bus` with these words, for this checkout."""
    return [sys.executable, "-m", "bus", *words]


def ask(
    *words: str, environment: Mapping[str, str], columns: int = 160, within: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Type a command of `bus` and wait for its end; without colours."""
    return subprocess.run(
        command(*words),
        cwd=ROOT,
        env={**environment, "COLUMNS": str(columns), "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
    )
