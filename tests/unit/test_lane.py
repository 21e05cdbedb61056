"""Lanes: which deliveries may run, case by case."""

from __future__ import annotations

import pytest

from bus.model.delivery import Stage, State
from bus.model.lane import RUN, LaneKey, Moves, Standing, claimable, head_run
from bus.model.message import BUS

NOTHING = Moves((), ())


def _lane(*states: str, stage: Stage = Stage.SEND) -> list[Standing]:
    return [Standing(number, stage, State(state)) for number, state in enumerate(states)]


@pytest.mark.parametrize(
    ("lane", "moves"),
    [
        ([], NOTHING),
        (["WAITING"], Moves((0,), ())),
        (["WAITING", "WAITING"], Moves((0, 1), ())),
        (["READY", "CLAIMED", "SENDING", "WAITING"], Moves((3,), ())),
        (["RETRYING", "WAITING"], NOTHING),
        (["DEAD", "WAITING"], NOTHING),
        (["IN_DOUBT", "WAITING"], NOTHING),
        (["RETRYING", "READY", "READY"], Moves((), (1, 2))),
        (["WAITING", "DEAD", "READY", "WAITING"], Moves((0,), (2,))),
        (["DEAD", "CLAIMED", "READY"], Moves((), (2,))),
    ],
)
def test_the_head_run_is_ready_and_nothing_behind_it(lane: list[str], moves: Moves) -> None:
    assert head_run("target", _lane(*lane)) == moves


def test_what_is_still_to_be_transformed_ends_the_run_and_is_left_alone() -> None:
    lane = [*_lane("WAITING"), Standing(1, Stage.TRANSFORM, State.READY), Standing(2, Stage.SEND, State.WAITING)]

    assert head_run("target", lane) == Moves((0,), ())


def test_reentry_is_ordered_while_it_is_transformed() -> None:
    lane = _lane("WAITING", "RETRYING", "READY", stage=Stage.TRANSFORM)

    assert head_run(BUS, lane) == Moves((0,), (2,))


def test_no_more_than_a_run_is_made_ready_ahead() -> None:
    lane = _lane(*["WAITING"] * (RUN + 5))

    assert head_run("target", lane).ready == tuple(range(RUN))


@pytest.mark.parametrize(
    ("candidates", "standing", "claimed"),
    [
        ([], [1, 2], []),
        ([1, 2], [1, 2, 3], [1, 2]),
        ([2, 3], [1, 2, 3], []),
        ([1, 3], [1, 2, 3], [1]),
        ([9, 1], [9, 1], [9, 1]),
    ],
)
def test_a_lane_is_claimed_from_its_head_without_a_gap(
    candidates: list[int], standing: list[int], claimed: list[int]
) -> None:
    assert claimable(candidates, standing) == claimed


def test_lanes_are_locked_bus_first_then_byte_by_byte() -> None:
    lanes = [LaneKey("a", "Z"), LaneKey("a", "a"), LaneKey("B", "z"), LaneKey(BUS, "z"), LaneKey("a", "ä")]

    assert sorted(lanes, key=lambda lane: lane.lock_order) == [
        LaneKey(BUS, "z"),
        LaneKey("B", "z"),
        LaneKey("a", "Z"),
        LaneKey("a", "a"),
        LaneKey("a", "ä"),
    ]
