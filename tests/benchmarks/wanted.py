"""What whoever runs the benchmarks asks of all of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wanted:
    rounds: int
