"""What became of the faults of a run is kept, run after run, and said in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest

from tests.faults.__main__ import Survivors, add_run, run_of, summary
from tests.faults.survival import PROPERTY

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


def report(outcome: Literal["passed", "failed"], *told: object) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid="tests/faults/test_it.py::kill[sqlite]",
        location=("tests/faults/test_it.py", 1, "kill[sqlite]"),
        keywords={},
        outcome=outcome,
        longrepr="assert worker is alive" if outcome == "failed" else None,
        when="call",
        user_properties=[(PROPERTY, each) for each in told],
    )


def test_a_fault_whose_test_failed_is_no_survivor_whatever_the_checker_found() -> None:
    survivors = Survivors()

    for each in (report("passed", SURVIVED), report("failed", SURVIVED), report("failed", HARMED), report("failed")):
        survivors.pytest_runtest_logreport(each)

    run = run_of(survivors.told, seed=1)
    assert run["survived"] == 1
    assert [len(each["findings"]) for each in run["findings"]] == [1, 3, 1]
    assert "assert worker is alive" in run["findings"][0]["findings"][0][1]
