"""Value maps: a partner's words and ours, both ways."""

from __future__ import annotations

import pytest

from bus.errors import ConfigurationError, PermanentFailure
from bus.model.values import ValueMap, ValueMaps

UNITS = ValueMap("mes-1", "units", 3, (("KG", "KGM"), ("kilo", "KGM"), ("PC", "C62")))


@pytest.mark.parametrize(("theirs", "ours"), [("KG", "KGM"), ("kilo", "KGM"), ("PC", "C62")])
def test_each_word_of_a_partner_has_one_meaning(theirs: str, ours: str) -> None:
    assert UNITS.to_canonical(theirs) == ours


def test_of_several_words_for_one_meaning_the_first_is_used_on_the_way_out() -> None:
    assert UNITS.to_partner("KGM") == "KG"


def test_a_word_of_the_partner_that_is_not_mapped_is_named_with_its_map() -> None:
    with pytest.raises(
        PermanentFailure, match=r"mes-1\.units \(version 3\) has no pair for the partner word 'kg'"
    ) as e:
        UNITS.to_canonical("kg")

    assert e.value.cause == "value-map.missing"


def test_a_word_of_ours_that_is_not_mapped_is_named_with_its_map() -> None:
    with pytest.raises(PermanentFailure, match=r"mes-1\.units \(version 3\) has no pair for the canonical word 'LTR'"):
        UNITS.to_partner("LTR")


def test_a_word_that_stands_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"value map mes-1\.units: KG stands twice"):
        ValueMap("mes-1", "units", 1, (("KG", "KGM"), ("KG", "GRM")))


def test_a_map_is_found_by_its_name() -> None:
    assert ValueMaps("mes-1", {"units": UNITS})["units"] is UNITS


@pytest.mark.parametrize(
    ("maps", "known"), [({}, "does not exist yet"), ({"units": UNITS, "sites": UNITS}, "knows only units, sites")]
)
def test_a_map_that_the_partner_lacks_is_named_with_its_file(maps: dict[str, ValueMap], known: str) -> None:
    with pytest.raises(PermanentFailure) as e:
        ValueMaps("mes-1", maps)["reasons"]

    assert e.value.cause == "value-map.absent"
    assert str(e.value).endswith(
        f'no value map [reasons]: the transformers/…/values.toml with partner = "mes-1" {known}'
    )


def test_the_digest_follows_every_pair_and_version() -> None:
    maps = [
        UNITS,
        ValueMap("mes-1", "units", 4, UNITS.pairs),
        ValueMap("mes-1", "units", 3, UNITS.pairs[:2]),
        ValueMap("mes-1", "reasons", 3, UNITS.pairs),
    ]

    digests = {ValueMaps("mes-1", {m.name: m}).digest for m in maps}

    assert len(digests) == len(maps)
    assert ValueMaps("mes-1", {"units": UNITS}).digest == ValueMaps("mes-1", {"units": UNITS}).digest
