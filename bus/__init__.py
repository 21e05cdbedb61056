"""The public API of the bus: what routes, transformers and adapters import. Pure: no I/O happens on import."""

from bus.errors import (
    BusError,
    ConfigurationError,
    DeliveryFailure,
    EndpointDown,
    Exchange,
    MessageInvalid,
    MessageRefused,
    OutcomeUnknown,
    PermanentFailure,
    TransientFailure,
    Violation,
)
from bus.model.contract import Contract, MessageClass, OrderingKey, same, without_leading_zeros
from bus.model.document import read_json, read_xml, write_json
from bus.model.message import BUS, Message, Opened, Outgoing, short_key
from bus.model.predicate import Predicate, field, header, on
from bus.model.retry import RetryPolicy
from bus.model.route import Route
from bus.model.system import Endpoint
from bus.model.transformer import TransformContext, Transformer, transformer
from bus.model.values import ValueMap, ValueMaps
from bus.ports import Adapter, Answer, Checking, Finding, Parcel, Probing, Verdict

__all__ = [
    "BUS",
    "Adapter",
    "Answer",
    "BusError",
    "Checking",
    "ConfigurationError",
    "Contract",
    "DeliveryFailure",
    "Endpoint",
    "EndpointDown",
    "Exchange",
    "Finding",
    "Message",
    "MessageClass",
    "MessageInvalid",
    "MessageRefused",
    "Opened",
    "OrderingKey",
    "OutcomeUnknown",
    "Outgoing",
    "Parcel",
    "PermanentFailure",
    "Predicate",
    "Probing",
    "RetryPolicy",
    "Route",
    "TransformContext",
    "Transformer",
    "TransientFailure",
    "ValueMap",
    "ValueMaps",
    "Verdict",
    "Violation",
    "field",
    "header",
    "on",
    "read_json",
    "read_xml",
    "same",
    "short_key",
    "transformer",
    "without_leading_zeros",
    "write_json",
]
