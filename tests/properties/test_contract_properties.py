"""Compiled contracts and marshmallow agree: on what is taken, what is loaded of it, and what is said of a refusal."""

from __future__ import annotations

import copy
import enum
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marshmallow import (
    EXCLUDE,
    INCLUDE,
    RAISE,
    Schema,
    ValidationError,
    fields,
    missing,
    post_load,
    pre_load,
    validate,
    validates,
    validates_schema,
)
from marshmallow.types import UnknownOption

from bus import Contract, MessageInvalid
from bus.model.compiled import Undecided, compiled
from tests.project.project import contracts

CONTRACTS = list(contracts().values())
JSON_CONTRACTS = [each for each in CONTRACTS if each.content_types == ("application/json",)]
XML_CONTRACTS = [each for each in CONTRACTS if each not in JSON_CONTRACTS]

LEAVES: list[Any] = [
    *("", " ", "0", "5", "12.5", "-1", "1e5", "x", "P100", "Released", "PCE", "true", "NaN", "a" * 41, "X", "x\n", "٣"),
    *("2026-03-02", "2026-03-02T07:00:00+01:00", "2026-03-02 07:00:00", "0001-01-01T00:00:00Z", "07:00", "2026-13-01"),
    *("0b7e0e9c-5d0e-4a53-a5f1-3c8a4f5a1a01", "/Date(1772409600000)/", "PT07H04M00S", "red", "a@b.example"),
    *(None, True, False, 0, 1, -1, 5, 10**20, 2**80),
]
leaves = st.sampled_from(LEAVES) | st.decimals(allow_nan=False, allow_infinity=False, places=2) | st.text(max_size=3)


def typed(value: Any) -> object:
    """The value with its types; the order of what a schema does not know is no promise of marshmallow's."""
    if isinstance(value, dict):
        return type(value), {key: typed(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value), [typed(item) for item in value]
    return type(value), repr(value)


# --- the contracts of the project ------------------------------------------------------------------------------------


def by_marshmallow(contract: Contract) -> Contract:
    def undecided(_: object) -> None:
        raise Undecided

    slow = replace(contract)
    vars(slow)["_load"] = undecided
    return slow


def outcome(contract: Contract, body: bytes) -> object:
    try:
        return typed(contract.read(body))
    except MessageInvalid as error:
        return error.cause, error.violations


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    keys: list[Any] = (
        list(document)
        if isinstance(document, dict)
        else list(range(len(document) if isinstance(document, list) else 0))
    )
    for key in keys:
        yield document, key
        yield from places(document[key])


def changed(draw: st.DrawFn, document: Any) -> None:
    container, key = draw(st.sampled_from(list(places(document))))
    match draw(st.sampled_from(["replace", "replace", "remove", "add", "empty", "double", "wrap"])):
        case "replace":
            container[key] = draw(leaves.map(lambda leaf: leaf if isinstance(leaf, (str, int)) else None))
        case "remove":
            del container[key]
        case "add" if isinstance(container, dict):
            container[draw(st.sampled_from(["colour", "id", "value", "site", "at"]))] = draw(st.sampled_from(LEAVES))
        case "empty":
            container[key] = draw(st.sampled_from([[], {}, [[]], [{}], [None], {"id": None}, {"id": "1"}]))
        case "double" if isinstance(container[key], list):
            container[key] = container[key] * 2
        case _:
            container[key] = [container[key]]


@st.composite
def json_messages(draw: st.DrawFn) -> tuple[Contract, bytes]:
    contract = draw(st.sampled_from(JSON_CONTRACTS))
    document = json.loads(draw(st.sampled_from(contract.examples)))
    for _ in range(draw(st.integers(0, 3))):
        if document:
            changed(draw, document)
    return contract, json.dumps(document).encode()


@st.composite
def xml_messages(draw: st.DrawFn) -> tuple[Contract, bytes]:
    """An example with texts of its elements replaced, or elements dropped, or named otherwise."""
    contract = draw(st.sampled_from(XML_CONTRACTS))
    pieces = draw(st.sampled_from(contract.examples)).decode().split("<")
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(1, len(pieces) - 1))
        tag, bracket, _text = pieces[at].partition(">")
        replaced = tag + bracket + draw(st.sampled_from([leaf for leaf in LEAVES if isinstance(leaf, str)]))
        pieces[at] = draw(st.sampled_from([replaced, replaced, replaced, f"x/>{replaced}", f"x:{pieces[at]}"]))
    return contract, "<".join(pieces).encode()


@settings(max_examples=500)
@given(json_messages() | xml_messages())
def test_a_contract_reads_as_marshmallow_alone_would(message: tuple[Contract, bytes]) -> None:
    contract, body = message

    assert outcome(contract, body) == outcome(by_marshmallow(contract), body)


@given(st.sampled_from(CONTRACTS), st.binary(max_size=50))
def test_garbage_is_refused_as_marshmallow_alone_would(contract: Contract, body: bytes) -> None:
    assert outcome(contract, body) == outcome(by_marshmallow(contract), body)


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.type)
def test_what_plants_send_is_not_left_to_marshmallow(contract: Contract, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [contract.reader(body) for body in contract.examples]
    expected = [typed(contract.checker.load(document)) for document in documents]
    load = compiled(contract.checker)
    monkeypatch.setattr(Schema, "_do_load", None)

    assert [typed(load(document)) for document in documents] == expected


# --- schemas of any form ---------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"


class Strict(fields.String):
    """Its own way of making a value."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if value == "x":
            return missing
        if value == "0":
            raise ValidationError([f"{attr} of {sorted(data or {})}"])
        return [super()._deserialize(value, attr, data, **kwargs)]


class Judging(fields.String):
    """Its own way of judging one."""

    def _validate(self, value: Any) -> None:
        if value == "5":
            raise ValidationError("five")


class Whole(fields.String):
    """Its own way of everything."""

    def deserialize(
        self, value: Any, attr: str | None = None, data: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        return "absent" if value is missing else value


class Said(Schema):
    a = fields.String(required=True)
    b = fields.Integer()
    f = fields.Integer(load_default=0)

    class Meta:
        register = False


class Hooked(Said):
    @pre_load
    def _unwrap(self, document: Any, **_: object) -> Any:
        if isinstance(document, dict):
            document.pop("c", None)
        return document


class Finished(Said):
    @post_load
    def _finish(self, document: dict[str, Any], **_: object) -> dict[str, Any]:
        return document | {"finished": True}


class Judged(Said):
    @validates("a")
    def _a(self, value: str, data_key: str) -> None:
        if value == "x":
            raise ValidationError(f"{data_key} is x")


class Seen(Said):
    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _both(self, document: dict[str, Any], original: Any, **said: object) -> None:
        document["seen"] = sorted(said)
        if "c" in original:
            raise ValidationError("no c", "b")

    @validates_schema(pass_collection=True)
    def _first(self, document: dict[str, Any], **_: object) -> None:
        document["seen"] = "first"


class Loading(Said):
    def load(self, data: Any, **settings: Any) -> Any:
        return {"loaded": super().load(data, **settings)}


class Tree(Said):
    kids = fields.List(fields.Nested(lambda: Tree(unknown=EXCLUDE)))


class Grown(dict[str, Any]):
    """Another dict."""


class Growing(Said):
    dict_class = Grown


class Deep(Said):
    c = fields.String(attribute="d.e")


class Renaming(fields.Nested):
    """Its own way of loading what is nested."""

    def _load(self, value: Any, partial: Any = None) -> Any:
        return {"renamed": super()._load(value, partial)}


SCHEMAS: list[type[Schema]] = [Said, Hooked, Finished, Judged, Seen, Loading, Tree, Growing, Deep]


def even(value: object) -> None:
    if isinstance(value, int) and value % 2:
        raise ValidationError("odd")


def twice(value: Any) -> Any:
    return value * 2 if isinstance(value, str) else missing if value == 5 else value


Rules = list[Callable[[Any], Any]]
TEXT_RULES: list[Rules] = [
    [],
    [validate.Length(min=1, max=4)],
    [validate.Length(equal=1), even],
    [validate.Length(min=2), validate.Length(max=3), validate.Length(min=1), validate.Regexp(r"\w+\Z")],
    [validate.OneOf(("x", "5", "red"))],
    [validate.OneOf("x5"), validate.ContainsOnly("x5")],
    [even],
]
NUMBER_RULES: list[Rules] = [[], [even], [validate.Range(min=0, max=5)], [validate.OneOf([0, 5])]]

Kind = Callable[..., fields.Field[Any]]
UNKNOWN: list[UnknownOption] = [EXCLUDE, INCLUDE, RAISE]


def ruled(kind: Kind, rules: Rules) -> Kind:
    return lambda **settings: kind(validate=list(rules), **settings)


def with_options(kind: Kind, *values: Any, **options: Any) -> Kind:
    return lambda **settings: kind(*values, **options, **settings)


KINDS: list[Kind] = [
    *(ruled(kind, rules) for kind in (fields.String, Strict, Judging, Whole) for rules in TEXT_RULES),
    *(ruled(kind, rules) for kind in (fields.Integer, fields.Float, fields.Decimal) for rules in NUMBER_RULES),
    *(fields.Boolean, fields.Date, fields.Time, fields.DateTime, fields.AwareDateTime, fields.NaiveDateTime),
    *(fields.UUID, fields.Email, fields.Raw, fields.Dict),
    with_options(fields.Integer, strict=True),
    with_options(fields.Boolean, truthy={"x"}, falsy={False, True}),
    with_options(fields.Boolean, truthy=set()),
    with_options(fields.Boolean, truthy={False}, falsy={True}),
    with_options(fields.Date, validate=lambda day: even(day.day)),
    with_options(fields.DateTime, "timestamp"),
    with_options(fields.DateTime, "%Y-%m-%d"),
    with_options(fields.AwareDateTime, default_timezone=timezone(timedelta(hours=1))),
    with_options(fields.Dict, values=fields.Integer()),
    with_options(fields.Enum, Colour),
    with_options(fields.Pluck, Said, "b"),
    with_options(fields.Tuple, (fields.String(), fields.Integer())),
    with_options(fields.Constant, 7),
    with_options(fields.String, pre_load=twice),
    with_options(fields.Raw, post_load=twice),
    with_options(fields.List, fields.String(validate=validate.Length(max=4)), validate=validate.Length(min=1)),
    with_options(fields.List, fields.Integer(allow_none=True)),
    with_options(fields.List, Strict()),
    with_options(fields.List, fields.Nested(Said)),
    with_options(Renaming, Said),
    *(with_options(fields.Nested, Said, unknown=unknown) for unknown in UNKNOWN),
    *(with_options(fields.Nested, Said(unknown=INCLUDE), unknown=unknown) for unknown in UNKNOWN),
    *(with_options(fields.Nested, kind, many=many) for kind in SCHEMAS for many in (None, True)),
    *(with_options(fields.Nested, kind) for kind in (Said(partial=True), Said(many=True), Said(unknown=INCLUDE))),
    with_options(fields.Nested, Said, validate=lambda said: even(said.get("b"))),
]
PRESENCE: list[dict[str, Any]] = [{}, {"required": True}, {"load_default": "made"}, {"load_default": list}]
SETTINGS: list[dict[str, Any]] = [
    *PRESENCE,
    *({**presence, "allow_none": True} for presence in PRESENCE),
    {"load_default": None},
    {"load_default": None, "allow_none": False},
    {"load_default": lambda: missing},
    {"data_key": "b", "attribute": "c"},
    {"attribute": "c.d"},
    {"dump_only": True},
]
PARTS: list[dict[str, Any]] = [
    *({}, {"a": "x"}, {"a": 1}, {"a": None}, {"b": 5}, {"a": "x", "b": "5"}, {"a": "P100", "b": 5, "c": 1}),
    *({"a": "x", "kids": [{"a": "x", "c": 1}]}, {"a": "x", "kids": [{"a": "x", "kids": [{"b": 1}]}]}, {"value": 1}),
]
VALUES: list[Any] = [
    *(*LEAVES, Decimal("1.50"), 1.5, datetime(2026, 3, 2, tzinfo=UTC), date(2026, 3, 2), b"x", Colour.RED, ("x", 1)),
    *(
        [],
        ["x"],
        ["x", None],
        [None],
        [5, "5"],
        ["x", 1],
        [[]],
        {"x"},
        *PARTS,
        Grown(a="x"),
        *([part] for part in PARTS),
    ),
]


def loaded(load: Callable[[Any], Any], document: Any) -> object:
    try:
        return typed(load(copy.deepcopy(document)))
    except (ValidationError, Undecided):
        return "refused"
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:  # a rule's own mistake
        return type(error)


def check(schema: Schema, tried: Iterable[Any]) -> None:
    """What is compiled loads the same; it may leave a document to marshmallow, which says the same then."""
    load = compiled(schema)
    for document in tried:
        ours = loaded(load, document)
        assert ours in ("refused", loaded(schema.load, document)), document


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_of_any_kind_loads_as_it_does(kind: Kind) -> None:
    for options in SETTINGS:
        try:
            field = kind(**options)
        except TypeError:  # a kind that sets this itself
            continue
        schema = Schema.from_dict({"a": field})(unknown=INCLUDE)
        check(schema, [{}, *({key: value} for value in VALUES for key in "ab")])


@pytest.mark.parametrize("unknown", UNKNOWN)
@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_schema_of_any_kind_loads_as_it_does(kind: type[Schema], unknown: UnknownOption) -> None:
    check(kind(unknown=unknown), VALUES)
    check(kind(unknown=unknown, partial=True), VALUES)
    check(kind(unknown=unknown, many=True), VALUES)


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    names = draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=5, unique=True))
    declared = {name: draw(st.sampled_from(KINDS)) for name in names}
    base = draw(st.sampled_from([Schema, Schema, Schema, Hooked, Finished, Seen, Tree]))
    made = base.from_dict({name: kind(**draw(st.sampled_from(PRESENCE))) for name, kind in declared.items()})
    return made(unknown=draw(st.sampled_from(UNKNOWN)))


documents = st.dictionaries(st.sampled_from("abcdefg"), st.sampled_from(VALUES), max_size=7)


@given(data=st.data())
def test_a_schema_of_several_fields_loads_as_it_does(data: st.DataObject) -> None:
    check(data.draw(schemas()), data.draw(st.lists(documents, min_size=1, max_size=5)))
