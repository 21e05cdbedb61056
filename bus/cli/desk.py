"""What every command works with: the project it is about, its store, the way to wake workers, and its output."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from click import get_current_context

from bus.cli.output import Output
from bus.errors import BusError, ConfigurationError, NotAvailable

if TYPE_CHECKING:
    from bus.model.catalogue import Catalogue
    from bus.project import Project
    from bus.settings import Settings
    from bus.store.engine import Database
    from bus.store.sqlstore import SqlStore


@dataclass
class Desk:
    """Opens only what a command asks for: the parts of the bus take longer to import than to answer."""

    folder: Path | None = None
    debug: bool = False
    out: Output = field(default_factory=Output)
    told_of_hints: bool = False

    @cached_property
    def settings(self) -> Settings:
        """bus.toml alone, without importing the project."""
        from bus.find_project import find_project
        from bus.settings import load_settings

        return load_settings(find_project(self.folder))

    @cached_property
    def project(self) -> Project:
        """The project, imported; what does not fit together is in its complaints."""
        from bus.project import load_project

        return load_project(self.folder)

    @cached_property
    def catalogue(self) -> Catalogue | None:
        """The project's catalogue for commands that only look something up there: a broken project is told, once."""
        with suppress(NotAvailable):
            try:
                return self.project.catalogue
            except ConfigurationError as error:
                self.out.say(f"the project cannot be read, so owners and contracts are missing here: {error}")
        return None

    @cached_property
    def database(self) -> Database:
        """The store's database, its tables up to date: what commands read from.

        Not by way of bootstrap, which imports broker and workers too.
        """
        from bus.secret_references import revealed
        from bus.store import schema
        from bus.store.engine import Database

        database = Database(revealed(self.settings.store, root=self.settings.root))
        get_current_context().call_on_close(database.close)
        schema.require_current(database)
        return database

    @cached_property
    def store(self) -> SqlStore:
        """The project's store, for commands that change something."""
        from bus.store.sqlstore import SqlStore

        return SqlStore(self.database)

    def wake(self, queues: set[str]) -> None:
        """Put hints for what has work now; without a broker the relay does it later."""
        if not queues:
            return
        try:
            from bus.bootstrap import wake_for

            wake_for(self.project, _Hints(self._not_woken))(queues)
        except BusError as error:
            self._not_woken(str(error))

    def _not_woken(self, why: str) -> None:
        if self.told_of_hints:
            return
        self.told_of_hints = True
        self.out.say(f"It is done; but the workers could not be woken ({why}). The relay finds the work when it runs.")


@dataclass(frozen=True)
class _Hints:
    """The port Telemetry for a command: that hints could not be put is said, all else is for the processes' logs."""

    not_put: Callable[[str], None]

    def event(self, name: str, **fields: object) -> None:
        if name in ("hints not put", "hint not put"):
            self.not_put(str(fields.get("error", "")))


def quiet_libraries() -> None:
    """Libraries log to nowhere: what they say of a missing broker is said in a sentence instead."""
    os.environ["LOGURU_AUTOINIT"] = "0"  # read when it is imported; most commands never do, and would wait for it
    logging.getLogger().addHandler(logging.NullHandler())


def desk() -> Desk:
    """The desk of the running command."""
    return get_current_context().ensure_object(Desk)
