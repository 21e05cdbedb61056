"""What people see of the store: status, messages, traces, failures, lanes, endpoints."""

from __future__ import annotations

import json
import re

import pytest
from sqlalchemy import insert, select, update

from bus.store import tables as t
from tests.unit.command_line import Plant
from tests.unit.plant_store import BOOKED, DOUBTFUL, REFUSED

# --- status ----------------------------------------------------------------------------------------------------------


def test_status_shows_the_three_sums_and_that_they_balance(plant: Plant) -> None:
    status = plant.json("status")

    assert [equation["name"] for equation in status["equations"]] == ["receipts", "messages", "deliveries"]
    assert all(equation["balances"] for equation in status["equations"])
    assert status["equations"][0]["parts"]["invalid"] == 1
    assert status["latency"]["measured"] == 2


def test_status_says_in_words_what_is_wrong_and_what_to_type(plant: Plant) -> None:
    result = plant.type("status")

    assert result.exit_code == 0
    assert "mes-p200 is tripped" in result.stdout
    assert "bus dead list" in result.stdout
    assert "bus doubt list" in result.stdout


def test_status_verify_proves_a_sound_store(plant: Plant) -> None:
    result = plant.type("status", "--verify")

    assert result.exit_code == 0
    assert "verified" in result.stdout


def test_status_verify_names_what_does_not_add_up_and_ends_with_1(plant: Plant) -> None:
    with plant.store().database.write() as connection:
        connection.exec_driver_sql("UPDATE message SET planned = 7 WHERE id = 3")

    result = plant.type("status", "--verify")

    assert result.exit_code == 1
    assert "message 3 planned 7 deliveries, 1 are there" in _unfolded(result.stdout)


# --- messages --------------------------------------------------------------------------------------------------------


def test_messages_are_listed_newest_first_with_the_states_of_their_deliveries(plant: Plant) -> None:
    messages = plant.json("message", "list", "--subject", REFUSED)

    numbers = [message["number"] for message in messages]
    assert numbers == sorted(numbers, reverse=True)
    assert [list(message["deliveries"]) for message in messages] == [
        ["WAITING"],
        ["DELIVERED"],
        ["DEAD"],
        ["DELIVERED"],
    ]


def test_a_subject_is_found_however_its_zeros_are_written(plant: Plant) -> None:
    assert plant.json("message", "list", "--subject", "order:0001000123") == plant.json(
        "message", "list", "--subject", REFUSED
    )


@pytest.mark.parametrize("kind", ["invalid", "refused", "conflict", "duplicate"])
def test_what_did_not_become_a_message_is_listed_with_its_cause_and_shown_raw(plant: Plant, kind: str) -> None:
    (receipt,) = plant.json("message", "list", "--state", kind)

    shown = plant.json("message", "show", f"R{receipt['receipt']}")

    assert receipt["kind"] == kind
    assert shown["body"].startswith("{")
    assert shown["line"]["cause"] == receipt["cause"]


def test_unrouted_messages_are_listed(plant: Plant) -> None:
    (message,) = plant.json("message", "list", "--state", "unrouted")

    assert message["subject"] == "order:1000124"


def test_a_searchable_path_finds_messages_by_what_their_documents_say(plant: Plant) -> None:
    found = plant.json("message", "list", "--where", "order.id=1000456")

    assert [message["type"] for message in found] == ["operation.confirm.v1"]


def test_a_document_number_finds_the_message_that_was_booked_under_it(plant: Plant) -> None:
    (found,) = plant.json("message", "list", "--document", "D1", "--system", "mes-p200")

    assert (found["type"], found["subject"]) == ("operation.confirm.v1", BOOKED)


def test_another_path_needs_a_time_and_then_reads_the_documents(plant: Plant) -> None:
    refused = plant.type("message", "list", "--where", "TotalQuantity=125.5")
    found = plant.json("message", "list", "--where", "TotalQuantity=125.5", "--since", "1h")

    assert refused.exit_code == 2
    assert "--since" in refused.stderr
    assert {message["type"] for message in found} == {"sap.production-order.v2"}


def test_a_listing_says_what_it_left_out_on_stderr(plant: Plant) -> None:
    first = plant.type("message", "list", "-n", 2)
    everything = plant.json("message", "list", "--all", "-n", 2)

    assert re.search(r"… and \d+ more", first.stderr)
    assert len(everything) == len(plant.json("message", "list"))


def test_json_lines_hold_one_message_each(plant: Plant) -> None:
    result = plant.type("message", "list", "-n", 3, "-o", "ndjson")

    assert len([json.loads(line) for line in result.stdout.splitlines()]) == 3


def test_a_message_is_shown_by_its_number_or_by_its_senders_id(plant: Plant) -> None:
    by_number = plant.json("message", "show", 1)
    by_id = plant.json("message", "show", by_number["line"]["id"])

    assert by_number == by_id
    assert json.loads(by_number["message"]["body"])["ManufacturingOrder"] == "000001000100"


def test_control_characters_of_a_document_never_reach_the_terminal(plant: Plant) -> None:
    (receipt,) = plant.json("message", "list", "--state", "invalid")

    result = plant.type("message", "show", f"R{receipt['receipt']}")

    assert "\x1b" not in result.stdout
    assert "�[31m" in result.stdout


# --- trace -----------------------------------------------------------------------------------------------------------


def test_a_trace_leads_from_the_first_message_to_the_last_document_number(plant: Plant) -> None:
    result = plant.type("message", "trace", 1)

    lines = result.stdout.splitlines()
    assert BOOKED in lines[0]
    assert "sap.production-order.v2" in lines[1]
    assert any("operation.confirm.v1" in line for line in lines)
    assert "document D1" in _unfolded(result.stdout)


def test_a_trace_is_a_tree_of_messages_and_what_their_deliveries_made(plant: Plant) -> None:
    trace = plant.json("message", "trace", 1)

    order, confirmation = trace["roots"]
    (release,) = order["deliveries"][0]["made"]
    assert release["deliveries"][0]["line"]["destination"] == "mes-p100"
    (canonical,) = confirmation["deliveries"][0]["made"]
    assert canonical["deliveries"][0]["line"]["document"] == "D1"


# --- dead and doubt --------------------------------------------------------------------------------------------------


def test_the_dead_are_listed_by_cause_and_singly(plant: Plant) -> None:
    result = plant.type("dead", "list")

    assert "By cause" in result.stdout
    assert "target.422" in result.stdout
    assert REFUSED in result.stdout


def test_dlq_is_another_name_for_dead(plant: Plant) -> None:
    assert plant.json("dlq", "list") == plant.json("dead", "list")


def test_dead_show_says_why_what_waits_whom_to_call_and_what_to_type(plant: Plant) -> None:
    number = plant.number(REFUSED, "dead")

    shown = _unfolded(plant.type("dead", "show", number).stdout)

    assert "MATERIAL_UNKNOWN" in shown
    assert "1 delivery behind it" in shown
    assert "mes-integration@plant.example" in shown
    assert f"bus dead replay {number} --reason" in shown


def test_what_is_tried_again_by_itself_is_given_up_last(plant: Plant) -> None:
    number = plant.number(REFUSED, "dead")
    with plant.store().database.write() as connection:
        connection.execute(update(t.delivery).where(t.delivery.c.id == number).values(state="RETRYING"))

    shown = plant.json("dead", "show", number)

    assert shown["next"] == [f"bus lane show mes-p100/{REFUSED}", f"bus dead discard {number} --reason …"]


def test_dead_show_of_another_state_says_which_and_what_fits(plant: Plant) -> None:
    number = plant.number(DOUBTFUL, "in-doubt")

    result = plant.type("dead", "show", number)

    assert f"Delivery {number} is IN_DOUBT, not DEAD" in result.stderr
    assert f"bus doubt happened {number}" in result.stdout


def test_doubts_are_listed_and_shown_with_what_was_sent(plant: Plant) -> None:
    (line,) = plant.json("doubt", "list")

    shown = plant.json("doubt", "show", line["delivery"]["number"])

    assert shown["delivery"]["cause"] == "outcome.timeout"
    assert json.loads(shown["output"][2])["OrderID"] == "1000456"


def test_a_doubt_shows_the_attempt_it_is_about_and_then_the_newest_of_many_probes(plant: Plant) -> None:
    number = plant.number(DOUBTFUL, "in-doubt")
    _exchange(plant, number, b"POST /posting HTTP/1.1\r\nHost: erp\r\n\r\n{}")
    for minute in range(60):
        _probe(plant, number, f"GET /search?{minute} HTTP/1.1\r\nHost: erp\r\n\r\n".encode())

    shown = plant.type("doubt", "show", number).stdout

    assert shown.index("POST /posting") < shown.index("Asked whether it has it") < shown.index("GET /search?59")
    assert "GET /search?58" not in shown
    assert "probe: no answer, 50 times" in _unfolded(shown)
    assert "\N{REPLACEMENT CHARACTER}" not in shown
    assert "target is asked" in shown


def _exchange(plant: Plant, delivery: int, sent: bytes) -> None:
    a = t.attempt.c
    with plant.store().database.write() as connection:
        connection.execute(update(t.attempt).where(a.delivery == delivery, a.stage == "send").values(sent=sent))


def _probe(plant: Plant, delivery: int, sent: bytes) -> None:
    """Another attempt of the delivery, as the store records a probe without an answer."""
    a = t.attempt.c
    with plant.store().database.write() as connection:
        newest = select(t.attempt).where(a.delivery == delivery).order_by(a.id.desc()).limit(1)
        row = dict(connection.execute(newest).one()._mapping)
        row |= {"id": None, "outcome": "probe: no answer", "cause": "endpoint.no-answer", "sent": sent}
        connection.execute(insert(t.attempt).values({name: value for name, value in row.items() if name != "id"}))


# --- lanes and endpoints ---------------------------------------------------------------------------------------------


def test_blocked_lanes_are_listed_first_and_shown_in_order(plant: Plant) -> None:
    lanes = plant.json("lane", "list")

    shown = plant.json("lane", "show", f"mes-p100/{REFUSED}")

    assert [lane["blocked_by"] for lane in lanes][:2] == ["DEAD", "IN_DOUBT"]
    assert [delivery["state"] for delivery in shown["standing"]] == ["DEAD", "WAITING"]
    assert shown["line"]["number"] == lanes[0]["number"]


def test_a_lane_in_which_nothing_stands_says_so(plant: Plant) -> None:
    result = plant.type("lane", "show", f"mes-p100/{BOOKED}")

    assert result.exit_code == 0
    assert "Nothing stands in lane" in result.stderr


def test_a_lane_whose_endpoint_is_down_says_so(plant: Plant) -> None:
    result = plant.type("lane", "list", "--endpoint", "mes-p200")

    assert "endpoint tripped" in result.stdout


def test_endpoints_show_what_they_hold_and_what_they_took(plant: Plant) -> None:
    endpoints = {row["name"]: row for row in plant.json("endpoint", "list")}

    assert endpoints["mes-p200"]["state"] == "tripped"
    assert endpoints["mes-p200"]["ready"] == 2
    assert endpoints["erp"]["delivered"] == 1
    assert endpoints["erp"]["in_doubt"] == 1


def test_endpoint_show_says_why_it_is_down_and_who_supports_it(plant: Plant) -> None:
    shown = plant.type("endpoint", "show", "mes-p200").stdout

    assert "endpoint.refused-connection" in shown
    assert "mes-p200-support@plant.example" in shown


# --- the terminal ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("message", "list"),
        ("message", "show", 1),
        ("message", "trace", 1),
        ("dead", "list"),
        ("doubt", "list"),
        ("lane", "list"),
        ("endpoint", "list"),
        ("route", "list"),
        ("contract", "show", "order.release.v1"),
        ("topology", "show"),
    ],
    ids=lambda words: " ".join(map(str, words)),
)
def test_everything_fits_the_terminal_and_nothing_is_cut_off(
    plant: Plant, words: tuple[object, ...], columns: int
) -> None:
    result = plant.type(*words, COLUMNS=str(columns))

    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= columns
    assert "\x1b" not in result.stdout  # NO_COLOR
    assert "…" not in result.stdout


@pytest.mark.parametrize("columns", [80, 99, 100, 139, 140])
@pytest.mark.parametrize(
    ("words", "titles"),
    [
        (("message", "list"), ["Number", "Accepted", "Type", "Subject", "Deliveries"]),
        (("dead", "list"), ["Dead", "Cause", "Route", "What to do", "Delivery", "Since", "Subject", "Says"]),
        (("doubt", "list"), ["Delivery", "Since", "Cause", "Subject", "Asked again"]),
        (("lane", "list"), ["Lane", "Standing", "Blocked by", "Delivery", "Cause", "Since"]),
        (("endpoint", "list"), ["Endpoint", "State", "Cause", "Since", "Held", "Delivered", "Dead", "Open"]),
        (("status",), ["Route", "Delivered", "Dead", "Doubt", "Open", "p99"]),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_tables_keep_their_titles_whole_at_every_width(
    plant: Plant, words: tuple[str, ...], titles: list[str], columns: int
) -> None:
    printed = plant.type(*words, COLUMNS=str(columns)).stdout

    assert [title for title in titles if title not in printed] == []


def _unfolded(text: str) -> str:
    return " ".join(re.sub(r"[│╭╰─╮╯├└]", " ", text).split())
