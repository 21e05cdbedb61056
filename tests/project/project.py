"""What the tests of the project share: its contracts, its value maps, an opened message, a golden case."""

from __future__ import annotations

import importlib
import json
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from bus import Contract, Message, Opened, Outgoing, TransformContext, Transformer, ValueMap, ValueMaps
from bus.model.contract import Contracts

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"
ElementTree.register_namespace("", "http://www.mesa.org/xml/B2MML")
KEY = "0b7e0e9c-5d0e-4a53-a5f1-3c8a4f5a1a01"


@cache
def contracts() -> Contracts:
    """Every contract that a module below `transformers` declares."""
    return Contracts(contract for module in modules("transformers") for contract in getattr(module, "CONTRACTS", ()))


def modules(package: str) -> Iterator[Any]:
    for path in sorted((ROOT / package).rglob("*.py")):
        if path.name != "__init__.py":
            yield importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


@cache
def maps_of(partner: str) -> ValueMaps:
    for path in (ROOT / "transformers").glob("*/values.toml"):
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        if tables.pop("partner") == partner:
            maps = {
                name: ValueMap(
                    partner, name, table["version"], tuple((theirs, ours) for theirs, ours in table["pairs"])
                )
                for name, table in tables.items()
            }
            return ValueMaps(partner, maps)
    raise LookupError(f"no values.toml says partner = {partner!r}")


def opened(type_name: str, body: bytes, *, system: str = "erp", site: str = "P100", id: str = "M-1") -> Opened:  # noqa: A002
    """The message as the router would open it: read and checked by its contract."""
    contract = contracts().of(type_name)
    document = contract.read(body)
    message = Message(
        id=id,
        type=type_name,
        system=system,
        site=site,
        subject=contract.subject_of(document),
        content_type=contract.content_types[0],
        body=body,
        time=datetime(2026, 3, 1, 6, tzinfo=UTC),
    )
    return Opened(message, document)


def context(partner: str) -> TransformContext:
    return TransformContext(maps=maps_of(partner), key=KEY)


def outputs(transformer: Transformer, message: Opened, partner: str) -> list[Outgoing]:
    """What it makes, each output accepted by the contract of its type."""
    made = transformer(message, context(partner))
    every = [made] if isinstance(made, Outgoing) else list(made)
    for each in every:
        assert each.type in transformer.makes
        outgoing_contract = contracts()[each.type]
        assert each.content_type in outgoing_contract.content_types
        outgoing_contract.subject_of(outgoing_contract.read(each.body))
    return every


def only(made: Sequence[Outgoing]) -> Any:
    """The document of the one output."""
    (outgoing,) = made
    return json.loads(outgoing.body)


@dataclass(frozen=True)
class GoldenCase:
    """`golden/<module>.<transformer>/<case>.in` and `.out`; `message.toml` beside them says who sent it and where."""

    folder: Path
    name: str

    @property
    def transformer(self) -> Transformer:
        module, _, function = self.folder.name.rpartition(".")
        found: Transformer = getattr(importlib.import_module(f"transformers.{module}"), function)
        return found

    @property
    def expected(self) -> Path:
        return self.folder / f"{self.name}.out"

    def made(self) -> str:
        sender = tomllib.loads((self.folder / "message.toml").read_text(encoding="utf-8"))
        message = opened(
            self.transformer.takes[0],
            (self.folder / f"{self.name}.in").read_bytes(),
            system=sender["system"],
            site=sender["site"],
        )
        return "".join(map(readable, outputs(self.transformer, message, sender["partner"])))


def golden_cases() -> list[GoldenCase]:
    return [GoldenCase(path.parent, path.stem) for path in sorted(GOLDEN.glob("*/*.in"))]


def readable(outgoing: Outgoing) -> str:
    """An output for people to compare: its type, then its body with one thing a line."""
    if outgoing.content_type == "application/json":
        text = json.dumps(json.loads(outgoing.body), indent=2, ensure_ascii=False)
    else:
        root = ElementTree.fromstring(outgoing.body)
        ElementTree.indent(root)
        text = ElementTree.tostring(root, encoding="unicode")
    return f"--- {outgoing.type} {outgoing.content_type}\n{text}\n"


def example(contract_type: str, index: int = 0) -> bytes:
    contract: Contract = contracts()[contract_type]
    return contract.examples[index]
