"""The Transaction of bus.ports: receiving, planning and settling in one unit of work."""

from __future__ import annotations

from bus.store.receiving import Receiving
from bus.store.settling import Settling


class SqlTransaction(Receiving, Settling):
    """See bus.ports.Transaction for what each step promises."""
