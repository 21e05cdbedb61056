"""What an operations performance tells the ERP: confirmations, consumptions and outputs, in the order they happened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from marshmallow import ValidationError

from bus import Opened, Outgoing, PermanentFailure, TransformContext, transformer, write_json
from transformers.b2mml.performance import BESIDES
from transformers.b2mml.schedule import CONSUMED
from transformers.canonical.fields import Amount
from transformers.canonical.operation import ACTIVITIES
from transformers.canonical.quantities import canonical_quantity
from transformers.times import placed, written, zone_of

CONFIRM, CONSUME, OUTPUT = "operation.confirm.v1", "material.post-consumption.v1", "production.report-output.v1"


@transformer(takes="b2mml.performance.v1", makes=(CONFIRM, CONSUME, OUTPUT))
def performance_reports(opened: Opened, context: TransformContext) -> list[Outgoing]:
    """For each segment: its confirmation where it states a yield, then its consumptions, then its outputs.

    A fact without an ID of its own gets one that follows from the delivery, so that a repeat is the same fact.
    """
    zone = zone_of(opened.message.site, context)
    reports: list[tuple[str, dict[str, Any], datetime]] = []
    for response in opened.document["OperationsResponse"]:
        for segment in response["SegmentResponse"]:
            of = _Segment(response["OperationsRequestID"], segment, opened.message.site, zone, context)
            for kind, report in of.reports():
                identity = {CONFIRM: "confirmation", CONSUME: "consumption", OUTPUT: "declaration"}[kind]
                reports.append((kind, {identity: context.key_of(len(reports)), **report}, of.end))
    return [Outgoing(type=kind, body=write_json(report), time=end) for kind, report, end in reports]


@dataclass(frozen=True)
class _Segment:
    """One segment of a response and what is needed to read it."""

    order: str
    segment: Mapping[str, Any]
    site: str
    zone: ZoneInfo
    context: TransformContext

    @property
    def end(self) -> datetime:
        return placed(self.segment["ActualEndTime"], self.zone)

    def reports(self) -> Iterator[tuple[str, dict[str, Any]]]:
        data = self._data()
        if "yield" in data:
            yield CONFIRM, _stated(self._confirmation(data))
        materials = self.segment["MaterialActual"]
        for material in materials:
            if material["MaterialUse"] in CONSUMED:
                yield CONSUME, _stated(self._movement(material) | {"consumption": material.get("ID")})
        for material in materials:
            if material["MaterialUse"] not in CONSUMED:
                yield OUTPUT, _stated(self._output(material))

    def _data(self) -> dict[str, Mapping[str, Any]]:
        """The segment's data by our words; what the partner's map `segment-data` does not name is not for the ERP."""
        words = dict(self.context.maps["segment-data"].pairs)
        return {words[entry["ID"]]: entry for entry in self.segment["SegmentData"] if entry["ID"] in words}

    def _confirmation(self, data: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        made = self._amount(data["yield"])
        report = {
            "confirmation": self.segment["ID"],
            "order": {"id": self.order},
            "operation": self.segment["SegmentRequirementID"],
            "site": self.site,
            "yield": made["value"],
            "uom": made["uom"],
            "final": self._is_final(data),
            "start": self._start(),
            "end": written(self.end),
            "workCenter": self.segment.get("EquipmentID"),
            "person": _named(self.segment.get("PersonID")),
            "activities": [{"type": kind, "quantity": self._amount(data[kind])} for kind in ACTIVITIES if kind in data],
        }
        for kind in ("scrap", "rework"):
            if kind in data:
                report[kind] = self._amount(data[kind], like=made["uom"])["value"]
        if "scrap-reason" in data:
            reason = data["scrap-reason"]["ValueString"]
            report["scrapReason"] = self.context.maps["scrap-reasons"].to_canonical(reason)
        return report

    def _is_final(self, data: Mapping[str, Mapping[str, Any]]) -> bool:
        if "final" in data:
            return str(data["final"]["ValueString"]).lower() in ("true", "1")
        return self.segment.get("SegmentState") in ("Completed", "Closed")

    def _start(self) -> str | None:
        start = self.segment.get("ActualStartTime")
        return written(placed(start, self.zone)) if start else None

    def _movement(self, material: Mapping[str, Any]) -> dict[str, Any]:
        amount, units = material["Quantity"], self.context.maps["units"]
        lot = {"id": material.get("MaterialLotID"), "sublot": material.get("MaterialSubLotID")}
        return {
            "order": {"id": self.order},
            "operation": self.segment["SegmentRequirementID"],
            "site": self.site,
            "material": {"id": material["MaterialDefinitionID"]},
            "lot": _stated(lot) if lot["id"] else None,
            "quantity": canonical_quantity(amount["QuantityString"], amount["UnitOfMeasure"], units),
            "storageLocation": material.get("StorageLocation"),
            "at": written(self.end),
        }

    def _output(self, material: Mapping[str, Any]) -> dict[str, Any]:
        stock = material.get("StockType")
        return self._movement(material) | {
            "declaration": material.get("ID"),
            "materialUse": BESIDES.get(material["MaterialUse"], "Produced"),
            "stockStatus": self.context.maps["stock-statuses"].to_canonical(stock) if stock else None,
            "manufactureDate": material.get("ManufactureDate"),
            "expiryDate": material.get("ExpirationDate"),
        }

    def _amount(self, entry: Mapping[str, Any], *, like: str = "") -> dict[str, Any]:
        """A datum's number and unit; one without a unit is in that of the yield."""
        try:
            value = Decimal(Amount().deserialize(entry["ValueString"]))
        except ValidationError as error:
            raise _unfit(entry, f"{entry['ValueString']!r} is not an amount") from error
        if "UnitOfMeasure" not in entry and not like:
            raise _unfit(entry, "the UnitOfMeasure is missing")
        units = self.context.maps["units"]
        amount = canonical_quantity(value, entry.get("UnitOfMeasure") or units.to_partner(like), units)
        if like and amount["uom"] != like:
            raise _unfit(entry, f"the unit is not {like}, that of the yield")
        return amount


def _unfit(entry: Mapping[str, Any], why: str) -> PermanentFailure:
    return PermanentFailure("contract.violated", f"SegmentData {entry['ID']}: {why}")


def _named(identity: str | None) -> dict[str, str] | None:
    return {"id": identity} if identity else None


def _stated(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None and value != []}
