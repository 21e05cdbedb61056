"""A contract reads a body, names every violated rule, and finds key, identity and what may be searched."""

from collections.abc import Mapping
from typing import Any

import pytest
from marshmallow import Schema, fields

from bus import ConfigurationError, Contract, MessageClass, MessageInvalid, OrderingKey, without_leading_zeros
from bus.model.contract import MAX_VIOLATIONS, Contracts, SchemaClass


class Line(Schema):
    value = fields.Decimal(required=True)


class Document(Schema):
    order = fields.String()
    lines = fields.List(fields.Nested(Line))
    quantity = fields.Nested(Line)


def a_contract(type_name: str = "order.release.v1", *, schema: SchemaClass = Document, **settings: Any) -> Contract:
    settings.setdefault("key", OrderingKey("order", "order", without_leading_zeros))
    return Contract(type=type_name, owner="ERP", support="somebody@plant.example", schema=schema, **settings)


def violations(contract: Contract, body: bytes) -> dict[str, str]:
    with pytest.raises(MessageInvalid) as caught:
        contract.read(body)
    assert caught.value.cause == "contract.violated"
    return {violation.place: violation.rule for violation in caught.value.violations}


def test_every_violated_field_is_named_by_its_path() -> None:
    found = violations(a_contract(), b'{"order": 7, "lines": [{"value": 1}, {}], "quantity": {"value": "x"}}')

    assert found == {
        "order": "Not a valid string.",
        "lines[1].value": "Missing data for required field.",
        "quantity.value": "Not a valid number.",
    }


def test_the_violations_of_one_message_are_bounded_and_it_is_said() -> None:
    with pytest.raises(MessageInvalid) as caught:
        a_contract().read(b'{"order": "7", "lines": [' + b"{}," * 5_000 + b"{}]}")

    assert len(caught.value.violations) == MAX_VIOLATIONS + 1
    assert caught.value.violations[-1].rule == f"and more; the first {MAX_VIOLATIONS} are named"


def test_unknown_fields_are_kept() -> None:
    assert a_contract().read(b'{"order": "1", "colour": "red"}')["colour"] == "red"


@pytest.mark.parametrize(
    ("body", "kind"), [(b"[]", "a list"), (b'"x"', "a text"), (b"null", "null"), (b"1", "a single value")]
)
def test_what_is_not_an_object_is_refused(body: bytes, kind: str) -> None:
    assert violations(a_contract(), body) == {"": f"an object is expected, not {kind}"}


@pytest.mark.parametrize("stated", ["", "order:4711", "order:00004711"])
def test_the_subject_is_normalised(stated: str) -> None:
    assert a_contract().subject_of({"order": " 00004711"}, stated=stated) == "order:4711"


@pytest.mark.parametrize(
    ("document", "stated", "cause"),
    [
        ({}, "", "key.missing"),
        ({"order": ""}, "order:1", "key.missing"),
        ({"order": None}, "", "key.missing"),
        ({"order": "1"}, "order:2", "key.contradicts"),
        ({"order": "1"}, "lot:1", "key.contradicts"),
    ],
)
def test_a_key_that_is_missing_or_contradicts_is_refused(document: Mapping[str, Any], stated: str, cause: str) -> None:
    with pytest.raises(MessageInvalid) as caught:
        a_contract().subject_of(document, stated=stated)

    assert caught.value.cause == cause
    assert caught.value.violations[0].place == "order"


def test_one_document_with_several_keys_is_refused_and_names_them() -> None:
    contract = a_contract(key=OrderingKey("order", "lines.*.order", without_leading_zeros))

    assert contract.subject_of({"lines": [{"order": "1"}, {"order": "001"}]}) == "order:1"
    with pytest.raises(MessageInvalid, match=r"key\.several.*order:1, order:2"):
        contract.subject_of({"lines": [{"order": "1"}, {"order": "2"}]})


def test_an_unordered_type_keeps_the_stated_subject() -> None:
    assert a_contract(key=None).subject_of({}, stated="anything") == "anything"


def test_the_identity_names_each_path_that_yields_nothing() -> None:
    contract = a_contract(identity=("order", "revision", "lines.*.value"))

    assert contract.identity_of({"order": 1, "revision": "a", "lines": [{"value": 2}]}) == ("1", "a", "2")
    with pytest.raises(MessageInvalid) as caught:
        contract.identity_of({"order": "1", "revision": ""})
    assert [violation.place for violation in caught.value.violations] == ["revision", "lines.*.value"]


def test_a_contract_without_identity_paths_asks_for_the_message_id() -> None:
    with pytest.raises(MessageInvalid, match=r"identity\.missing.*message_id"):
        a_contract().identity_of({"order": "1"})


def test_searchable_values_are_every_value_of_every_path() -> None:
    contract = a_contract(searchable=("order", "lines.*.value", "missing"))

    assert list(contract.searchable_values({"order": "1", "lines": [{"value": 2}, {"value": ""}, {"value": 3}]})) == [
        ("order", "1"),
        ("lines.*.value", "2"),
        ("lines.*.value", "3"),
    ]


def test_an_unknown_type_names_the_known_ones() -> None:
    contracts = Contracts([a_contract("order.release.v1"), a_contract("order.release.v2")])

    with pytest.raises(MessageInvalid, match=r"type\.version-unknown.*order\.release\.v1, order\.release\.v2"):
        contracts.of("order.release.v3")
    with pytest.raises(MessageInvalid, match=r"type\.unknown.*order\.release\.v1"):
        contracts.of("order.relase.v1")


@pytest.mark.parametrize(
    "name", ["order", "order.v1", "Order.release.v1", "order.release", "order.release.v0", "order..a.v1"]
)
def test_a_type_name_has_domain_name_and_major_version(name: str) -> None:
    with pytest.raises(ConfigurationError, match="<domain>"):
        Contracts([a_contract(name)])


def test_types_that_share_a_kind_of_subject_share_a_class() -> None:
    with pytest.raises(ConfigurationError, match="share the subject kind 'order'"):
        Contracts([a_contract(), a_contract("order.seen.v1", message_class=MessageClass.EVENT)])


def test_a_type_is_declared_once() -> None:
    with pytest.raises(ConfigurationError, match="twice"):
        Contracts([a_contract(), a_contract()])
