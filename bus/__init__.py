"""The public API of the bus: what routes, transformers and adapters import. Pure: no I/O happens on import.

A name is imported when it is first asked for (PEP 562): most commands of `bus` need none of them, and the libraries
behind them take longer to import than such a command to answer.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # type checkers see the names themselves, and none besides
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
    from bus.model.contract import Contract, OrderingKey, same, without_leading_zeros
    from bus.model.document import read_json, read_xml, write_json
    from bus.model.message import BUS, Message, Opened, Outgoing, short_key
    from bus.model.message_class import MessageClass
    from bus.model.predicate import Predicate, field, header, on
    from bus.model.retry import RetryPolicy
    from bus.model.route import Route
    from bus.model.system import Endpoint
    from bus.model.transformer import TransformContext, Transformer, transformer
    from bus.model.values import ValueMap, ValueMaps
    from bus.ports import Adapter, Answer, Checking, Finding, Parcel, Probing, Verdict
else:
    _HOMES = {
        "bus.errors": (
            "BusError",
            "ConfigurationError",
            "DeliveryFailure",
            "EndpointDown",
            "Exchange",
            "MessageInvalid",
            "MessageRefused",
            "OutcomeUnknown",
            "PermanentFailure",
            "TransientFailure",
            "Violation",
        ),
        "bus.model.contract": ("Contract", "OrderingKey", "same", "without_leading_zeros"),
        "bus.model.document": ("read_json", "read_xml", "write_json"),
        "bus.model.message": ("BUS", "Message", "Opened", "Outgoing", "short_key"),
        "bus.model.message_class": ("MessageClass",),
        "bus.model.predicate": ("Predicate", "field", "header", "on"),
        "bus.model.retry": ("RetryPolicy",),
        "bus.model.route": ("Route",),
        "bus.model.system": ("Endpoint",),
        "bus.model.transformer": ("TransformContext", "Transformer", "transformer"),
        "bus.model.values": ("ValueMap", "ValueMaps"),
        "bus.ports": ("Adapter", "Answer", "Checking", "Finding", "Parcel", "Probing", "Verdict"),
    }
    _HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

    def __getattr__(name):
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
        return value

    def __dir__():
        return sorted({*globals(), *__all__})


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
