"""Sites, systems and endpoints: names, queues and what never shows."""

from __future__ import annotations

import pytest

from bus.model.system import NAME, Endpoint, System


@pytest.mark.parametrize("name", ["mes-p100", "P100", "erp", "a-1-b", "MES"])
def test_names_of_letters_digits_and_single_hyphens_are_taken(name: str) -> None:
    assert NAME.fullmatch(name)


@pytest.mark.parametrize(
    "name", ["", "mes.p100", "mes_p100", "-mes", "mes-", "mes--p1", "mes p1", "*", "#", "ä", "a\n"]
)
def test_names_that_would_change_a_routing_key_or_need_escaping_are_not(name: str) -> None:
    assert not NAME.fullmatch(name)


def test_an_endpoint_has_a_queue_of_its_own() -> None:
    endpoint = Endpoint(name="erp-orders", system="erp", adapter="http", address="http://localhost")

    assert endpoint.queue == "send.erp-orders"


def test_an_absent_answer_is_not_believed_before_the_time_out_unless_someone_says_so() -> None:
    endpoint = Endpoint(name="erp", system="erp", adapter="http", address="http://localhost")

    assert endpoint.visible_after > endpoint.timeout
    assert endpoint.concurrency >= 1


def test_a_systems_password_reference_is_not_printed() -> None:
    system = System(
        name="erp", role="ERP", sites=("P1",), user="erp", publishes=(), owner="it", support="it", password="env:SECRET"
    )

    assert "SECRET" not in repr(system)
