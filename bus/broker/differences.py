"""How the broker differs from the topology: one line per difference, with what to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing at the broker that is missing, differs, or should not be there."""

    kind: str
    """exchange, queue, binding, user, permission or topic permission."""
    name: str
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.found}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """All differences found, and what was not looked at."""

    differences: tuple[Difference, ...]
    unchecked: tuple[str, ...]
