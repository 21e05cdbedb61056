"""The recorded day of the unit tests, for hostile hands."""

from __future__ import annotations

from tests.unit.conftest import plant, recorded_day

__all__ = ["plant", "recorded_day"]
