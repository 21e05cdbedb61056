"""Every error of the bus, as one tree; the class answers "does trying again help?"."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


class BusError(Exception):
    """Anything the bus raises on purpose; its text is written for a person."""


# --- configuration: refused at start, by `bus check` and by every command ------------------------------------------


class ConfigurationError(BusError):
    """bus.toml, a route, a contract or a transformer is wrong: what was found, what was expected, what to change."""


class SecretUnavailable(ConfigurationError):
    """A secret reference leads to nothing that may be used: the text names the reference, never a value."""


class NotAvailable(BusError):
    """A service the command needs (broker, store, project) is missing; the text says how to get it."""


class StoreUnavailable(NotAvailable):
    """The store cannot be reached or refused to write: nothing of this step was kept."""


class StoreRefuses(NotAvailable):
    """The store is there and refuses for good: tables missing or old, a right missing. Waiting does not help."""


class BrokerUnavailable(NotAvailable):
    """The broker cannot be reached, or did not confirm in time."""


class StoreConflict(BusError):
    """The store rolled back because of a concurrent writer (deadlock, serialisation): repeat the batch."""


class DataRefused(BusError):
    """The store cannot keep a value (a NUL in a text, say): some row of the batch is the culprit."""


class NotFound(BusError):
    """The id a person typed names nothing in the store."""


class NotAllowed(BusError):
    """The act does not fit the state of the delivery; the text names the state and the acts that do."""


# --- publishing ----------------------------------------------------------------------------------------------------


class PublishError(BusError):
    """A message was not confirmed by the broker; it may be published again under the same id."""


class PublishRefused(PublishError):
    """The broker refuses this system, type or exchange: trying again does not help."""


class Unroutable(PublishError):
    """The broker had no queue for the message (mandatory return)."""


# --- opening a message: becomes a receipt ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Violation:
    """One broken rule: `place` is line/column or a path into the document."""

    place: str
    rule: str

    def __str__(self) -> str:
        return f"{self.place}: {self.rule}" if self.place else self.rule


class MessageInvalid(BusError):
    """The message cannot be taken as it is: kept raw, receipt INVALID(cause)."""

    def __init__(self, cause: str, *violations: Violation) -> None:
        super().__init__(f"{cause}: " + "; ".join(map(str, violations)))
        self.cause = cause
        self.violations = violations


class MessageRefused(BusError):
    """The sender may not say this (identity, right, contradicting properties): receipt REFUSED(cause)."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause = cause
        self.detail = detail


# --- outcomes of a delivery ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exchange:
    """What went over the wire, secrets masked: request as sent, answer as read (either may be empty)."""

    sent: bytes = b""
    received: bytes = b""


class DeliveryFailure(BusError):
    """A delivery step failed. `cause` is a stable code with a remedy in bus.model.causes."""

    def __init__(self, cause: str, detail: str = "", *, exchange: Exchange | None = None) -> None:
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause = cause
        self.detail = detail
        self.exchange = exchange or Exchange()


class TransientFailure(DeliveryFailure):
    """This message, later: it did not happen, and trying again can help."""

    def __init__(
        self, cause: str, detail: str = "", *, exchange: Exchange | None = None, retry_after: timedelta | None = None
    ) -> None:
        super().__init__(cause, detail, exchange=exchange)
        self.retry_after = retry_after


class EndpointDown(DeliveryFailure):
    """Nobody, until the endpoint is back: trips the breaker and spends no attempt. Nothing was sent."""


class PermanentFailure(DeliveryFailure):
    """Trying again cannot help: DEAD at once, with the target's own code and text."""


class OutcomeUnknown(DeliveryFailure):
    """It may have happened: never repeated blindly unless the endpoint remembers idempotency keys."""
