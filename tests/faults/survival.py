"""What became of each fault: told with its seed, kept for the end of the run, and refused where anything is found."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from zlib import crc32

import pytest

from tests.faults.checker import Finding

PROPERTY = "fault"
RUN_SEED = "PLANTBUS_FAULT_SEED"


@dataclass
class Survival:
    """One fault of one test. The seed follows from that of the run and the test's name, so each can be had again."""

    node: pytest.Item
    began: float = field(default_factory=time.monotonic)

    @property
    def seed(self) -> int:
        return crc32(f"{os.environ.get(RUN_SEED) or '1'} {self.node.name}".encode())

    def tell(self, findings: Sequence[Finding], *, store: str, holding: int = 0, measured: str = "") -> None:
        """Note it, and fail with everything that was found."""
        told = {
            "fault": self.node.name,
            "store": store,
            "seed": self.seed,
            "holding": holding,
            "seconds": round(time.monotonic() - self.began, 1),
            "measured": measured,
            "findings": [[each.verdict, str(each)] for each in findings],
        }
        self.node.user_properties.append((PROPERTY, told))
        assert not findings, "\n".join(map(str, findings))
