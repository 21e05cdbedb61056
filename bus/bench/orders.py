"""The orders a pipeline is given: canonical or as an ERP writes them, about how many, for which sites, how large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bus.bench.job import SITES, USER, native_order, order, order_id
from bus.bench.project import CANONICAL, NATIVE
from bus.broker.publisher import Publication
from bus.model.envelope import EXCHANGE, PERSISTENT


@dataclass(frozen=True, kw_only=True)
class Orders:
    """Which message a number stands for; each number is a message of its own."""

    native: bool = False
    keys: int = 0
    """How many orders the messages are about, by turns; 0: each is about one of its own."""
    site: str = ""
    """Where all of them go; empty: to the sites by turns. Not for native ones."""
    operations: int = 3
    instructions: int = 0
    """Bytes of them for each operation."""
    first: int = 0
    """What the number 0 stands for: two kinds of orders given to one bus share no message."""

    @property
    def sites(self) -> Sequence[str]:
        return (self.site,) if self.site else SITES

    def body(self, number: int) -> bytes:
        about = self._about(number)
        if self.native:
            return native_order(about)
        return order(about, site=self._site(about), operations=self.operations, instructions=self.instructions)

    def publication(self, number: int) -> Publication:
        about = self._about(number)
        type_name = NATIVE if self.native else CANONICAL
        site = self._site(about)
        return Publication(
            exchange=EXCHANGE,
            routing_key=f"{site}.{USER}.{type_name}",
            body=self.body(number),
            properties={
                "type": type_name,
                "app_id": USER,
                "user_id": USER,
                "message_id": order_id(self.first + number),
                "content_type": "application/json",
                "delivery_mode": PERSISTENT,
            },
            headers={"site": site, "subject": f"order:{order_id(about)}", "time": "2026-03-02T05:00:00+00:00"},
        )

    def _about(self, number: int) -> int:
        return self.first + (number % self.keys if self.keys else number)

    def _site(self, about: int) -> str:
        return self.sites[about % len(self.sites)]


PLAIN = Orders()
"""Canonical ones of 0.7 kB, for both sites."""
