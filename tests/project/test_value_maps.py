"""A value map that a transformer needs and nobody made is found before a message needs it."""

from __future__ import annotations

from dataclasses import replace

from bus.control.rehearse import absent_maps
from bus.model.values import ValueMaps
from bus.project import load_project
from tests.project.project import ROOT

CATALOGUE = load_project(ROOT).catalogue


def test_the_project_has_every_map_its_transformers_ask_for() -> None:
    assert absent_maps(CATALOGUE) == []


def test_a_map_that_is_gone_is_named_with_the_route_and_the_file() -> None:
    without = replace(CATALOGUE, maps={**CATALOGUE.maps, "mes-p200": ValueMaps("mes-p200", {})})

    found = absent_maps(without)

    assert found
    for text in found:
        assert text.startswith("route ")
        assert 'the transformers/…/values.toml with partner = "mes-p200" does not exist yet' in text


def test_a_word_without_a_pair_is_no_map_that_is_absent() -> None:
    wordless = {
        partner: ValueMaps(partner, {name: replace(each, pairs=()) for name, each in maps.maps.items()})
        for partner, maps in CATALOGUE.maps.items()
    }

    assert absent_maps(replace(CATALOGUE, maps=wordless)) == []
