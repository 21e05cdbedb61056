"""Value maps: a partner's own words (units, statuses, reasons, ids) and ours, both ways, versioned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bus.errors import ConfigurationError, PermanentFailure
from bus.model.message import digest_of

ABSENT = "value-map.absent"
"""The cause where a transformer asks for a map that nobody made."""


@dataclass(frozen=True)
class ValueMap:
    """A table of pairs (partner's word, canonical word).

    Several words of a partner may mean one canonical word; the first one listed is used on the way out.
    """

    partner: str
    name: str
    version: int
    pairs: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        words = [word for word, _ in self.pairs]
        twice = sorted({word for word in words if words.count(word) > 1})
        if twice:
            raise ConfigurationError(f"value map {self.partner}.{self.name}: {', '.join(twice)} stands twice")

    def to_canonical(self, word: str) -> str:
        """Our word for the partner's.

        Raises:
            PermanentFailure: value-map.missing.
        """
        for theirs, ours in self.pairs:
            if theirs == word:
                return ours
        raise self._missing(word, "partner")

    def to_partner(self, word: str) -> str:
        """The partner's word for ours; raises like to_canonical."""
        for theirs, ours in self.pairs:
            if ours == word:
                return theirs
        raise self._missing(word, "canonical")

    def _missing(self, word: str, side: str) -> PermanentFailure:
        return PermanentFailure(
            "value-map.missing",
            f"{self.partner}.{self.name} (version {self.version}) has no pair for the {side} word {word!r}",
        )


@dataclass(frozen=True)
class ValueMaps:
    """The maps of one partner, by name."""

    partner: str = ""
    maps: Mapping[str, ValueMap] = field(default_factory=dict)

    def __getitem__(self, name: str) -> ValueMap:
        """A map by name.

        Raises:
            PermanentFailure: value-map.absent, when the partner has no such map.
        """
        try:
            return self.maps[name]
        except KeyError:
            known = f"knows only {', '.join(self.maps)}" if self.maps else "does not exist yet"
            raise PermanentFailure(
                ABSENT,
                f'no value map [{name}]: the transformers/…/values.toml with partner = "{self.partner}" {known}',
            ) from None

    @property
    def digest(self) -> str:
        return digest_of(*(f"{m.name}/{m.version}/{m.pairs}" for m in self.maps.values())).hex()[:12]
