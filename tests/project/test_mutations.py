"""A document with one thing wrong in it, whatever and wherever: taken, or refused in the words that the bus knows."""

import json
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus import BUS, DeliveryFailure, MessageInvalid, Opened, write_json
from tests.project.project import contracts, opened, outputs
from tests.project.test_routes import ROUTES

JSON_TYPES = sorted(name for name, each in contracts().items() if each.content_types == ("application/json",))
XML_TYPES = sorted(set(contracts()) - set(JSON_TYPES))

oddities: st.SearchStrategy[Any] = st.sampled_from(
    [
        *("", " ", "0", "x", "-1", "1e5", "1_0", "NaN", "Infinity", "٣", "X", "true", "\u2028", "a" * 50, "2026-13-01"),
        *("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "2026-03-02", "24:00", "PT99H00M00S", "/Date(9)/"),
        *(
            "/Date(-99999999999999)/",
            "1" * 16,
            "0." + "1" * 25,
            None,
            True,
            False,
            0,
            -1,
            10**20,
            [],
            [[]],
            {},
            {"id": None},
        ),
    ]
)


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield document, key
        yield from places(value)


def send_on(message: Opened) -> None:
    """Make of it what the routes make of it: nothing but a failure of the delivery may be raised."""
    for route in ROUTES:
        if route.transform is not None and message.message.type in route.transform.takes:
            partner = message.message.system if route.to == BUS else route.to
            try:
                outputs(route.transform, message, partner)
            except (DeliveryFailure, MessageInvalid):
                continue


def take(type_name: str, body: bytes) -> None:
    system = "mes-p200" if type_name.startswith("mes-p200") else "mes-p100" if "performance" in type_name else "erp"
    site = "P200" if system == "mes-p200" else "P100"
    try:
        message = opened(type_name, body, system=system, site=site)
    except MessageInvalid:
        return
    send_on(message)


@pytest.mark.parametrize("type_name", JSON_TYPES)
@settings(max_examples=50)
@given(data=st.data())
def test_a_json_document_with_one_value_changed(type_name: str, data: st.DataObject) -> None:
    document = json.loads(contracts()[type_name].examples[0])
    container, key = data.draw(st.sampled_from(list(places(document))))
    container[key] = data.draw(oddities)

    take(type_name, write_json(document))


@pytest.mark.parametrize("type_name", XML_TYPES)
@settings(max_examples=50)
@given(data=st.data())
def test_an_xml_document_with_one_element_changed(type_name: str, data: st.DataObject) -> None:
    root = ElementTree.fromstring(contracts()[type_name].examples[0])
    element = data.draw(st.sampled_from(list(root.iter())))
    if data.draw(st.booleans()):
        element.clear()
    element.text = str(data.draw(oddities))

    take(type_name, ElementTree.tostring(root))
