"""A schema compiled into plain functions for the hot path: they load what marshmallow would, and leave it the refusals.

marshmallow stays the definition. What is compiled are its own fields (String, Integer, Boolean, Date, Time, DateTime,
List, Nested) and some of its validators; other validators, and fields that have a `_deserialize` of their own, are
asked themselves. A schema with more of its own (hooks but validates_schema, `partial`, `many`, dotted attributes) is
loaded by marshmallow, with all that is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from datetime import date, datetime, time
from typing import Any

from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, missing
from marshmallow.decorators import POST_LOAD, PRE_LOAD, VALIDATES, VALIDATES_SCHEMA
from marshmallow.validate import Length, OneOf, Regexp

Load = Callable[[Any, Any], Any]
"""(value, the document it stands in) → what is loaded of it; raises Undecided or ValidationError."""

Judge = Callable[[Any], object]
"""Raises ValidationError for what is not accepted."""

Claim = Callable[[Any], object]
"""Truthy for what is accepted."""

_SCHEMA_STEPS = (
    "load",
    "_do_load",
    "_deserialize",
    "_call_and_store",
    "_invoke_field_validators",
    "_invoke_schema_validators",
    "_run_validator",
)
_FIELD_STEPS = ("deserialize", "_validate_missing")
_NESTED_STEPS = ("_deserialize", "_load", "_test_collection", "schema")
_ISO_PARSERS = (datetime.fromisoformat, date.fromisoformat, time.fromisoformat)


class Undecided(Exception):
    """marshmallow must be asked: it refuses the value, or takes it in a form that is not compiled."""


def compiled(schema: Schema) -> Callable[[Any], Any]:
    """A function that returns what `schema.load` returns, several times faster.

    The function raises Undecided wherever `schema.load` raises ValidationError, and rarely elsewhere. Ask `schema.load`
    then, and give it a fresh document: fields of the schema may have changed the one that was tried.
    """
    load = _schema(schema, schema.unknown) if _is_understood(schema) else None

    def load_or_leave(document: Any) -> Any:
        try:
            return schema.load(document) if load is None else load(document, None)
        except ValidationError as error:
            raise Undecided from error

    return load_or_leave


def _is_understood(schema: Schema) -> bool:
    hooks, loaded = schema._hooks, schema.load_fields.items()
    return (
        _has_steps_of(Schema, schema, _SCHEMA_STEPS)
        and not (hooks[PRE_LOAD] or hooks[POST_LOAD] or hooks[VALIDATES])
        and not schema.many
        and schema.partial is None
        and schema.dict_class is dict
        and all(_has_steps_of(fields.Field, field, _FIELD_STEPS) for _, field in loaded)
        and not any("." in (field.attribute or name) for name, field in loaded)
    )


def _has_steps_of(kind: type, of: object, steps: tuple[str, ...]) -> bool:
    return all(getattr(type(of), step) is getattr(kind, step) for step in steps)


def _schema(schema: Schema, unknown: str) -> Load:
    plan = []
    for name, field in schema.load_fields.items():
        key = field.data_key if field.data_key is not None else name
        plan.append((key, field.attribute or name, _field(field, key), _absent(field)))
    known = frozenset(key for key, *_ in plan)
    knows_all = known.issuperset
    validators = _schema_validators(schema)

    def load(document: Any, _: Any) -> dict[str, Any]:
        if type(document) is not dict:
            raise Undecided
        loaded = {}
        value_of = document.get
        for key, attribute, load_field, default in plan:
            value = value_of(key, missing)
            if value is not missing:
                loaded[attribute] = load_field(value, document)
            elif default is not None:
                loaded[attribute] = default()
        if unknown != EXCLUDE and not knows_all(document):
            if unknown == RAISE:
                raise Undecided
            loaded.update((key, value) for key, value in document.items() if key not in known)
        for validate, takes_original in validators:
            original = (document,) if takes_original else ()
            validate(loaded, *original, partial=None, many=False, unknown=unknown)
        return loaded

    return load


def _absent(field: fields.Field[Any]) -> Callable[[], Any] | None:
    """What makes the value of a field that is not there; None where nothing does."""
    default = field.load_default
    if field.required:
        return _refused
    if default is missing or callable(default):
        return None if default is missing else lambda: _made(default())
    return lambda: default


def _refused() -> None:
    raise Undecided


def _made(value: Any) -> Any:
    """The value, unless it is marshmallow's word for none at all."""
    if value is missing:
        raise Undecided
    return value


def _schema_validators(schema: Schema) -> list[tuple[Callable[..., object], bool]]:
    """(method, whether it takes the original document too), in the order in which marshmallow asks them."""
    return [
        (getattr(schema, name), settings.get("pass_original", False))
        for of_collections in (True, False)
        for name, takes_collection, settings in schema._hooks[VALIDATES_SCHEMA]
        if takes_collection is of_collections
    ]


def _field(field: fields.Field[Any], name: str | None) -> Load:
    if field.pre_load or field.post_load:
        return lambda value, document: _made(field.deserialize(value, name, document))
    load = _not_null(field, name)
    return load if not field.allow_none else lambda value, document: None if value is None else load(value, document)


def _not_null(field: fields.Field[Any], name: str | None) -> Load:
    judges = _judges(field)
    own = _own(field, name, judges)
    if type(field) is fields.Integer:
        return _exact(int, own, judges)
    match type(field)._deserialize:
        case fields.String._deserialize:
            return _text(judges)
        case fields.Boolean._deserialize if _means_what_it_says(field):
            return _exact(bool, own, judges)
        case fields.DateTime._deserialize | fields.AwareDateTime._deserialize if _is_iso(field):
            return _iso_time(field, judges)
        case fields.List._deserialize:
            return _list(field, judges)
        case fields.Nested._deserialize if _has_steps_of(fields.Nested, field, _NESTED_STEPS):
            return _nested(field, name, judges)
    return own


def _means_what_it_says(field: fields.Field[Any]) -> bool:
    assert isinstance(field, fields.Boolean)
    return True in field.truthy and False in field.falsy and False not in field.truthy


def _judges(field: fields.Field[Any]) -> tuple[Judge, ...]:
    is_usual = _has_steps_of(fields.Field, field, ("_validate", "_validate_all"))
    return tuple(field.validators) if is_usual else (field._validate,)


def _own(field: fields.Field[Any], name: str | None, judges: tuple[Judge, ...]) -> Load:
    deserialize = field._deserialize

    def own(value: Any, document: Any) -> Any:
        if value is None:
            raise Undecided
        loaded = _made(deserialize(value, name, document))
        for judge in judges:
            judge(loaded)
        return loaded

    return own


def _exact(kind: type, own: Load, judges: tuple[Judge, ...]) -> Load:
    """A value of this very type is loaded as it is, another (`"5"` for a number) by the field itself."""

    def exact(value: Any, document: Any) -> Any:
        if type(value) is not kind:
            return own(value, document)
        for judge in judges:
            judge(value)
        return value

    return exact


def _text(judges: tuple[Judge, ...]) -> Load:
    """A text; its usual rules are asked as claims, which call nothing that is written in Python."""
    least, most = 0, 2**62
    claims: list[Claim] = []
    others: list[Judge] = []
    for judge in judges:
        if type(judge) is Length and judge.equal is None:
            least = max(least, judge.min or 0)
            most = min(most, most if judge.max is None else judge.max)
        elif type(judge) is Regexp and isinstance(judge.regex.pattern, str):
            claims.append(judge.regex.match)
        elif type(judge) is OneOf and isinstance(judge.choices, Container):
            claims.append(judge.choices.__contains__)
        else:
            others.append(judge)

    def text(value: Any, _: Any) -> str:
        if type(value) is not str or not least <= len(value) <= most:
            raise Undecided
        for holds in claims:
            if not holds(value):
                raise Undecided
        for judge in others:
            judge(value)
        return value

    return text


def _is_iso(field: fields.Field[Any]) -> bool:
    """Whether a date, a time or both is written by ISO 8601; one that must be aware takes no zone from the schema."""
    assert isinstance(field, (fields.DateTime, fields.Date, fields.Time))
    parse = field.DESERIALIZATION_FUNCS.get(field.format or field.DEFAULT_FORMAT)
    return parse in _ISO_PARSERS and getattr(field, "default_timezone", None) is None


def _iso_time(field: fields.Field[Any], judges: tuple[Judge, ...]) -> Load:
    assert isinstance(field, (fields.DateTime, fields.Date, fields.Time))
    parse: Callable[[str], Any] = field.DESERIALIZATION_FUNCS[field.format or field.DEFAULT_FORMAT]
    is_aware = isinstance(field, fields.AwareDateTime)

    def iso_time(value: Any, _: Any) -> Any:
        if type(value) is not str:
            raise Undecided
        try:
            moment = parse(value)
        except ValueError as error:
            raise Undecided from error
        if is_aware and moment.tzinfo is None:
            raise Undecided
        for judge in judges:
            judge(moment)
        return moment

    return iso_time


def _list(field: fields.Field[Any], judges: tuple[Judge, ...]) -> Load:
    assert isinstance(field, fields.List)
    load = _field(field.inner, None)

    def every(value: Any, _: Any) -> list[Any]:
        if type(value) is not list:
            raise Undecided
        loaded = [load(each, None) for each in value]
        for judge in judges:
            judge(loaded)
        return loaded

    return every


def _nested(field: fields.Field[Any], name: str | None, judges: tuple[Judge, ...]) -> Load:
    assert isinstance(field, fields.Nested)

    load: Load | None = None

    def nested(value: Any, document: Any) -> Any:
        nonlocal load
        if load is None:  # compiled when it first occurs: a schema may nest itself
            schema = field.schema
            unknown = field.unknown if field.unknown is not None else schema.unknown
            load = _schema(schema, unknown) if _is_understood(schema) else _own(field, name, ())
        loaded = load(value, document)
        for judge in judges:
            judge(loaded)
        return loaded

    return nested
