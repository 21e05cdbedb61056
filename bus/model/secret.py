"""A Secret: a password or token that cannot be printed by accident."""

from __future__ import annotations

import hmac
from typing import NoReturn


class Secret:
    """The value behind a secret reference (`env:NAME`, `file:path`); prints as `***`."""

    __slots__ = ("_value", "reference")

    def __init__(self, reference: str, value: str) -> None:
        self.reference = reference
        self._value = value

    def reveal(self) -> str:
        """The value itself, for the one line that puts it on the wire."""
        return self._value

    def __str__(self) -> str:
        return "***"

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        """Equal values, wherever they came from: a rotated secret differs from the one before."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    __hash__ = None  # type: ignore[assignment]  # no sets or dict keys of secrets

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is never serialised; pass its reference")
