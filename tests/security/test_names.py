"""Names that would lead elsewhere: of adapters, systems and endpoints, of paths into documents."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bus.bootstrap import adapter_of
from bus.errors import ConfigurationError
from bus.model.path import MISSING, value_at, values_at
from bus.project import load_project
from bus.settings import load_settings
from tests.unit.command_line import Plant

PROJECT = """
[sites.P1]
[systems.mes]
role = "MES"
sites = ["P1"]
owner = "it"
support = "desk"
[endpoints.mes]
system = "mes"
adapter = {adapter}
address = "http://127.0.0.1:1/"
"""


@pytest.mark.parametrize(
    "adapter",
    [
        "os:system",
        "subprocess:run",
        "adapters:__loader__",
        "adapters..os:system",
        "adapters.../outside:Adapter",
        "adapters./../../outside:Adapter",
        "adapters.os:system",
        "adapters.none",
        "../outside:Adapter",
        "/tmp/outside.py:Adapter",
        "adapters.\\u0000:Adapter",
        "adapters.__init__:__builtins__",
        "adapters.__init__:__loader__",
    ],
)
def test_an_adapter_is_a_class_of_the_project_and_nothing_else(tmp_path: Path, adapter: str) -> None:
    (tmp_path / "project/adapters").mkdir(parents=True)
    (tmp_path / "project/adapters/__init__.py").write_text("")
    (tmp_path / "outside.py").write_text("raise SystemExit('run')")
    (tmp_path / "project/bus.toml").write_text(PROJECT.format(adapter=f'"{adapter}"'))
    loaded = set(sys.modules)
    project = load_project(tmp_path / "project")

    with pytest.raises(ConfigurationError) as caught:
        adapter_of(project, project.settings.endpoints["mes"])

    assert "bus.toml [endpoints.mes]" in str(caught.value)
    assert "outside" not in {name.rpartition(".")[2] for name in set(sys.modules) - loaded}


@pytest.mark.parametrize(
    "name", ["..", "../../etc/passwd", "a/b", "a.b", "a\\u0000", "a b", "-a", "a\\n", "ä", "*", "#"]
)
@pytest.mark.parametrize("kind", ["sites", "systems", "endpoints"])
def test_a_name_in_bus_toml_leads_into_no_folder_and_into_no_routing_key(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / "bus.toml").write_text(f'[{kind}."{name}"]\n')

    with pytest.raises(ConfigurationError, match="a name has letters, digits and single hyphens"):
        load_settings(tmp_path, {})


REACHING = [
    "__class__",
    "__class__.__init__.__globals__",
    "order.__class__.__mro__",
    "order.id.__len__",
    "order.keys",
    "order.items.*",
    "..",
    ".order",
    "*.*",
    "../../etc/passwd",
]


@pytest.mark.parametrize("path", REACHING)
def test_a_path_into_a_document_reaches_what_stands_in_it_and_nothing_behind(plant: Plant, path: str) -> None:
    document = {"order": {"id": "4711"}}

    assert value_at(document, path) is MISSING
    assert list(values_at(document, path)) == []
    assert plant.json("message", "list", "--where", f"{path}=1", "--since", "3650d") == []
