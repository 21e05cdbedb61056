"""`bus contract`: what each message type promises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.console import RenderableType
from rich.panel import Panel
from rich.text import Text

from bus.cli.bodies import readable
from bus.cli.desk import Desk, desk
from bus.cli.frame import BusGroup
from bus.cli.output import WIDE, Column

if TYPE_CHECKING:
    from marshmallow import Schema
    from marshmallow.fields import Field

    from bus.model.catalogue import Catalogue
    from bus.model.contract import Contract


@click.group(cls=BusGroup)
def contract() -> None:
    """Contracts: message types, their owners, keys and fields."""


@contract.command("list")
def list_() -> None:
    """Every message type of the project."""
    work = desk()
    contracts = work.project.catalogue.contracts
    work.out.items(
        [_summary(contracts[name], work.project.catalogue) for name in sorted(contracts)],
        Column("Type", lambda c: c["type"]),
        Column("Owner", lambda c: c["owner"]),
        Column("Class", lambda c: c["class"]),
        Column("Canonical", lambda c: "canonical" if c["canonical"] else "native"),
        Column("Key", lambda c: c["key"]),
        Column("Published by", lambda c: ", ".join(c["publishers"]), room=WIDE),
        empty="The project declares no contract.",
    )


def _summary(found: Contract, catalogue: Catalogue) -> dict[str, Any]:
    return {
        "type": found.type,
        "owner": found.owner,
        "support": found.support,
        "class": str(found.message_class),
        "canonical": found.canonical,
        "key": f"{found.key.kind}:{{{found.key.path}}}" if found.key else "",
        "identity": list(found.identity),
        "searchable": list(found.searchable),
        "content_types": list(found.content_types),
        "publishers": sorted(s.name for s in catalogue.systems.values() if found.type in s.publishes),
        "routes": [route.name for route in catalogue.routes if _takes(route.predicate, found.type)],
        "description": found.description,
    }


def _takes(predicate: Any, type_name: str) -> bool:
    types = dict(predicate.equalities()).get(("header", "type"), frozenset())
    return not types or type_name in types


@contract.command()
@click.argument("type_name", metavar="TYPE")
def show(type_name: str) -> None:
    """One type: owner, key, identity, every field with its rules, and its examples."""
    work = desk()
    catalogue = work.project.catalogue
    found = catalogue.contracts.of(type_name)
    fields = list(_fields(found.checker, ""))
    value = {**_summary(found, catalogue), "fields": fields, "examples": list(found.examples)}
    work.out.one(value, lambda: _parts(value, found, work))


def _fields(schema: Schema, path: str, inside: tuple[type[Schema], ...] = ()) -> Iterator[dict[str, Any]]:
    """Every field with its path; a schema inside itself is named once more and not entered."""
    for name, field in schema.fields.items():
        here = f"{path}{field.data_key or name}"
        yield {"path": here, "kind": _kind(field), "required": field.required, "rules": _rules(field)}
        inner, step = _inner(field)
        if inner is not None and type(inner) not in (*inside, type(schema)):
            yield from _fields(inner, f"{here}{step}.", (*inside, type(schema)))


def _inner(field: Field[Any]) -> tuple[Schema | None, str]:
    """The schema inside a field, and the step of the path that leads into it."""
    from marshmallow.fields import List, Nested

    if isinstance(field, Nested):
        return field.schema, ".*" if field.many else ""
    if isinstance(field, List) and isinstance(field.inner, Nested):
        return field.inner.schema, ".*"
    return None, ""


def _kind(field: Field[Any]) -> str:
    from marshmallow.fields import List

    if isinstance(field, List):
        return f"list of {_kind(field.inner)}"
    return type(field).__name__


def _rules(field: Field[Any]) -> str:
    return "; ".join(_rule(validator) for validator in field.validators)


def _rule(validator: object) -> str:
    """A rule in words; one of the project's own by its name."""
    from marshmallow.validate import Length, OneOf, Range, Regexp

    match validator:
        case Length():
            return f"{_span(validator.min, validator.max)} letters"
        case Range():
            return _span(validator.min, validator.max)
        case OneOf():
            return f"one of {', '.join(map(str, validator.choices))}"
        case Regexp():
            return str(validator.error)
    return str(getattr(validator, "__name__", type(validator).__name__)).strip("_").replace("_", " ")


def _span(least: object, most: object) -> str:
    if most is None:
        return f"at least {least}"
    return f"at most {most}" if least is None else f"{least} to {most}"


def _parts(value: dict[str, Any], found: Contract, work: Desk) -> Iterator[RenderableType]:
    yield Text(found.type, style="bold")
    yield work.out.fields(
        (
            ("", found.description),
            ("owner", found.owner),
            ("support", found.support),
            ("class", value["class"]),
            ("form", "canonical" if found.canonical else "native"),
            ("key", value["key"] or "none: unordered"),
            ("identity", ", ".join(found.identity) or "message_id is required"),
            ("searchable", ", ".join(found.searchable)),
            ("content types", ", ".join(found.content_types)),
            ("published by", ", ".join(value["publishers"]) or "no system; transformers make it"),
            ("routes", "\n".join(value["routes"]) or "none"),
        )
    )
    yield work.out.table(
        value["fields"],
        Column("Field", lambda field: field["path"]),
        Column("Kind", lambda field: field["kind"]),
        Column("Required", lambda field: "required" if field["required"] else ""),
        Column("Rules", lambda field: field["rules"]),
    )
    for number, body in enumerate(found.examples, start=1):
        yield Panel(
            Text(readable(body, found.content_types[0])),
            title=f"Example {number}",
            title_align="left",
            border_style="dim",
        )
