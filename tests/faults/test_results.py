"""What became of the faults of a run is kept, run after run, and said in one line."""

from __future__ import annotations

import json
from pathlib import Path

from tests.faults.__main__ import add_run, run_of, summary

SURVIVED = {
    "fault": "kill[sqlite]",
    "store": "sqlite",
    "seed": 7,
    "holding": 3,
    "seconds": 1.5,
    "measured": "2 connections",
    "findings": [],
}
HARMED = {"fault": "cut[sqlite]", "findings": [["lost", "I1"], ["out of order", "I3"], ["unexplained", "I2"]]}


def test_runs_accumulate_with_their_seeds(tmp_path: Path) -> None:
    path = tmp_path / "results.json"

    add_run(path, run_of([SURVIVED], seed=1))
    add_run(path, run_of([SURVIVED, HARMED], seed=2))

    runs = json.loads(path.read_text())["runs"]
    assert [run["seed"] for run in runs] == [1, 2]
    assert runs[1]["faults"] == ["kill[sqlite] seed=7 holding=3 1.5s 2 connections"]
    assert runs[1]["findings"] == [HARMED]


def test_a_run_ends_with_one_line() -> None:
    assert summary(run_of([SURVIVED], seed=1)) == "1 faults survived, 0 lost, 0 out of order, 0 unexplained"
    assert summary(run_of([HARMED], seed=1)) == "0 faults survived, 1 lost, 1 out of order, 1 unexplained"
