"""A rolling restart: processes of two versions of a project side by side, new ones first where they must be."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta

import pytest
from marshmallow import Schema
from sqlalchemy import select

from bus.broker.declare import declare
from bus.model.contract import Contract, Contracts
from bus.model.topology import plan_topology
from bus.settings import load_settings
from bus.store import tables as t
from tests.faults.stage import PATIENCE, Stage, under_load
from tests.faults.survival import Survival
from tests.faults.workload import Truth
from tests.system.running_bus import CANONICAL, NATIVE, a_step, until

SECOND_VERSION = "test.step.v2"
NEW = "new-worker"
PAUSE = timedelta(seconds=1)
"""Of publishers, so that there is work as long as both workers are there."""

_CONTRACT = f"""
from transformers.steps import PostingSchema, StepSchema, _contract
from bus import Outgoing, transformer, write_json

CONTRACTS = (_contract("{SECOND_VERSION}", StepSchema, canonical=True),)


@transformer(takes="{SECOND_VERSION}", makes="target.posting.v1")
def second_posting(opened, context):
    posted = {{name: opened.document[name] for name in ("order", "step")}}
    return Outgoing(type="target.posting.v1", body=write_json(posted))
"""
_ROUTE = f"""
from bus import Route, field, on
from transformers.steps_second import second_posting

ROUTES = (
    Route(name="second-steps-to-keeper", when=on("{SECOND_VERSION}"), to="keeper", transform=second_posting),
)
"""


@pytest.fixture
def project(stage: Stage) -> Iterator[Stage]:
    """The stage; its project is what it was, afterwards."""
    kept = stage.bus.folder.with_name("kept")
    shutil.copytree(stage.bus.folder, kept)
    yield stage
    stage.bus.stop(*stage.bus.processes)
    for name in ("bus.toml", "routes", "transformers"):
        there = stage.bus.folder / name
        shutil.rmtree(there) if there.is_dir() else there.unlink()
        (kept / name).rename(there)
    shutil.rmtree(kept)


def change_project(stage: Stage) -> None:
    """A second version of a contract, published by whom the first one is, with a route and a transformer."""
    folder = stage.bus.folder
    (folder / "transformers" / "steps_second.py").write_text(_CONTRACT)
    (folder / "routes" / "steps_second.py").write_text(_ROUTE)
    toml = folder / "bus.toml"
    toml.write_text(toml.read_text().replace(f'"{CANONICAL}"]', f'"{CANONICAL}", "{SECOND_VERSION}"]'))
    settings = load_settings(folder, {})
    types = (NATIVE, CANONICAL, SECOND_VERSION, "target.posting.v1")
    contracts = Contracts(Contract(type=name, owner="MES", support="line 1", schema=Schema) for name in types)
    systems, endpoints = settings.systems.values(), settings.endpoints.values()
    declare(plan_topology(systems=systems, endpoints=endpoints, contracts=contracts), stage.bus.broker_url)


def transformed_by(stage: Stage, truth: Truth) -> set[str]:
    """Workers of which the store has an attempt at a delivery of this truth."""
    joined = t.attempt.join(t.delivery, t.delivery.c.id == t.attempt.c.delivery)
    query = select(t.attempt.c.worker).select_from(joined.join(t.message, t.message.c.id == t.delivery.c.message))
    with stage.bus.database.read() as connection:
        of_truth = t.message.c.subject.like(f"order:{truth.name}-%")
        return set(connection.execute(query.where(of_truth).distinct()).scalars())


@pytest.mark.timeout(400)
@pytest.mark.every_fault
def test_old_and_new_workers_share_the_work_until_the_old_ones_are_stopped(project: Stage, survival: Survival) -> None:
    stage = project
    with under_load(stage, survival.seed, orders=48, pause=PAUSE) as load:
        old = stage.bus.processes["worker"].pid
        change_project(stage)
        stage.start_as(NEW, "worker")
        new = stage.bus.processes[NEW].pid
        both = [f":{old}:", f":{new}:"]

        def share_it() -> bool:
            workers = transformed_by(stage, load.truth)
            return all(any(pid in worker for worker in workers) for pid in both)

        assert until(share_it, within=PATIENCE), stage.bus.tail()
        stage.bus.stop("worker")
        for role in ("relay", "router"):
            stage.bus.stop(role)
            stage.start(role)
        order = f"second-{load.truth.name}"
        stage.bus.publish(*(a_step(order, step, type_name=SECOND_VERSION) for step in range(3)))
        stage.bus.delivers(order, count=3)

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.holding)
    assert stage.bus.keeper.steps(order) == [0, 1, 2]


@pytest.mark.timeout(400)
@pytest.mark.every_fault
def test_a_project_is_changed_by_restarting_workers_then_relay_and_router_then_publishers(
    project: Stage, survival: Survival
) -> None:
    stage = project
    with under_load(stage, survival.seed) as load:
        change_project(stage)
        for role in ("worker", "relay", "router"):
            stage.bus.stop(role)
            stage.start(role)
        order = f"second-{load.truth.name}"
        stage.bus.publish(*(a_step(order, step, type_name=SECOND_VERSION) for step in range(3)))
        stage.bus.delivers(order, count=3)

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.holding)
    assert [entry.step for entry in stage.bus.keeper.book if entry.order == order] == [0, 1, 2]
