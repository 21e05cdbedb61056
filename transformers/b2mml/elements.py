"""Tolerant reading of B2MML elements: names without namespaces, old names beside new ones, empty as missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from xml.etree.ElementTree import Element

from bus import MessageInvalid, Violation, read_xml

TAKEN_VERBS = ("Process", "Sync")
"""The transaction verbs whose document states something. Get, Cancel, Acknowledge and the like ask for other acts."""


def read_document(body: bytes, *names: str) -> tuple[Element, list[Element]]:
    """The root and the documents in it: bare, or wrapped as `ProcessX` or `SyncX` with a DataArea.

    Every element has lost its namespace, so that the functions below compare names as they stand.

    Raises:
        MessageInvalid: not well-formed, or another document.
    """
    root = read_xml(body)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    name = root.tag
    if name in names:
        return root, [root]
    verbs = {f"{verb}{noun}" for verb in TAKEN_VERBS for noun in names}
    area = child(root, "DataArea")
    found = list(children(area, *names)) if area is not None else []
    if name not in verbs or not found:
        expected = ", ".join((*names, *sorted(verbs)))
        raise MessageInvalid("contract.violated", Violation(name, f"the document is {name}; taken are {expected}"))
    return root, found


def children(element: Element, *names: str) -> Iterator[Element]:
    """Children of any of these names, in document order."""
    return (each for each in element if each.tag in names)


def child(element: Element | None, *names: str) -> Element | None:
    """The first child of the first of these names that occurs."""
    if element is not None:
        for name in names:
            if (found := element.find(name)) is not None:
                return found
    return None


def text(element: Element | None, *path: str) -> str | None:
    """The text at a path of names (`"Quantity", "UnitOfMeasure"`); None where it is missing or blank."""
    for name in path:
        if element is None:
            return None
        element = element.find(name)
    return ((element.text or "").strip() or None) if element is not None else None


def extension(element: Element | None, name: str) -> str | None:
    """The text of a vendor's own element, such as `globe_StockType` for `StockType`."""
    wanted = f"_{name}".lower()
    for each in element if element is not None else ():
        if each.tag.lower().endswith(wanted):
            return (each.text or "").strip() or None
    return None


def quantity(element: Element) -> dict[str, Any] | None:
    """QuantityString and UnitOfMeasure of the first Quantity."""
    found = child(element, "Quantity")
    if found is None:
        return None
    return stated(QuantityString=text(found, "QuantityString"), UnitOfMeasure=text(found, "UnitOfMeasure"))


def stated(**values: Any) -> dict[str, Any]:
    """What the document states, under V0701's names."""
    return {name: value for name, value in values.items() if value is not None}
