"""Openings: what a router's death in the middle of a batch is held against, and what not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NoReturn

import pytest

from bus.crash_points import Point, arm
from bus.model.envelope import Envelope
from bus.pipeline.receive import MAX_OPENINGS, receive
from bus.store import tables as t
from bus.store.sqlstore import SqlStore
from bus.testing import RecordedTelemetry, envelope_of
from tests.conformance.books import rows
from tests.small_project import a_step, small_catalogue


class Died(BaseException):
    """What a crash point ends the process with."""


@pytest.fixture(autouse=True)
def deaths_are_raised(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def die(code: int) -> NoReturn:
        raise Died

    monkeypatch.setattr(os, "_exit", die)
    yield
    arm("")


def receive_it(store: SqlStore, envelope: Envelope) -> None:
    """As a process of its own: nothing is known of those before."""
    receive([envelope], store=store, catalogue=small_catalogue(), telemetry=RecordedTelemetry())


@pytest.mark.parametrize("point", ["receive.after_open", "receive.before_commit"])
def test_a_message_that_opens_well_stays_valid_however_often_its_router_dies_before_the_commit(
    store: SqlStore, point: Point
) -> None:
    envelope = envelope_of(a_step("a", 1), redelivered=True)
    for _ in range(2 * MAX_OPENINGS + 1):
        arm(point)
        with pytest.raises(Died):
            receive_it(store, envelope)
    arm("")

    receive_it(store, envelope)

    assert (len(rows(store, t.message)), rows(store, t.receipt), rows(store, t.opening)) == (1, [], [])
