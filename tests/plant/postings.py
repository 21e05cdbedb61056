"""What the ERP accepts as a posting, by the lengths and types of SAP's published API descriptions; pure.

Sources: API_PROD_ORDER_CONFIRMATION_2_SRV (ProdnOrdConf2) and API_MATERIAL_DOCUMENT_SRV (A_MaterialDocumentHeader).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

from tests.plant.book import order_key
from tests.plant.odata import Refusal

CONFIRMATION = "ProdnOrdConf2"
MATERIAL_DOCUMENT = "A_MaterialDocumentHeader"

# Units this ERP has customised: internal code and ISO code, and what they measure.
UNITS = {
    "PC": "count", "EA": "count", "KAR": "count", "KG": "mass", "G": "mass", "TO": "mass", "L": "volume",
    "ML": "volume", "M": "length", "M2": "area", "H": "time", "MIN": "time",
}  # fmt: skip
ISO_UNITS = {
    "PCE": "PC", "EA": "EA", "CT": "KAR", "KGM": "KG", "GRM": "G", "TNE": "TO", "LTR": "L", "MLT": "ML", "MTR": "M",
    "MTK": "M2", "HUR": "H", "MIN": "MIN",
}  # fmt: skip

Kind = int | str  # the longest text, or one of: decimal, date, time, bool, guid


def _kinds(**names_by_kind: str) -> dict[str, Kind]:
    return {
        name: int(kind[4:]) if kind.startswith("text") else kind
        for kind, names in names_by_kind.items()
        for name in names.split()
    }


CONFIRMATION_FIELDS = _kinds(
    guid="ExternalSystemConfirmation",
    text12="OrderID EnteredByUser EnteredByExternalUser",
    text6="Sequence",
    text4="OrderOperation OrderSuboperation OrderType Plant VarianceReasonCode",
    text40="ConfirmationText Material",
    text1="FinalConfirmationType",
    text2="Language WorkCenterTypeCode",
    text8="WorkCenter Personnel TimeRecording",
    text3="ConfirmationUnit ConfirmationUnitISOCode ConfirmationUnitSAPCode ProductionUnit OpWorkQuantityUnit1 "
    "OpWorkQuantityUnit2 OpWorkQuantityUnit3 OpWorkQuantityUnit4 OpWorkQuantityUnit5 OpWorkQuantityUnit6 "
    "WorkQuantityUnit1ISOCode WorkQuantityUnit2ISOCode WorkQuantityUnit3ISOCode BreakDurationUnit",
    decimal="ConfirmationYieldQuantity ConfirmationScrapQuantity ConfirmationReworkQuantity OpConfirmedWorkQuantity1 "
    "OpConfirmedWorkQuantity2 OpConfirmedWorkQuantity3 OpConfirmedWorkQuantity4 OpConfirmedWorkQuantity5 "
    "OpConfirmedWorkQuantity6 ConfirmedBreakDuration NumberOfEmployees OrderPlannedTotalQty",
    bool="IsFinalConfirmation OpenReservationsIsCleared APIConfHasNoGoodsMovements NoFurtherOpWorkQuantity1IsExpd "
    "NoFurtherOpWorkQuantity2IsExpd NoFurtherOpWorkQuantity3IsExpd",
    date="PostingDate ConfirmationExternalEntryDate ConfirmedExecutionStartDate ConfirmedExecutionEndDate "
    "ConfirmedSetupEndDate ConfirmedProcessingStartDate ConfirmedProcessingEndDate ConfirmedTeardownStartDate",
    time="ConfirmationExternalEntryTime ConfirmedExecutionStartTime ConfirmedExecutionEndTime ConfirmedSetupEndTime "
    "ConfirmedProcessingStartTime ConfirmedProcessingEndTime ConfirmedTeardownStartTime",
)
MOVEMENT_FIELDS = _kinds(
    text12="OrderID",
    text4="OrderType OrderItem Plant StorageLocation ReservationItem",
    text2="ManufacturingOrderCategory",
    text40="Material",
    text10="Reservation ProductionSupplyArea Batch InventoryValuationType Supplier Customer StorageBin",
    text3="GoodsMovementType StorageType EntryUnit EntryUnitISOCode EntryUnitSAPCode",
    text1="GoodsMovementRefDocType InventoryUsabilityCode InventorySpecialStockType",
    text50="MaterialDocumentItemText",
    bool="ReservationIsFinallyIssued IsCompletelyDelivered",
    date="ShelfLifeExpirationDate ManufactureDate",
    decimal="QuantityInEntryUnit",
)
HEADER_FIELDS = _kinds(
    text2="GoodsMovementCode InventoryTransactionType",
    text16="ReferenceDocument",
    text25="MaterialDocumentHeaderText",
    text12="CreatedByUser",
    text1="VersionForPrintingSlip ManualPrintIsTriggered CtrlPostgForExtWhseMgmtSyst",
    date="DocumentDate PostingDate",
)
ITEM_FIELDS = _kinds(
    text40="Material IssgOrRcvgMaterial",
    text4="Plant StorageLocation ManufacturingOrderItem GoodsMovementReasonCode ReservationItem MaterialDocumentItem "
    "IssuingOrReceivingPlant IssuingOrReceivingStorageLoc",
    text10="Batch Supplier Customer CostCenter Reservation InventoryValuationType IssgOrRcvgBatch",
    text3="GoodsMovementType EntryUnit MaterialBaseUnit",
    text2="InventoryStockType",
    text1="InventorySpecialStockType GoodsMovementRefDocType InventoryUsabilityCode",
    text12="ManufacturingOrder",
    text50="MaterialDocumentItemText",
    text25="UnloadingPointName",
    text6="MaterialDocumentLine MaterialDocumentParentLine",
    decimal="QuantityInEntryUnit QuantityInBaseUnit",
    bool="IsCompletelyDelivered ReservationIsFinallyIssued SerialNumbersAreCreatedAutomly",
    date="ShelfLifeExpirationDate ManufactureDate",
)


@dataclass(frozen=True)
class Posting:
    """A posting whose form is right; whether the order takes it is the book's question."""

    entity: str
    external_id: str
    orders: tuple[str, ...]
    operation: str
    quantities: Mapping[str, str]
    units: tuple[str, ...]
    movements: tuple[Mapping[str, Any], ...]
    fields: Mapping[str, Any]


def read_posting(entity: str, content: Mapping[str, Any]) -> Posting:
    """
    Raises:
        Refusal: 400 with the property that is wrong.
    """
    return _READERS[entity](content)


def _read_confirmation(content: Mapping[str, Any]) -> Posting:
    fields, items = _taken_apart(content, "to_ProdnOrdConfMatlDocItm")
    _check(fields, CONFIRMATION_FIELDS)
    for name in ("OrderID", "OrderOperation"):
        _require(fields, name)
    movements = tuple(_movement(each, MOVEMENT_FIELDS) for each in items)
    unit = _unit(fields, "ConfirmationUnit")
    return Posting(
        entity=CONFIRMATION,
        external_id=str(fields.get("ExternalSystemConfirmation", "")).lower(),
        orders=(order_key(fields["OrderID"]),),
        operation=fields["OrderOperation"],
        quantities={
            short: str(fields.get(f"Confirmation{short.capitalize()}Quantity", "0"))
            for short in ("yield", "scrap", "rework")
        }
        | {"unit": unit},
        units=(unit,),
        movements=movements,
        fields=fields,
    )


def _read_material_document(content: Mapping[str, Any]) -> Posting:
    fields, items = _taken_apart(content, "to_MaterialDocumentItem")
    _check(fields, HEADER_FIELDS)
    if fields.get("GoodsMovementCode") not in ("01", "02", "03", "04", "05", "06"):
        raise Refusal(400, "M7/018", "Enter a valid GoodsMovementCode (01 to 06)")
    if not items:
        raise Refusal(400, "M7/036", "The material document has no items")
    movements = tuple(_movement(each, ITEM_FIELDS) for each in items)
    numbers = [each["ManufacturingOrder"] for each in movements if each.get("ManufacturingOrder")]
    return Posting(
        entity=MATERIAL_DOCUMENT,
        external_id=str(fields.get("ReferenceDocument", "")),
        orders=tuple(dict.fromkeys(map(order_key, numbers))),
        operation="",
        quantities={},
        units=(),
        movements=movements,
        fields=fields,
    )


_READERS: Mapping[str, Callable[[Mapping[str, Any]], Posting]] = {
    CONFIRMATION: _read_confirmation,
    MATERIAL_DOCUMENT: _read_material_document,
}


def _taken_apart(content: Mapping[str, Any], deep: str) -> tuple[dict[str, Any], list[Any]]:
    fields = {name: value for name, value in content.items() if name != deep and value is not None}
    items = content.get(deep) or []
    if isinstance(items, Mapping):
        items = items.get("results", [])
    if not isinstance(items, list) or not all(isinstance(each, dict) for each in items):
        raise Refusal(400, "CX_SXML_PARSE_ERROR/001", f"'{deep}' is not a list of entities")
    return fields, items


def _movement(item: Mapping[str, Any], kinds: Mapping[str, Kind]) -> Mapping[str, Any]:
    fields = {name: value for name, value in item.items() if value is not None}
    _check(fields, kinds)
    for name in ("Material", "Plant", "GoodsMovementType", "QuantityInEntryUnit"):
        _require(fields, name)
    if Decimal(fields["QuantityInEntryUnit"]) <= 0:
        raise Refusal(400, "M7/022", "Enter a quantity greater than zero")
    _unit(fields, "EntryUnit")
    return fields


def _unit(fields: Mapping[str, Any], name: str) -> str:
    if f"{name}ISOCode" in fields:
        code = ISO_UNITS.get(fields[f"{name}ISOCode"], "")
    else:
        code = fields.get(f"{name}SAPCode") or fields.get(name, "")
    if code not in UNITS:
        written = fields.get(name) or fields.get(f"{name}ISOCode") or fields.get(f"{name}SAPCode") or ""
        raise Refusal(400, "M3/351", f"Unit of measure '{written}' is not defined in language EN")
    return str(code)


def _require(fields: Mapping[str, Any], name: str) -> None:
    if not fields.get(name):
        raise Refusal(400, "/IWBEP/CM_MGW_RT/043", f"Property '{name}' is mandatory")


def _check(fields: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
    for name, value in fields.items():
        if name == "__metadata":
            continue
        if name not in kinds:
            raise Refusal(400, "CX_SXML_PARSE_ERROR/002", f"Property '{name}' is invalid")
        if not _is_of_kind(value, kinds[name]):
            raise Refusal(400, "CX_SXML_PARSE_ERROR/003", f"Property '{name}' has invalid value '{value}'")


def _is_of_kind(value: object, kind: Kind) -> bool:
    if kind == "bool":
        return isinstance(value, bool)
    if not isinstance(value, str):
        return False
    if isinstance(kind, int):
        return len(value) <= kind
    return _TEXT_KINDS[kind](value)


def _is_decimal(value: str) -> bool:
    """Edm.Decimal with a scale of 3, written as text; a posting has no negative quantities."""
    try:
        number = Decimal(value)
    except InvalidOperation:
        return False
    exponent = number.as_tuple().exponent
    return number.is_finite() and number >= 0 and isinstance(exponent, int) and exponent >= -3


def _is_guid(value: str) -> bool:
    try:
        return str(UUID(value)) == value.lower()
    except ValueError:
        return False


_TEXT_KINDS: Mapping[str, Callable[[str], bool]] = {
    "decimal": _is_decimal,
    "guid": _is_guid,
    "date": lambda value: bool(re.fullmatch(r"/Date\(-?\d+\)/|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?", value)),
    "time": lambda value: bool(re.fullmatch(r"PT\d\dH\d\dM\d\dS", value)),
}
