"""Load a project: import its contracts, routes and value maps, and check that everything fits together."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from bus.errors import ConfigurationError
from bus.find_project import find_project
from bus.model.catalogue import Catalogue
from bus.model.contract import Contract, Contracts
from bus.model.route import Route, RouteTable
from bus.model.topology import Topology, plan_topology
from bus.model.values import ValueMap, ValueMaps
from bus.settings import Settings, load_settings

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Project:
    """A loaded project. `complaints` is empty in one that may start."""

    root: Path
    settings: Settings
    catalogue: Catalogue
    complaints: tuple[str, ...]

    def require_sound(self) -> Project:
        """Refuse to go on with a project that does not fit together.

        Raises:
            ConfigurationError: every complaint, a line each, with its file.
        """
        if self.complaints:
            raise ConfigurationError("\n".join(self.complaints))
        return self


def load_project(folder: Path | None = None) -> Project:
    """Load the project: bus.toml, `transformers/` (contracts, value maps) and `routes/`.

    Raises:
        NotAvailable: there is no project.
        ConfigurationError: something cannot be read or imported; what does not fit is in `complaints`.
    """
    root = find_project(folder)
    settings = load_settings(root)
    if str(root) in sys.path:
        sys.path.remove(str(root))
    sys.path.insert(0, str(root))
    contracts: list[Contract] = []
    routes: list[Route] = []
    origins: dict[str, str] = {}
    for module, path in _modules(root, "transformers"):
        contracts += _declared(module, path, "CONTRACTS", Contract)
    for module, path in _modules(root, "routes"):
        for route in _declared(module, path, "ROUTES", Route):
            if route.name in origins:
                here = _place(root, path, route.name)
                raise ConfigurationError(f"two routes are named {route.name!r}: in {origins[route.name]} and in {here}")
            origins[route.name] = _place(root, path, route.name)
            routes.append(route)
    catalogue = Catalogue(
        contracts=Contracts(_once(contracts)),
        routes=RouteTable(routes),
        sites=settings.sites,
        systems=settings.systems,
        endpoints=settings.endpoints,
        maps=_value_maps(root),
    )
    complaints = tuple(f"{_origin(text, origins)}: {text}" for text in catalogue.complaints())
    return Project(root=root, settings=settings, catalogue=catalogue, complaints=complaints)


def topology_of(project: Project) -> Topology:
    """What the project needs at the broker."""
    settings = project.settings
    return plan_topology(
        systems=settings.systems.values(),
        endpoints=settings.endpoints.values(),
        contracts=project.catalogue.contracts,
        partitions=settings.partitions,
        engine_password=settings.password,
    )


def _modules(root: Path, package: str) -> Iterator[tuple[ModuleType, Path]]:
    """Import every module below a folder of the project, by its plain name, and check that it came from there."""
    folder = root / package
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        try:
            module = importlib.import_module(name)
        except ConfigurationError as error:
            raise ConfigurationError(f"{path.relative_to(root)}: {error}") from error
        except (Exception, SystemExit) as error:  # whatever a project's file raises is told with its place
            raise ConfigurationError(_where(error, path, root)) from error
        found = Path(module.__file__ or "").resolve()
        if found != path.resolve():
            raise ConfigurationError(
                f"{name!r} was imported from {found}, not from {path}: another package of that name is in the way"
            )
        yield module, path


def _where(error: BaseException, path: Path, root: Path) -> str:
    """The last line of the project's own that led to the error."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(root)]
    place = f"{path.relative_to(root)}"
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{_within(Path(error.filename), root)}:{error.lineno}"
    elif frames:
        place = f"{Path(frames[-1].filename).relative_to(root)}:{frames[-1].lineno}"
    return f"{place}: {type(error).__name__}: {error}"


def _within(path: Path, root: Path) -> Path:
    """As the project's people call the file; a file of somebody else by its whole path."""
    return path.relative_to(root) if path.is_relative_to(root) else path


def _declared(module: ModuleType, path: Path, name: str, kind: type[T]) -> list[T]:
    declared = getattr(module, name, ())
    if not isinstance(declared, tuple | list) or not all(isinstance(each, kind) for each in declared):
        raise ConfigurationError(f"{path}: {name} must be a tuple of {kind.__name__}s")
    return list(declared)


def _once(contracts: list[Contract]) -> list[Contract]:
    """A contract may be listed by several modules; one object counts once."""
    return list({id(contract): contract for contract in contracts}.values())


def _place(root: Path, path: Path, route: str) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if f'"{route}"' in line:
            return f"{path.relative_to(root)}:{number}"
    return str(path.relative_to(root))


def _origin(complaint: str, origins: Mapping[str, str]) -> str:
    found = re.match(r"route ([a-z0-9-]+):", complaint)
    return origins.get(found[1], "routes") if found else "bus.toml"


def _value_maps(root: Path) -> dict[str, ValueMaps]:
    """`transformers/*/values.toml`: a partner and its maps, each a version and pairs (theirs, ours)."""
    found: dict[str, ValueMaps] = {}
    for path in sorted((root / "transformers").glob("*/values.toml")):
        place = path.relative_to(root)
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigurationError(f"{place}: {error}") from error
        partner = tables.pop("partner", None)
        if not isinstance(partner, str):
            raise ConfigurationError(f'{place}: partner = "<system>" is expected at the top')
        if partner in found:
            raise ConfigurationError(f"{place}: partner {partner!r} has its maps in another file already")
        maps = {name: _value_map(partner, name, table, place) for name, table in tables.items()}
        found[partner] = ValueMaps(partner, maps)
    return found


def _value_map(partner: str, name: str, table: object, place: Path) -> ValueMap:
    expected = f'{place} [{name}]: version = 1 and pairs = [["theirs", "ours"], …] are expected'
    if not isinstance(table, dict) or not isinstance(table.get("version"), int) or set(table) != {"version", "pairs"}:
        raise ConfigurationError(expected)
    pairs = table["pairs"]
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(word, str) for word in pair) for pair in pairs
    ):
        raise ConfigurationError(expected)
    return ValueMap(partner, name, table["version"], tuple((theirs, ours) for theirs, ours in pairs))
