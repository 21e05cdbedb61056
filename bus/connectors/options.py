"""Read an endpoint's options with their types; what is not understood is refused, so that a typo is not ignored."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import NoReturn

from bus.errors import ConfigurationError
from bus.model.secret import Secret
from bus.model.system import Endpoint

SecretSource = Callable[[str], Secret]
"""Resolves the secret reference of the option named, at every call anew."""


class Options:
    """The options of one endpoint. Every reader raises ConfigurationError for a value of another type."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._read: set[str] = set()

    def has(self, name: str) -> bool:
        self._read.add(name)
        return name in self._endpoint.options

    def text(self, name: str, default: str = "") -> str:
        value = self._value(name, default)
        return value if isinstance(value, str) else self._refuse(name, value, "a text")

    def flag(self, name: str, *, default: bool = False) -> bool:
        value = self._value(name, default)
        return value if isinstance(value, bool) else self._refuse(name, value, "true or false")

    def seconds(self, name: str, default: timedelta) -> timedelta:
        value = self._value(name, default.total_seconds())
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 3600:
            return self._refuse(name, value, "a number of seconds up to 3600")
        return timedelta(seconds=value)

    def statuses(self, name: str) -> frozenset[int]:
        """HTTP statuses of the 4xx class."""
        value = self._value(name, [])
        if not isinstance(value, list | tuple):
            return self._refuse(name, value, "a list of statuses, such as [409]")
        for each in value:
            if isinstance(each, bool) or not isinstance(each, int) or not 400 <= each <= 499:
                self._refuse(name, each, "statuses from 400 to 499")
        return frozenset(value)

    def finish(self) -> None:
        """
        Raises:
            ConfigurationError: an option stands there that nobody has asked for.
        """
        unknown = sorted(set(self._endpoint.options) - self._read)
        if unknown:
            raise ConfigurationError(
                f"endpoint {self._endpoint.name!r}: unknown option {', '.join(unknown)}; "
                f"{self._endpoint.adapter} knows {', '.join(sorted(self._read))}"
            )

    def _value(self, name: str, default: object) -> object:
        self._read.add(name)
        return self._endpoint.options.get(name, default)

    def _refuse(self, name: str, value: object, expected: str) -> NoReturn:
        raise ConfigurationError(f"endpoint {self._endpoint.name!r}: option {name} is {value!r}; it takes {expected}")
