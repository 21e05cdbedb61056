"""Crash points: a closed set, each of them passed somewhere, refused where unknown, nothing where not asked for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.crash_points import EXIT_CODE, POINTS, VARIABLE, arm, crash_point
from bus.errors import ConfigurationError
from bus.settings import load_settings

ENGINE = Path(__file__).parents[2] / "bus"
PASSED = re.compile(r"crash_point\(\"([a-z_.]+)\"")

PASSING_TWICE = """
import sys
from loguru import logger
from bus.crash_points import arm, crash_point
logger.remove()
logger.add(sys.stderr)
arm(sys.argv[1])
for turn in (1, 2):
    crash_point("receive.after_commit", holding=7)
    print("passed", turn, flush=True)
"""


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    arm("")


def test_every_point_is_passed_somewhere_in_the_engine_and_no_other_is() -> None:
    texts = [path.read_text(encoding="utf-8") for path in ENGINE.rglob("*.py")]

    assert {name for text in texts for name in PASSED.findall(text)} == set(POINTS)


def test_where_nothing_is_armed_a_point_does_nothing() -> None:
    arm("")

    for point in POINTS:
        crash_point(point, holding=1)


@pytest.mark.parametrize(("armed", "passed"), [("receive.after_commit", 0), ("receive.after_commit:2", 1)])
def test_a_process_ends_at_its_point_and_says_what_it_held(armed: str, passed: int) -> None:
    done = subprocess.run([sys.executable, "-c", PASSING_TWICE, armed], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout.count("passed")) == (EXIT_CODE, passed)
    assert "crash point receive.after_commit reached" in done.stderr


def test_a_process_passes_the_points_it_is_not_armed_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PASSING_TWICE, "receive.after_ack"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout.count("passed")) == (0, 2)


def test_a_point_with_a_pipe_holds_its_thread_until_the_pipe_is_closed(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    arm(f"receive.after_commit={pipe}")
    left = threading.Event()

    def work() -> None:
        crash_point("receive.after_commit", holding=1)
        left.set()

    thread = threading.Thread(target=work)
    thread.start()
    with open(pipe, "wb"):  # returns when the thread waits at its other end
        assert not left.is_set()
    thread.join()
    assert left.is_set()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("receive.after_lunch", "'receive.after_lunch' is no crash point; known: receive.after_open, "),
        ("receive.after_commit:0", "is not NAME, NAME:TURN or NAME=PIPE"),
        ("receive.after_commit:soon", "is not NAME, NAME:TURN or NAME=PIPE"),
        ("receive.after_commit=", "is not NAME, NAME:TURN or NAME=PIPE"),
    ],
)
def test_what_names_no_point_is_refused_before_anything_starts(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "bus.toml").write_text("")

    with pytest.raises(ConfigurationError, match=VARIABLE) as refused:
        load_settings(tmp_path, {VARIABLE: text})

    assert says in str(refused.value)
