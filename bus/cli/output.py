"""What a command prints: results as a table, JSON or JSON lines on stdout; everything said besides on stderr."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import Enum
from functools import cached_property
from typing import Any, NoReturn

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from bus.cli.texts import in_local_zone, plain, when
from bus.model.delivery import State

FORMATS = ("table", "json", "ndjson")
WIDE = 100
"""Columns of a terminal from which tables have room for their wide columns …"""
WIDEST = 140
"""… and for every time in full."""
PIPED = 160
"""Columns of a table that goes to no terminal, where COLUMNS does not say."""

DEEPEST = 100
"""Levels of a value that are printed as JSON; a sender's headers may have any number."""

_STYLES = {
    State.DELIVERED: "green",
    State.DEAD: "bold red",
    State.IN_DOUBT: "bold magenta",
    State.RETRYING: "yellow",
    State.DISCARDED: "dim",
    State.READY: "cyan",
    "tripped": "bold red",
    "paused": "yellow",
    "open": "green",
}


class _Console(Console):
    """Whatever is printed, and by whom: a terminal obeys nothing of it but rich's own styles."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            if segment.control is None and not segment.text.isprintable():
                segment = Segment(plain(segment.text), segment.style)
            yield segment

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


@dataclass(frozen=True)
class Column:
    """A column of a table: its title, and what it shows of an item. `room`: columns the terminal must have for it."""

    title: str
    value: Callable[[Any], object]
    room: int = 0
    right: bool = False


class Output:
    """Prints in the format asked for. Everything from outside is made safe; nothing is read as markup."""

    def __init__(self) -> None:
        self.format = "table"
        self.log: Callable[[str], None] | None = None
        """Where a process that logs as JSON says what would stand between its lines."""

    @cached_property
    def stdout(self) -> Console:
        return _console(sys.stdout)

    @cached_property
    def stderr(self) -> Console:
        return _console(sys.stderr)

    def items(self, items: Sequence[Any], *columns: Column, empty: str, title: str = "") -> None:
        """Many of one kind: a table, an array, or one JSON value a line; `empty` is said where there are none."""
        if self.format == "table":
            if items:
                self.print(self.table(items, *columns, title=title))
            elif empty:
                self.say(empty)
        elif self.format == "json":
            self._write(_dumped(items, indent=2))
        else:
            for item in items:
                self._write(_dumped(item))

    def one(self, value: Any, render: Callable[[], Iterable[RenderableType]]) -> None:
        """One thing: as `render` draws it, or its fields as JSON."""
        if self.format == "table":
            for part in render():
                self.print(part)
        else:
            self._write(_dumped(value, indent=2 if self.format == "json" else None))

    def print(self, part: RenderableType) -> None:
        """A result, for people."""
        self.stdout.print(part)

    def say(self, text: str, *, style: str = "") -> None:
        """Something beside the result, on stderr."""
        if self.log is not None:
            self.log(text)
            return
        self.stderr.print(Text(plain(text), style=style), soft_wrap=True)

    def table(self, items: Iterable[Any], *columns: Column, title: str = "") -> RenderableType:
        """The items as rows. Times and numbers stay on one line, everything else folds: nothing is cut off."""
        table = Table(
            box=box.SIMPLE_HEAD,
            show_edge=False,
            padding=(0, 1, 0, 0),
        )
        rows = list(items)
        cells: list[list[Text]] = []
        for column in columns:
            if column.room > self.stdout.width:
                continue
            header, texts = self._column(column.title, [column.value(item) for item in rows])
            fixed = column.right or any(text.no_wrap for text in texts)
            table.add_column(header, justify="right" if column.right else "left", overflow="fold", no_wrap=fixed)
            cells.append(texts)
        for row in zip(*cells, strict=True):
            table.add_row(*row)
        return Group(Text(f"\n{plain(title)}", style="bold"), table) if title else table

    def _column(self, title: str, values: Sequence[object]) -> tuple[str, list[Text]]:
        """The cells of a column. Where there is no room to spare and all times are of one day, the title bears it."""
        moments = [in_local_zone(value) for value in values if isinstance(value, datetime)]
        if self.stdout.width < WIDEST and moments and len({f"{moment:%Y-%m-%d%z}" for moment in moments}) == 1:
            texts = [
                Text(f"{in_local_zone(v):%H:%M:%S}", no_wrap=True) if isinstance(v, datetime) else Text()
                for v in values
            ]
            return f"{title}\n{when(moments[0])[5:10]}\n{when(moments[0])[19:]}", texts
        return title, [self.cell(value) for value in values]

    def cell(self, value: object) -> Text:
        """A value as it stands in a table."""
        match value:
            case Text():
                return value
            case None:
                return Text("")
            case datetime():
                return Text(when(value, brief=self.stdout.width < WIDEST), no_wrap=True)
            case int() if not isinstance(value, bool):
                return Text(f"{value:,}")
        return Text(plain(value))

    def fields(self, pairs: Iterable[tuple[str, object]]) -> Table:
        """Names and values below each other; what is empty is left out."""
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, value in pairs:
            shown = Text(when(value)) if isinstance(value, datetime) else self.cell(value)
            if shown.plain:
                grid.add_row(Text(name), shown)
        return grid

    def _write(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def number(value: int) -> Text:
    """A number people type again: without separators."""
    return Text(str(value), no_wrap=True)


def styled(word: str) -> Text:
    """A state, in its colour; the word says it too."""
    return Text(plain(word), style=_STYLES.get(word, ""), no_wrap=True)


def as_data(value: Any, *, levels: int = DEEPEST) -> Any:
    """The value as JSON has it: times in ISO 8601, durations in seconds, bytes as text or base64."""
    if isinstance(value, Mapping | list | tuple | set | frozenset) and not levels:
        return f"… (deeper than {DEEPEST} levels)"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_data(getattr(value, field.name), levels=levels) for field in dataclasses.fields(value)}
    match value:
        case Mapping():
            return {str(key): as_data(item, levels=levels - 1) for key, item in value.items()}
        case Enum():
            return as_data(value.value, levels=levels)
        case None | bool() | int() | float() | str():
            return value
        case datetime() | date():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes():
            return _bytes(value)
        case list() | tuple() | set() | frozenset():
            return [as_data(item, levels=levels - 1) for item in value]
    return str(value)


def _bytes(value: bytes) -> Any:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _dumped(value: Any, indent: int | None = None) -> str:
    text = json.dumps(as_data(value), ensure_ascii=False, indent=indent)
    if text.isprintable():
        return text
    # C1 controls and changes of direction, which a terminal obeys, and half surrogates, which UTF-8 cannot write.
    return "".join(letter if letter.isprintable() or letter == "\n" else json.dumps(letter)[1:-1] for letter in text)


def _console(file: Any) -> Console:
    width = None if file.isatty() or os.environ.get("COLUMNS", "").isdecimal() else PIPED
    return _Console(file=file, width=width, highlight=False, markup=False, emoji=False)
