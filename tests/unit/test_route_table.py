"""The route table selects what a look at every route would select, and costs nothing for the others."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import BUS, ConfigurationError, Message, Opened, Predicate, Route, field, header, on
from bus.model.route import RouteTable, Selection, types_of

TYPES = ["a.one.v1", "a.two.v1", "a.three.v1"]
SCALARS = st.sampled_from(["P100", "P200", 1, 0, True, None, 1.5])


def a_route(name: str, when: Predicate | Any) -> Route:
    return Route(name=name, when=when, to="somewhere")


def opened(type_name: str, document: dict[str, Any], site: str = "P100") -> Opened:
    message = Message(id="1", type=type_name, system="erp", site=site, subject="", content_type="", body=b"")
    return Opened(message, document)


operands = st.sampled_from(["site", "plan.site", "lines.*.site"]).map(field) | st.just(header("site"))
leaves = st.one_of(
    st.builds(lambda operand, value: operand == value, operands, SCALARS),
    st.builds(lambda operand, value: operand != value, operands, SCALARS),
    st.builds(lambda operand, value: operand > value, operands, SCALARS),
    st.builds(lambda operand, values: operand.is_in(*values), operands, st.lists(SCALARS, max_size=3)),
    st.builds(lambda operand: operand.exists(), operands),
    st.lists(st.sampled_from(TYPES), min_size=1, max_size=2).map(lambda types: on(*types)),
)
predicates = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda left, right: left & right, inner, inner),
        st.builds(lambda left, right: left | right, inner, inner),
        st.builds(lambda part: ~part, inner),
    ),
    max_leaves=6,
)
routed = st.builds(lambda types, rest: on(*types) & rest, st.lists(st.sampled_from(TYPES), min_size=1), predicates)
values = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.just("x"), SCALARS)
documents = st.fixed_dictionaries(
    {},
    optional={
        "site": values,
        "plan": st.fixed_dictionaries({}, optional={"site": values}) | SCALARS,
        "lines": st.lists(st.fixed_dictionaries({}, optional={"site": values}), max_size=2),
    },
)


@given(
    st.lists(predicates | routed, max_size=8),
    st.sampled_from([*TYPES, "other.type.v1"]),
    documents,
    st.sampled_from(["P100", "P200"]),
)
def test_the_index_selects_what_a_look_at_every_route_selects(
    when: list[Predicate], type_name: str, document: dict[str, Any], site: str
) -> None:
    routes = [a_route(f"r-{index}", predicate) for index, predicate in enumerate(when)]
    message = opened(type_name, document, site)

    found = RouteTable(routes).select(message)

    assert found == [Selection(route) for route in routes if route.predicate.holds(message)]


def test_routes_that_do_not_match_by_type_or_first_equality_are_not_looked_at() -> None:
    looked_at = []

    def watch(name: str) -> Any:
        def note(_: Opened) -> bool:
            looked_at.append(name)
            return True

        return note

    class Watched(Predicate):
        def __init__(self, name: str, inner: Predicate) -> None:
            self.inner, self.note = inner, watch(name)

        def holds(self, opened: Opened) -> bool:
            return bool(self.note(opened)) and self.inner.holds(opened)

        def explain(self, opened: Opened) -> Any:
            return self.inner.explain(opened)

        def equalities(self) -> Any:
            return self.inner.equalities()

    table = RouteTable(
        a_route(f"site-{n}", Watched(f"site-{n}", on("a.one.v1") & (field("site") == f"P{n}"))) for n in range(50)
    )

    assert [found.route.name for found in table.select(opened("a.one.v1", {"site": "P7"}))] == ["site-7"]
    assert looked_at == ["site-7"]


def test_a_predicate_that_raises_is_selected_with_its_error() -> None:
    def broken(_: Opened) -> bool:
        raise KeyError("no such field")

    table = RouteTable([a_route("broken", broken), a_route("sound", on("a.one.v1"))])

    broken_one, sound_one = table.select(opened("a.one.v1", {}))

    assert (broken_one.cause, broken_one.error) == ("predicate.raised", "KeyError: 'no such field'")
    assert sound_one == Selection(table.routes[1])


@pytest.mark.parametrize("document", [{}, {"pallet": None}, {"pallets": [{"id": 7}]}])
def test_a_document_without_the_path_a_route_orders_by_is_selected_with_its_error(document: dict[str, Any]) -> None:
    table = RouteTable([Route(name="by-pallet", when=on("a.one.v1"), to="x", key="pallet")])

    (selection,) = table.select(opened("a.one.v1", document))

    assert selection.cause == "key.missing"
    assert "by-pallet orders by pallet" in selection.error


def test_two_routes_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="two routes are named 'r'"):
        RouteTable([a_route("r", on("a.one.v1")), a_route("r", on("a.two.v1"))])


@pytest.mark.parametrize("name", ["", "Released", "to_erp", "to erp", "-x"])
def test_a_route_name_is_words_joined_by_hyphens(name: str) -> None:
    with pytest.raises(ConfigurationError, match="joined by hyphens"):
        a_route(name, on("a.one.v1"))


def test_a_route_to_the_bus_makes_canonical() -> None:
    with pytest.raises(ConfigurationError, match="needs a transform"):
        Route(name="r", when=on("a.one.v1"), to=BUS)


def test_the_types_of_a_route_are_those_it_names() -> None:
    assert types_of(a_route("r", on("a.one.v1", "a.two.v1") & (field("x") == 1))) == {"a.one.v1", "a.two.v1"}
    assert types_of(a_route("r", field("x") == 1)) == frozenset()


def test_the_lane_key_is_the_subject_a_field_or_nothing() -> None:
    message = Message(id="1", type="a.one.v1", system="s", site="P", subject="order:1", content_type="", body=b"")
    document = {"pallet": 7}

    def key(setting: str | None) -> str:
        return Route(name="r", when=on("a.one.v1"), to="x", key=setting).lane_key(Opened(message, document))

    assert (key("subject"), key("pallet"), key("colour"), key(None)) == ("order:1", "pallet:7", "", "")
