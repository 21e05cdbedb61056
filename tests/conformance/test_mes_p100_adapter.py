"""The adapter of MES P100 against the conformance suite, and how it reads acknowledgements."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from adapters.mes_p100 import MesP100
from bus.errors import PermanentFailure
from bus.model.message import Message
from bus.ports import Adapter
from tests.conformance.adapters import AMPLE, HttpAdapterConformance, SecretShelf, a_message, an_endpoint
from tests.conformance.scripted_server import Answer, ScriptedServer


def acknowledgement(*, action: str = "Accepted", text: str = "", job: str = "JOB-00017") -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<AcknowledgeOperationsSchedule xmlns="http://www.mesa.org/xml/B2MML" releaseID="V0701"><DataArea>'
        f'<Acknowledge><ResponseCriteria><ResponseExpression actionCode="{action}">{text}</ResponseExpression>'
        f"</ResponseCriteria></Acknowledge><OperationsSchedule><ID>{job}</ID></OperationsSchedule>"
        "</DataArea></AcknowledgeOperationsSchedule>"
    ).encode()


class TestMesP100(HttpAdapterConformance):
    accepted = Answer(200, acknowledgement(), {"Content-Type": "application/xml"})
    document = "JOB-00017"
    unreadable_bodies = (b"", b"{}", acknowledgement(job=""), acknowledgement()[:-5], b"<!DOCTYPE a><a/>", b"<html/>")
    sends_key = True

    def make(
        self, address: str, *, secret: SecretShelf, options: Mapping[str, object], timeout: timedelta = AMPLE
    ) -> Adapter:
        endpoint = an_endpoint(
            address, adapter="mes_p100:MesP100", options={"token": "env:X", **options}, timeout=timeout
        )
        return MesP100(endpoint, secret=secret)

    def message(self) -> Message:
        return a_message(
            type="b2mml.operations-schedule.v1", content_type="application/xml", body=b"<ProcessOperationsSchedule/>"
        )

    def test_a_rejection_inside_a_2xx_is_final(self, server: ScriptedServer, adapter: Adapter) -> None:
        server.play("POST", Answer(200, acknowledgement(action="Rejected", text="no such segment")))

        failure = self.failure(adapter)

        assert isinstance(failure, PermanentFailure)
        assert failure.cause == "target.refused"
        assert "no such segment" in failure.detail

    def test_it_may_be_given_a_parcel_again_under_its_key(self, adapter: Adapter) -> None:
        assert adapter.remembers_keys
