"""Who takes part: sites, systems, endpoints; as bus.toml states them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

NAME = re.compile(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*")
"""Names of sites, systems and endpoints: no dots (they are words of routing keys), nothing to escape."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A plant."""

    name: str


@dataclass(frozen=True, kw_only=True)
class System:
    """A system that publishes, receives, or both."""

    name: str
    role: str
    """ERP, MES, WMS, QMS …: what contracts name as owner."""
    sites: tuple[str, ...]
    user: str
    """Its own user at the broker."""
    publishes: tuple[str, ...]
    owner: str
    support: str
    password: str = field(default="", repr=False)
    """Secret reference (`env:NAME` or `file:path`), never the secret itself."""
    speaks_for: tuple[str, ...] = ()
    """Systems a bridge may publish for."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A named interface of a system to which the bus delivers."""

    name: str
    system: str
    adapter: str
    """`module:Class` below `adapters`, or a connector of the bus (`http`, `amqp`)."""
    address: str
    options: Mapping[str, object] = field(default_factory=dict)
    """What the adapter reads besides: users, secret references, paths."""
    concurrency: int = 2
    timeout: timedelta = timedelta(seconds=30)
    visible_after: timedelta = timedelta(seconds=60)
    """How long after an unknown outcome the target's `absent` counts; never below the time-out."""
    batch: int = 128

    @property
    def queue(self) -> str:
        return f"send.{self.name}"
