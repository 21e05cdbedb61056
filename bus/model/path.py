"""Dotted paths into documents: `quantity.value`, `operations.*.id` (`*`: every item of a list)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

MISSING: Any = type("Missing", (), {"__repr__": lambda _: "missing", "__bool__": lambda _: False})()
"""What a path yields where the document has nothing."""


def values_at(document: Any, path: str) -> Iterator[Any]:
    """Every value the path names, in document order; nothing where it names nothing."""
    yield from _walk(document, path.split("."))


def value_at(document: Any, path: str) -> Any:
    """The first value the path names, or MISSING."""
    value = document
    for step in _steps(path):
        if step == "*":
            return next(values_at(document, path), MISSING)
        if not isinstance(value, (dict, Mapping)) or step not in value:
            return MISSING
        value = value[step]
    return value


@lru_cache(maxsize=4096)
def _steps(path: str) -> Sequence[str]:
    """Routes and contracts name few paths, and ask for them with every message."""
    return path.split(".")


def _walk(value: Any, steps: Sequence[str]) -> Iterator[Any]:
    if not steps:
        yield value
    elif steps[0] == "*":
        if isinstance(value, list | tuple):
            for item in value:
                yield from _walk(item, steps[1:])
    elif isinstance(value, Mapping) and steps[0] in value:
        yield from _walk(value[steps[0]], steps[1:])
