"""Every transformer makes exactly what its golden files say."""

import os

import pytest

from bus import Transformer
from tests.project.project import GOLDEN, GoldenCase, golden_cases, modules


@pytest.mark.parametrize("case", golden_cases(), ids=lambda case: f"{case.folder.name}/{case.name}")
def test_a_transformer_makes_what_its_golden_file_says(case: GoldenCase) -> None:
    made = case.made()
    if "PLANTBUS_WRITE_GOLDEN" in os.environ:  # after a deliberate change: read the difference before committing it
        case.expected.write_text(made, encoding="utf-8")

    assert made == case.expected.read_text(encoding="utf-8")


def test_every_transformer_has_a_golden_pair() -> None:
    declared = {
        value.name.removeprefix("transformers.")
        for module in modules("transformers")
        for value in vars(module).values()
        if isinstance(value, Transformer)
    }

    assert declared == {folder.name for folder in GOLDEN.iterdir() if any(folder.glob("*.in"))}


def test_the_same_message_and_key_make_the_same_bytes_again() -> None:
    for case in golden_cases():
        assert case.made() == case.made()
