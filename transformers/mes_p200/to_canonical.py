"""MES P200's types made canonical: its words by its value maps, its times put into the plant's zone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from bus import Opened, Outgoing, TransformContext, transformer, write_json
from transformers.canonical.quantities import canonical_quantity
from transformers.times import placed, written, zone_of


@transformer(takes="mes-p200.operation-confirm.v1", makes="operation.confirm.v1")
def operation_confirm(opened: Opened, context: TransformContext) -> Outgoing:
    """`good` is the yield; its `status` speaks of the order, which has a type of its own."""
    native, units = opened.document, context.maps["units"]
    reason = native["scrapReason"]
    finish = _placed(native["finish"], opened, context)
    confirm = {
        "confirmation": native["confirmationId"],
        "order": {"id": native["order"]},
        "operation": native["operation"],
        "site": opened.message.site,
        "uom": units.to_canonical(native["unit"]),
        "yield": canonical_quantity(native["good"], native["unit"], units)["value"],
        "scrap": canonical_quantity(native["scrap"], native["unit"], units)["value"],
        "rework": canonical_quantity(native["rework"], native["unit"], units)["value"],
        "scrapReason": context.maps["scrap-reasons"].to_canonical(reason) if reason else None,
        "final": native["final"],
        "start": written(_placed(native["begin"], opened, context)),
        "end": written(finish),
        "person": _named(native["worker"]),
    }
    return _outgoing("operation.confirm.v1", confirm, finish)


@transformer(takes="mes-p200.consumption.v1", makes="material.post-consumption.v1")
def post_consumption(opened: Opened, context: TransformContext) -> Outgoing:
    """`line` is the component line of the release, given back; `last` ends the reservation of it."""
    native = opened.document
    consumption = _movement(opened, context) | {
        "consumption": native["consumptionId"],
        "operation": native["operation"],
        "componentLine": native["line"],
        "finalIssue": native["last"],
    }
    return _outgoing("material.post-consumption.v1", consumption, _placed(native["at"], opened, context))


@transformer(takes="mes-p200.output.v1", makes="production.report-output.v1")
def report_output(opened: Opened, context: TransformContext) -> Outgoing:
    """`kind` says what came out (GUT, NEBEN …), `stock` whether it may be used."""
    native = opened.document
    output = _movement(opened, context) | {
        "declaration": native["declarationId"],
        "materialUse": context.maps["kinds"].to_canonical(native["kind"]),
        "stockStatus": context.maps["stock-statuses"].to_canonical(native["stock"]),
        "manufactureDate": native["made"],
    }
    return _outgoing("production.report-output.v1", output, _placed(native["at"], opened, context))


@transformer(takes="mes-p200.order-state.v1", makes="order.state-changed.v1")
def order_state_changed(opened: Opened, context: TransformContext) -> Outgoing:
    native, states = opened.document, context.maps["order-states"]
    at = _placed(native["at"], opened, context)
    change = {
        "order": {"id": native["order"]},
        "site": opened.message.site,
        "from": states.to_canonical(native["from"]) if native["from"] else None,
        "to": states.to_canonical(native["to"]),
        "at": written(at),
    }
    return _outgoing("order.state-changed.v1", change, at)


def _movement(opened: Opened, context: TransformContext) -> dict[str, Any]:
    native = opened.document
    return {
        "order": {"id": native["order"]},
        "site": opened.message.site,
        "material": {"id": native["material"]},
        "lot": _named(native["lot"]),
        "quantity": canonical_quantity(native["quantity"], native["unit"], context.maps["units"]),
        "storageLocation": native["storage"],
        "at": written(_placed(native["at"], opened, context)),
    }


def _placed(moment: datetime, opened: Opened, context: TransformContext) -> datetime:
    return placed(moment, zone_of(opened.message.site, context))


def _named(identity: str | None) -> dict[str, str] | None:
    return {"id": identity} if identity else None


def _outgoing(kind: str, document: Mapping[str, Any], time: datetime) -> Outgoing:
    stated = {name: value for name, value in document.items() if value not in (None, "")}
    return Outgoing(type=kind, body=write_json(stated), time=time)
