"""How long a process may be silent."""

from __future__ import annotations

from datetime import timedelta

LEASE = timedelta(seconds=15)
"""A lease lapses when its counter stood still for this long, as its observer saw it."""
