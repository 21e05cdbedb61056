"""Every fault once: runs them, adds what became of them to a file in which runs accumulate, and ends with one line.

    python -m tests.faults [--soak MINUTES] [--seed N] [--rounds N] [--results FILE] [--jobs N] [PYTEST-ARGUMENT…]

A run's seed is told at its beginning; given again it brings the same workloads, turns and kills. The seed of each
further round is the next number. With `--soak` only the soak runs, so long with each kind of store.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bus.bench.machine import machine
from tests.faults import soak
from tests.faults.survival import PROPERTY, RUN_SEED

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.json"
VERDICTS = ("lost", "out of order", "unexplained")


@dataclass
class Survivors:
    """A plugin of pytest that collects what became of each fault.

    A test that failed without a finding, or after it found nothing wrong, is unexplained.
    """

    told: list[Mapping[str, Any]] = field(default_factory=list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        told: list[Any] = [value for name, value in report.user_properties if name == PROPERTY]
        if report.failed and not any(each["findings"] for each in told):
            said = str(report.longrepr).strip().splitlines()[-1:]
            finding = ["unexplained", f"{report.nodeid} failed: {' '.join(said)}"]
            self.told.append({"fault": report.nodeid.rpartition("::")[2], "findings": [finding]})
        elif report.when == "call":
            self.told += told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="kill processes so long, and watch what grows")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="of a run that is to be had again")
    parser.add_argument("--rounds", type=int, default=1, help="runs behind each other, each with a seed of its own")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE", help="where runs accumulate")
    parser.add_argument("--jobs", type=int, default=3, help="faults at once, each on services of its own")
    wanted, rest = parser.parse_known_args()
    if wanted.soak:
        os.environ[soak.MINUTES] = str(wanted.soak)
    what = soak.__file__ if wanted.soak else str(FOLDER)
    arguments = [what, "-q", "-n", str(wanted.jobs), "--dist", "worksteal", *rest]
    rounds = range(wanted.seed, wanted.seed + wanted.rounds)
    return max((_run(seed, arguments, wanted.results) for seed in rounds), default=0)


def _run(seed: int, arguments: list[str], results: Path) -> int:
    print(f"seed {seed}", file=sys.stderr, flush=True)  # noqa: T201  # a program's own words
    os.environ |= {RUN_SEED: str(seed), "PLANTBUS_EVERY_FAULT": "1"}
    survivors = Survivors()
    code = pytest.main(arguments, plugins=[survivors])
    run = run_of(survivors.told, seed=seed)
    add_run(results, run)
    print(summary(run))  # noqa: T201
    return int(code)


def run_of(told: list[Mapping[str, Any]], *, seed: int) -> dict[str, Any]:
    """What is kept of a run: the faults that were survived a line each, the others with everything that was found."""
    bad = [each for each in told if each["findings"]]
    verdicts = Counter(verdict for each in bad for verdict, _ in each["findings"])
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": machine(),
        "seed": seed,
        "survived": len(told) - len(bad),
        "lost": verdicts["lost"],
        "out_of_order": verdicts["out of order"],
        "unexplained": verdicts["unexplained"],
        "faults": [_line(each) for each in told if not each["findings"]],
        "findings": bad,
    }


def _line(survived: Mapping[str, Any]) -> str:
    seed, holding, seconds = (survived[name] for name in ("seed", "holding", "seconds"))
    return f"{survived['fault']} seed={seed} holding={holding} {seconds}s {survived['measured']}".rstrip()


def add_run(path: Path, run: Mapping[str, Any]) -> None:
    """Behind the runs that stand there, so that whoever ends this process leaves the old file or the new one."""
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"runs": [*runs, run]}, indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)


def summary(run: Mapping[str, Any]) -> str:
    counts = f"{run['lost']} lost, {run['out_of_order']} out of order, {run['unexplained']} unexplained"
    return f"{run['survived']} faults survived, {counts}"


def _commit() -> str:
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
