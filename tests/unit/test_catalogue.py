"""What a project is refused for: one test per complaint, each naming the thing and what to change."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from bus.errors import ConfigurationError
from bus.model.catalogue import Catalogue
from bus.model.message import BUS, Opened, Outgoing
from bus.model.message_class import MessageClass
from bus.model.predicate import on
from bus.model.route import Route
from bus.model.transformer import TransformContext, transformer
from bus.model.values import ValueMaps
from tests.small_project import TO_BUS, TO_TARGET, endpoint, small_catalogue


@transformer(takes="test.step.v1", makes="made.nowhere.v1")
def make_something_unknown(opened: Opened, context: TransformContext) -> Outgoing:
    return Outgoing(type="made.nowhere.v1", body=opened.message.body)


@transformer(takes="native.step.v1", makes="target.step.v1")
def make_no_canonical_type(opened: Opened, context: TransformContext) -> Outgoing:
    return Outgoing(type="target.step.v1", body=opened.message.body)


@transformer(takes=["machine.state.v1", "native.step.v1"], makes="test.step.v1")
def make_a_step_of_a_state(opened: Opened, context: TransformContext) -> Outgoing:
    return Outgoing(type="test.step.v1", body=opened.message.body)


def _complaints(catalogue: Catalogue) -> list[str]:
    return list(catalogue.complaints())


def _with_system(**changes: object) -> Catalogue:
    plain = small_catalogue()
    changed = replace(plain.systems["mes-1"], **changes)  # type: ignore[arg-type]  # changes name fields of System
    return replace(plain, systems={**plain.systems, "mes-1": changed})


def test_a_project_that_fits_together_is_taken() -> None:
    catalogue = small_catalogue()

    catalogue.check()

    assert _complaints(catalogue) == []


def test_every_complaint_is_told_at_once() -> None:
    catalogue = replace(_with_system(sites=("P9",), publishes=("unknown.thing.v1",)), endpoints={})

    with pytest.raises(ConfigurationError) as refused:
        catalogue.check()

    assert str(refused.value).splitlines() == _complaints(catalogue)
    assert len(_complaints(catalogue)) == 4


# --- routes ----------------------------------------------------------------------------------------------------------


def test_a_route_of_a_type_without_a_contract_is_refused() -> None:
    route = Route(name="steps", when=on("unknown.step.v1"), to="target")

    assert _complaints(small_catalogue(route)) == ["route steps: type 'unknown.step.v1' has no contract"]


def test_a_route_to_an_endpoint_that_nobody_serves_is_refused() -> None:
    route = Route(name="steps", when=on("test.step.v1"), to="nobody")

    assert _complaints(small_catalogue(route)) == [
        "route steps: nobody serves endpoint 'nobody' (declared: archive, target)"
    ]


def test_a_transformer_that_does_not_take_the_routes_type_is_refused() -> None:
    route = replace(TO_TARGET, when=on("test.step.v1", "native.step.v1"))

    assert _complaints(small_catalogue(route)) == [
        "route steps-to-target: tests.small_project.for_the_target does not take native.step.v1"
    ]


def test_a_transformer_that_makes_a_type_without_a_contract_is_refused() -> None:
    route = Route(name="steps", when=on("test.step.v1"), to="target", transform=make_something_unknown)

    (complaint,) = _complaints(small_catalogue(route))

    assert complaint.endswith("make_something_unknown makes 'made.nowhere.v1', a type without a contract")


def test_what_enters_the_bus_must_be_canonical() -> None:
    route = Route(name="steps", when=on("native.step.v1"), to=BUS, transform=make_no_canonical_type)

    assert _complaints(small_catalogue(route)) == ["route steps: to=BUS, but target.step.v1 is not canonical"]


def test_what_enters_the_bus_keeps_its_class() -> None:
    route = Route(name="states", when=on("machine.state.v1"), to=BUS, transform=make_a_step_of_a_state)

    assert _complaints(small_catalogue(route)) == [
        "route states: what it takes and makes is of several classes (declared: event, transaction)"
    ]


def test_routes_that_make_a_type_of_itself_are_refused() -> None:
    @transformer(takes="test.step.v1", makes="native.step.v1")
    def back(opened: Opened, context: TransformContext) -> Outgoing:
        return Outgoing(type="native.step.v1", body=opened.message.body)

    there = Route(name="there", when=on("native.step.v1"), to=BUS, transform=TO_BUS.transform)
    and_back = Route(name="and-back", when=on("test.step.v1"), to=BUS, transform=back)

    complaints = [text for text in _complaints(small_catalogue(there, and_back)) if "ring" in text]

    assert complaints == [
        "route there: to=BUS leads in a ring (there, and-back): native.step.v1 → test.step.v1 → native.step.v1; "
        "a message would enter for ever: let one of them make another type"
    ]


def test_a_route_that_makes_what_it_takes_is_refused() -> None:
    @transformer(takes="test.step.v1", makes="test.step.v1")
    def same(opened: Opened, context: TransformContext) -> Outgoing:
        return Outgoing(type="test.step.v1", body=opened.message.body)

    (complaint,) = _complaints(small_catalogue(Route(name="again", when=on("test.step.v1"), to=BUS, transform=same)))

    assert "ring (again): test.step.v1 → test.step.v1;" in complaint


def test_one_type_that_several_routes_make_is_no_ring() -> None:
    twice = [Route(name=name, when=on("native.step.v1"), to=BUS, transform=TO_BUS.transform) for name in ("a", "b")]

    assert _complaints(small_catalogue(*twice, TO_TARGET)) == []


# --- systems and endpoints -------------------------------------------------------------------------------------------


def test_a_system_at_an_undeclared_site_is_refused() -> None:
    assert _complaints(_with_system(sites=("P1", "P9"))) == ["system mes-1: site 'P9' is not declared (declared: P1)"]


def test_a_system_that_publishes_a_type_without_a_contract_is_refused() -> None:
    assert _complaints(_with_system(publishes=("unknown.thing.v1",))) == [
        "system mes-1 publishes 'unknown.thing.v1', which has no contract"
    ]


def test_a_system_states_only_what_its_role_owns() -> None:
    assert _complaints(_with_system(role="ERP", publishes=("test.step.v1",))) == [
        "system mes-1 (ERP) publishes test.step.v1, whose owner is MES: a system states only what its role owns"
    ]


def test_a_bridge_that_speaks_for_an_undeclared_system_is_refused() -> None:
    assert _complaints(_with_system(speaks_for=("mes-9",))) == [
        "system mes-1 speaks for 'mes-9', which is not declared"
    ]


def test_an_endpoint_of_an_undeclared_system_is_refused() -> None:
    catalogue = small_catalogue(target=endpoint("target", system="nobody"))

    assert _complaints(catalogue) == ["endpoint target: system 'nobody' is not declared (declared: mes-1, target-1)"]


def test_an_endpoint_whose_bookings_would_count_as_absent_too_early_is_refused() -> None:
    minute = timedelta(seconds=60)

    in_time = small_catalogue(target=endpoint("target", timeout=minute, visible_after=minute))
    early = small_catalogue(target=endpoint("target", timeout=minute, visible_after=minute * 0.9))

    assert _complaints(in_time) == []
    assert _complaints(early) == ["endpoint target: visible_after is below its timeout; a late booking would be missed"]


# --- what the pipeline asks ------------------------------------------------------------------------------------------


def test_kinds_of_subjects_that_native_messages_enter_with_are_known() -> None:
    assert small_catalogue().entering_kinds == {"order"}
    assert small_catalogue(TO_TARGET).entering_kinds == frozenset()


def test_each_class_has_its_own_transform_queue_and_each_endpoint_its_send_queue() -> None:
    catalogue = small_catalogue()

    assert set(catalogue.queues) == {"transform.transaction", "transform.event", "send.target", "send.archive"}
    assert catalogue.transform_queue("machine.state.v1") == "transform.event"
    assert catalogue.transform_queue("test.step.v1") == "transform.transaction"


def test_a_type_that_is_gone_is_handled_as_a_transaction() -> None:
    assert small_catalogue().message_class("gone.thing.v1") is MessageClass.TRANSACTION


def test_a_partner_without_maps_has_an_empty_set_of_its_name() -> None:
    maps = ValueMaps("target-1")

    assert replace(small_catalogue(), maps={"target-1": maps}).maps_of("target-1") is maps
    assert small_catalogue().maps_of("mes-1") == ValueMaps("mes-1")
