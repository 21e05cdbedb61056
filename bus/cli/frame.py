"""The frame of all commands: options they share, ids as people type them, and the one handler of errors."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import rich_click as click
from rich_click import RichCommand, RichGroup

from bus.cli.desk import Desk, desk
from bus.cli.output import FORMATS
from bus.cli.texts import plain
from bus.errors import BusError, MessageInvalid, MessageRefused, NotAllowed, PublishError, StoreUnavailable

OK, FOUND_BAD, NOT_AVAILABLE = 0, 1, 2
INTERRUPTED, PIPE_CLOSED = 130, 141
"""As a shell reports a command that SIGINT or SIGPIPE ended."""


class DeliveryNumber(click.ParamType[int]):
    """A delivery's number, as listings show it."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        if not (text.isascii() and text.isdecimal() and len(text) < 19 and int(text)):
            self.fail(
                f"{plain(text)!r} is not the number of a delivery; `bus dead list` and `bus doubt list` show them"
            )
        return int(text)


DELIVERY = DeliveryNumber()

LIMIT = 50
"""Rows of a listing where -n does not say."""


class BusCommand(RichCommand):
    """A command with the options every command has."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            click.Option(
                ["-o", "--output"],
                type=click.Choice(FORMATS),
                expose_value=False,
                callback=_set_format,
                help="How to print results: a table, JSON, or one JSON value a line.",
            ),
            click.Option(
                ["--project"],
                type=click.Path(path_type=Path),
                expose_value=False,
                callback=_set_project,
                help="Folder with bus.toml; else BUS_PROJECT, else the nearest above.",
            ),
        ]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        for parameter in self.params:
            value = ctx.params.get(parameter.name or "")
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and not _is_text(text):
                    raise click.BadParameter(f"{plain(text)!r} is no UTF-8 text", ctx=ctx, param=parameter)
        return rest


def _is_text(value: str) -> bool:
    """False for half a surrogate: an argument that was not UTF-8, which neither a store nor a broker takes."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


class BusGroup(RichGroup):
    """A noun; its verbs are commands."""

    command_class = BusCommand


def _set_format(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.ensure_object(Desk).out.format = value


def _set_project(context: click.Context, _: click.Parameter, value: Path | None) -> None:
    if value is not None:
        context.ensure_object(Desk).folder = value


# --- the one handler -------------------------------------------------------------------------------------------------


class Root(BusGroup):
    """The command `bus` itself: whatever happens below ends in a sentence and an exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        # Errors before the options are read (in a module, in the help) are to be seen with --debug too.
        work = Desk(debug="--debug" in (sys.argv[1:2] if args is None else args[:1]))
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a letter is no failure
        code = _exit_code(lambda: self._run(work, args, prog_name or "bus", complete_var, extra), work)
        if standalone_mode:
            sys.exit(code)
        return code

    def _run(
        self, work: Desk, args: Sequence[str] | None, prog_name: str, complete_var: str | None, extra: dict[str, Any]
    ) -> int | None:
        code: int | None = super().main(args, prog_name, complete_var, standalone_mode=False, **{"obj": work, **extra})
        return code

    def invoke(self, ctx: click.Context) -> Any:
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read the output has enough; nothing may be flushed into the closed pipe at exit.
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # stays open until the process ends
            return PIPE_CLOSED
        return code


def _exit_code(run: Callable[[], int | None], work: Desk) -> int:
    try:
        return run() or OK
    except click.ClickException as error:
        vars(error)["message"] = plain(error.message)  # click quotes the names of files as they are
        if work.out.log is None:
            error.show(sys.stderr)
        else:
            work.out.say(f"Error: {error.format_message()}")
        return NOT_AVAILABLE
    except click.Abort:
        work.out.say("Interrupted.")
        return INTERRUPTED
    except (MessageInvalid, MessageRefused, PublishError, NotAllowed) as error:
        return _told(error, work, FOUND_BAD)
    except BusError as error:
        return _told(error, work, NOT_AVAILABLE)
    except Exception as error:  # noqa: BLE001  # the last line before the user: a sentence, never a traceback
        return _unexpected(error, work)


def _told(error: BusError, work: Desk, code: int) -> int:
    if work.debug:
        _tell_story(work)
    text = str(error)
    if isinstance(error, MessageInvalid) and len(error.violations) > 1:
        text = "\n  ".join([error.cause, *map(str, error.violations)])
    if isinstance(error, StoreUnavailable) and "run: " not in text:
        text += "; is the database running, and its address right (store in bus.toml, or BUS_STORE)?"
    work.out.say(f"Error: {text}", style="red")
    return code


def _unexpected(error: Exception, work: Desk) -> int:
    if work.debug:
        _tell_story(work)
        return NOT_AVAILABLE
    line = plain(str(error)).strip().partition("\n")[0]
    work.out.say(
        f"Error: something unexpected stopped this command: {type(error).__name__}{': ' if line else ''}{line}\n"
        "Type it again as `bus --debug …` for the whole story, and send that to whoever looks after the bus.",
        style="red",
    )
    return NOT_AVAILABLE


def _tell_story(work: Desk) -> None:
    """The traceback of the error being handled: on stderr, or as a line of the log where stderr is one."""
    story = plain(traceback.format_exc())
    if work.out.log is None:
        sys.stderr.write(story)
    else:
        work.out.log(story)


# --- options several nouns share -------------------------------------------------------------------------------------


class Instant(click.ParamType[datetime]):
    """A time as people type it: ISO 8601, in the local zone where it names none, or an age: 90s, 15m, 2h, 3d."""

    name = "time"
    _units: ClassVar = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        from datetime import UTC, timedelta

        if isinstance(value, datetime):
            return value
        number, unit = value[:-1], value[-1:]
        try:
            if unit in self._units and number.isdecimal():
                return datetime.now(UTC) - timedelta(**{self._units[unit]: int(number)})
            return datetime.fromisoformat(value).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{plain(value)!r}: 2026-03-01T06:30 (with or without an offset), or an age: 90s, 15m, 2h, 3d")


def paged(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds -n and --all; the command gets `limit`, None for all."""
    function = click.option(
        "-n", "--number", "limit", type=click.IntRange(1, 1_000_000), default=LIMIT, show_default=True, help="At most."
    )(function)
    return click.option("--all", "everything", is_flag=True, help="All of them, page by page.")(function)


def reason(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the mandatory --reason."""
    return click.option("--reason", required=True, callback=_not_empty, help="Why; kept in the journal.")(function)


def _not_empty(_: click.Context, __: click.Parameter, value: str) -> str:
    if not value.strip():
        raise click.BadParameter("say why: an empty reason helps nobody who reads the journal")
    return value


def more_note(more: int, *, exact: bool, looked_at: int | None = None) -> None:
    """Say on stderr what the listing left out."""
    if more:
        count = f"{more:,}" if exact else f"more than {more:,}" if more > 1 else "perhaps"
        desk().out.say(f"… and {count} more; -n NUMBER or --all shows them")
    elif looked_at is not None:
        desk().out.say(
            f"… only the newest {looked_at:,} were looked at; narrow it (--since, --subject, …) or use --all"
        )
