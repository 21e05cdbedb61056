"""The project's contracts: their examples are right, what is required is required, and a refusal names the path."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from marshmallow import Schema, fields

from bus import Contract, MessageClass, MessageInvalid
from tests.project.project import contracts

EXAMPLES = [
    pytest.param(contract, body, id=f"{contract.type}-{index}")
    for contract in contracts().values()
    for index, body in enumerate(contract.examples)
]
CANONICAL = [contract for contract in contracts().values() if contract.canonical]

Path = tuple[str | int, ...]


def required_paths(schema: Schema, document: Any, path: Path = ()) -> Iterator[Path]:
    """Where in the document a required field stands, also in parts and lists of parts."""
    for name, field in schema.fields.items():
        if name not in document:
            continue
        if field.required:
            yield (*path, name)
        inner = field.inner if isinstance(field, fields.List) else field
        if isinstance(inner, fields.Nested):
            parts = document[name] if isinstance(field, fields.List) else [document[name]]
            for index, part in enumerate(parts):
                place = (*path, name, index) if isinstance(field, fields.List) else (*path, name)
                yield from required_paths(inner.schema, part, place)


def shown(path: Path) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def without(document: Any, path: Path) -> bytes:
    changed = json.loads(json.dumps(document))
    part = changed
    for step in path[:-1]:
        part = part[step]
    del part[path[-1]]
    return json.dumps(changed).encode()


REMOVALS = [
    pytest.param(contract, without(json.loads(body), path), shown(path), id=f"{contract.type}-{shown(path)}")
    for contract in CANONICAL
    for body in contract.examples[:1]
    for path in required_paths(contract.checker, json.loads(body))
]


@pytest.mark.parametrize(("contract", "body"), EXAMPLES)
def test_an_example_passes_its_own_contract(contract: Contract, body: bytes) -> None:
    document = contract.read(body)

    assert contract.subject_of(document)
    assert list(contract.searchable_values(document))


@pytest.mark.parametrize("contract", contracts().values(), ids=lambda contract: contract.type)
def test_a_contract_says_who_owns_it_and_can_be_identified_and_ordered(contract: Contract) -> None:
    assert contract.owner in ("ERP", "MES")
    assert "@" in contract.support
    assert contract.key is not None
    assert contract.key.path.split(".")[-1] != "*"
    assert contract.examples
    if contract.type != "b2mml.operations-schedule.v1":
        assert contract.identity_of(contract.read(contract.examples[0]))


@pytest.mark.parametrize(("contract", "body", "place"), REMOVALS)
def test_a_document_without_a_required_field_is_refused_and_the_path_named(
    contract: Contract, body: bytes, place: str
) -> None:
    with pytest.raises(MessageInvalid) as caught:
        contract.read(body)

    assert place in [violation.place for violation in caught.value.violations]


def test_only_equipment_is_an_event() -> None:
    events = {contract.type for contract in contracts().values() if contract.message_class is MessageClass.EVENT}

    assert events == {"equipment.status-changed.v1"}


def changed(contract_type: str, **changes: Any) -> bytes:
    return json.dumps(json.loads(contracts()[contract_type].examples[0]) | changes).encode()


@pytest.mark.parametrize(
    ("contract_type", "changes", "place", "rule"),
    [
        ("operation.confirm.v1", {"end": "2026-03-02T09:51:30"}, "end", "The time has no offset"),
        ("operation.confirm.v1", {"end": "0001-01-01T00:00:00+14:00"}, "end", "The year is not between"),
        ("operation.confirm.v1", {"yield": "NaN"}, "yield", "A decimal number is expected"),
        ("operation.confirm.v1", {"yield": "1_000"}, "yield", "A decimal number is expected"),
        ("operation.confirm.v1", {"yield": True}, "yield", "Not a valid number"),
        ("operation.confirm.v1", {"yield": "-1"}, "yield", "At least 0 is expected"),
        ("operation.confirm.v1", {"yield": 10**15}, "yield", "At most 15 digits"),
        ("operation.confirm.v1", {"uom": "KG"}, "uom", "KG is not one of the Rec 20 units"),
        ("operation.confirm.v1", {"order": {"id": 4711}}, "order.id", "Not a valid string"),
        ("operation.confirm.v1", {"order": {"id": " 4711"}}, "order.id", "An id is text without blanks around it"),
        (
            "operation.confirm.v1",
            {"activities": [{"type": "setup", "quantity": {"value": "1", "uom": "MIN"}}] * 2},
            "activities",
            "Each type of activity is confirmed once",
        ),
        ("order.release.v1", {"requestState": "Closed"}, "requestState", "Must be one of: Released"),
        ("order.state-changed.v1", {"from": "Laeuft"}, "from", "Must be one of"),
    ],
)
def test_a_value_that_a_plant_cannot_mean_is_refused_with_its_rule(
    contract_type: str, changes: dict[str, Any], place: str, rule: str
) -> None:
    with pytest.raises(MessageInvalid) as caught:
        contracts()[contract_type].read(changed(contract_type, **changes))

    (violation,) = caught.value.violations
    assert violation.place == place
    assert violation.rule.startswith(rule)


def test_leading_zeros_of_an_id_are_kept_and_the_subject_has_none() -> None:
    contract = contracts()["operation.confirm.v1"]

    document = contract.read(changed(contract.type, order={"id": "000020725187"}))

    assert document["order"]["id"] == "000020725187"
    assert contract.subject_of(document, stated="order:20725187") == "order:20725187"


def test_fields_of_a_newer_minor_version_are_taken() -> None:
    body = changed("operation.confirm.v1", order={"id": "1", "colour": "red"}, shift="B")

    assert contracts()["operation.confirm.v1"].read(body)["order"]["colour"] == "red"
