"""What machines report: high-volume events, kept apart from the transactions of orders."""

from __future__ import annotations

from marshmallow import fields

from bus import Contract, MessageClass, OrderingKey
from transformers.canonical.fields import Identifier, Moment, Part, Word
from transformers.canonical.parts import Order

STATES = ("Running", "Idle", "Setup", "Down", "Unavailable")


class Equipment(Part):
    """A machine; its id is unique over all plants, as it is the ordering key."""

    id = Identifier(required=True)
    site = Identifier(required=True)


class SubState(Part):
    """MTConnect's Execution and ControllerMode, where the machine tells them."""

    execution = fields.String()
    mode = fields.String()


class Alarm(Part):
    code = Identifier(required=True)
    severity = Word("Information", "Warning", "Fault")
    text = fields.String()


class StatusChanged(Part):
    equipment = fields.Nested(Equipment, required=True)
    state = Word(*STATES, required=True)
    sub = fields.Nested(SubState)
    alarm = fields.Nested(Alarm)
    since = Moment(required=True)
    sequence = fields.Integer(strict=True)
    order = fields.Nested(Order)


STATUS_CHANGED = Contract(
    type="equipment.status-changed.v1",
    owner="MES",
    support="shopfloor-it@plant.example",
    description="A machine runs, idles or is down, since when and with which alarm.",
    schema=StatusChanged,
    message_class=MessageClass.EVENT,
    canonical=True,
    identity=("equipment.id", "state", "since"),
    key=OrderingKey("equipment", "equipment.id"),
    searchable=("equipment.id", "order.id", "alarm.code"),
    examples=(
        b'{"equipment": {"id": "P1-PRESS-07", "site": "P100"}, "state": "Down",'
        b' "sub": {"execution": "INTERRUPTED", "mode": "AUTOMATIC"}, "alarm": {"code": "E-217", "severity": "Fault"},'
        b' "since": "2026-03-02T08:15:30.120+01:00", "order": {"id": "000001000123"}}',
    ),
)

CONTRACTS = (STATUS_CHANGED,)
