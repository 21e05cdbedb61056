"""Predicates are values: they hold or not, print themselves, and explain themselves against a message."""

from decimal import Decimal
from typing import Any

import pytest

from bus import Message, Opened, Predicate, field, header, on
from bus.model.predicate import Opaque


def opened(document: dict[str, Any] | None = None, *, type_name: str = "order.release.v1") -> Opened:
    message = Message(
        id="1",
        type=type_name,
        system="erp",
        site="P100",
        subject="order:1",
        content_type="application/json",
        body=b"{}",
    )
    return Opened(message, document or {})


A_RELEASE = {"site": "P100", "quantity": {"value": Decimal("12.5")}, "lots": [{"id": "a"}, {"id": "b"}], "note": None}


@pytest.mark.parametrize(
    "predicate",
    [
        on("order.release.v1"),
        on("order.cancel.v1", "order.release.v1"),
        header("site") == "P100",
        field("site") == "P100",
        field("site") != "P200",
        field("quantity.value") > 12,
        field("quantity.value") >= Decimal("12.5"),
        field("quantity.value") < 13,
        field("quantity.value") <= 12.5,
        field("site").is_in("P100", "P200"),
        field("lots.*.id") == "a",
        field("note").exists(),
        field("colour").is_missing(),
        ~(field("site") == "P200"),
        (field("site") == "P200") | (field("site") == "P100"),
        Opaque(lambda message: message.message.system == "erp"),
    ],
    ids=str,
)
def test_a_predicate_holds(predicate: Predicate) -> None:
    assert predicate.holds(opened(A_RELEASE))
    assert predicate.explain(opened(A_RELEASE)).holds


@pytest.mark.parametrize(
    "predicate",
    [
        on("order.cancel.v1"),
        field("colour") == "red",
        field("colour") != "red",
        field("site") > 3,
        field("note") > 3,
        field("quantity") == 12,
        field("site").is_missing(),
        (field("site") == "P100") & (field("site") == "P200"),
        ~(field("site") == "P100"),
    ],
    ids=str,
)
def test_a_predicate_fails_and_a_missing_field_or_another_kind_of_value_only_fails(predicate: Predicate) -> None:
    assert not predicate.holds(opened(A_RELEASE))
    assert not predicate.explain(opened(A_RELEASE)).holds


def test_a_predicate_prints_itself_as_it_was_written() -> None:
    predicate = on("order.release.v1") & (field("site") == "P100") & ((field("a") > 0) | ~(field("b").exists()))

    assert str(predicate) == 'header type == "order.release.v1" & site == "P100" & (a > 0 | not (b exists))'
    assert str(header("site").is_in("P200", "P100")) == 'header site in ("P100", "P200")'


def test_an_explanation_names_each_part_and_what_was_found() -> None:
    predicate = on("order.release.v1") & (field("quantity.value") > 0) & (field("colour") == "red")

    lines = list(predicate.explain(opened({"quantity": {"value": Decimal(0)}})).lines())

    assert lines == [
        "failed: all of",
        '  holds: header type == "order.release.v1", was "order.release.v1"',
        "  failed: quantity.value > 0, was 0",
        '  failed: colour == "red", was missing',
    ]


def test_equalities_are_what_must_hold_for_the_whole() -> None:
    predicate = on("a.b.v1", "a.b.v2") & (field("site") == "P100") & (field("n") > 0) & ~(field("x") == 1)

    assert dict(predicate.equalities()) == {
        ("header", "type"): frozenset({"a.b.v1", "a.b.v2"}),
        ("field", "site"): frozenset({"P100"}),
    }
    assert not dict(((field("x") == 1) | (field("y") == 2)).equalities())


def test_a_header_that_no_message_has_is_refused_when_the_route_is_written() -> None:
    with pytest.raises(ValueError, match="a message has"):
        header("colour")


def test_an_operand_alone_is_not_a_condition_to_put_into_a_set() -> None:
    with pytest.raises(TypeError):
        hash(field("site"))


def test_predicates_of_equal_parts_are_equal_values() -> None:
    assert (on("a.b.v1") & (field("x") == 1)) == (on("a.b.v1") & (field("x") == 1))
