"""Routing keys made to get past the topic rights, at a real broker: each is refused, and nothing reaches a queue."""

from __future__ import annotations

import amqp
import pytest
from amqp.exceptions import AMQPError

from bus.broker import link
from bus.broker.address import read_addresses
from tests.services import RabbitMQ
from tests.system.a_plant import ORDER, REPORT, a_plant

OWN = f"P100.mes.{REPORT}"

CRAFTED: dict[str, str | bytes] = {
    "a line feed behind": f"{OWN}\n",
    "a line feed before": f"\n{OWN}",
    "a second line that fits": f"P200.erp.{ORDER}\n{OWN}",
    "a first line that fits": f"{OWN}\nP200.erp.{ORDER}",
    "a carriage return": f"{OWN}\r",
    "a NUL behind": f"{OWN}\x00",
    "a NUL, then another": f"{OWN}\x00.{ORDER}",
    "a blank behind": f"{OWN} ",
    "a dot behind": f"{OWN}.",
    "a word more": f"{OWN}.v2",
    "a word less": f"mes.{REPORT}",
    "empty words": f"..{REPORT}",
    "another letter for the dot": OWN.replace(".", "x"),
    "a slash for the dot": OWN.replace(".", "/"),
    "other capitals": OWN.upper(),
    "a wildcard for the site": f"*.mes.{REPORT}",
    "a wildcard for all": "#",
    "a wildcard behind": f"{OWN}.#",
    "an expression": f"P100.mes.({ORDER}|{REPORT})",
    "a letter that looks alike": OWN.replace("e", "\u0435"),
    "a letter of no width": OWN.replace("mes", "m\u200bes"),
    "a letter of full width": OWN.replace("P", "\uff30"),
    "bytes that are no text": OWN.encode() + b"\xff",
    "an overlong dot": OWN.encode().replace(b".", b"\xc0\xae"),
    "as long as a key may be": OWN.ljust(255, "1"),
    "nothing": "",
    "the name of a queue": "bus.in.transaction.0",
    "another system": f"P100.erp.{ORDER}",
}


def test_no_crafted_routing_key_gets_past_the_rights_of_a_system(rabbitmq: RabbitMQ) -> None:
    with rabbitmq.fresh_vhost() as vhost:
        plant = a_plant(vhost)

        taken = [name for name, key in CRAFTED.items() if not is_refused(plant.url("mes"), key)]

        assert taken == []
        assert not is_refused(plant.url("mes"), OWN)


def is_refused(url: str, routing_key: str | bytes) -> bool:
    """Whether the broker ends the channel, or the connection, instead of taking the message."""
    connection = link.connect(read_addresses(url), name="a hostile publisher")
    try:
        channel = connection.channel()
        channel.confirm_select()
        channel.basic_publish_confirm(amqp.Message(b"{}"), "bus.in", routing_key, timeout=30)
    except (AMQPError, UnicodeDecodeError):  # the refusal quotes a key that is no text
        return True
    finally:
        link.drop(connection)
    return False


@pytest.mark.parametrize("header", ["CC", "BCC"])
def test_a_copy_to_a_queue_of_the_bus_goes_nowhere(rabbitmq: RabbitMQ, header: str) -> None:
    with rabbitmq.fresh_vhost() as vhost:
        plant = a_plant(vhost)
        connection = link.connect(read_addresses(plant.url("mes")), name="a hostile publisher")
        channel = connection.channel()
        channel.confirm_select()
        copied = amqp.Message(
            b"{}", application_headers={header: ["transform.transaction", "send.mes-p100", "bus.dead"]}
        )

        channel.basic_publish_confirm(copied, "bus.in", OWN, timeout=30)

        link.drop(connection)
        engine = link.connect(read_addresses(vhost.amqp_url), name="a test")
        counts = {
            queue: engine.channel().queue_declare(queue, passive=True).message_count
            for queue in ("transform.transaction", "send.mes-p100", "bus.dead")
        }
        link.drop(engine)
        assert counts == dict.fromkeys(counts, 0)
