"""Logs with loguru: one event per change of state, ids as fields, no bodies; for a console or as JSON lines."""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

from loguru import logger

if TYPE_CHECKING:
    from loguru import Record

_WARNINGS = (
    "dead",
    "kill",
    "doubt",
    "trip",
    "away",
    "invalid",
    "refused",
    "conflict",
    "failed",
    "buried",
    "late",
    "not put",
    "lacks",
    "cannot",
)

_ORDINARY = frozenset({"message accepted", "delivery transformed", "delivery succeed"})
"""What happens to every message that goes well: the store tells it, a log of it would hide all else."""


class LogTelemetry:
    """The port Telemetry over loguru; `process` names the process in every line."""

    def __init__(self, process: str) -> None:
        self._log = logger.bind(process=process)

    def event(self, name: str, **fields: object) -> None:
        if name in _ORDINARY:
            level = "DEBUG"
        else:
            level = "WARNING" if any(word in name for word in _WARNINGS) else "INFO"
        told = {key: value for key, value in fields.items() if value not in ("", None)}
        self._log.bind(**told).log(level, "{}", name)


def configure_logs(*, as_json: bool, level: str = "INFO") -> None:
    """Log to stderr only; a traceback never shows values of variables (they may hold secrets)."""
    logger.remove()
    logger.add(
        sys.stderr,
        level=level,
        format=_json_line if as_json else _console_line,
        colorize=False if as_json else None,
        backtrace=False,
        diagnose=False,
    )
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)


def log_error(text: str) -> None:
    """What ends a process, as a line of its log."""
    logger.error("{}", text)


def forward_python() -> None:
    """From now on, and until the process ends, warnings and errors that nobody caught are lines of the log too.

    Python by itself writes them to stderr as several lines of text, between those of the log.
    """
    logging.captureWarnings(True)
    threading.excepthook = _tell_thread
    sys.unraisablehook = _tell_unraisable


def _tell_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None and not isinstance(ended.exc_value, SystemExit):
        thread = ended.thread.name if ended.thread else ""
        logger.bind(thread=thread).opt(exception=ended.exc_value).error("thread ended by an error")


def _tell_unraisable(error: sys.UnraisableHookArgs) -> None:
    what = f"{error.err_msg or 'Exception ignored in'}: {type(error.object).__name__}"
    logger.opt(exception=error.exc_value).error("{}", what)


class _Forward(logging.Handler):
    """What libraries log through the standard library, as one line each and without tracebacks."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        text = record.getMessage() if error is None else f"{record.getMessage()} ({type(error).__name__}: {error})"
        logger.bind(library=record.name).log("WARNING", "{}", text)


def _console_line(record: Record) -> str:
    fields = " ".join(f"{key}={_plain(value)}" for key, value in record["extra"].items() if not key.startswith("_"))
    record["extra"]["_fields"] = fields
    message = record["message"]
    record["extra"]["_event"] = message if message.isprintable() else _quoted(message)
    record["extra"]["_story"] = _story(record)
    return "{time:HH:mm:ss.SSS} <level>{level: <7}</level> {extra[_event]} <dim>{extra[_fields]}</dim>\n{extra[_story]}"


def _story(record: Record) -> str:
    """The traceback of the error that a line bears; its text may be a sender's, and is obeyed by no terminal."""
    error = record["exception"].value if record["exception"] is not None else None
    if error is None:
        return ""
    return "\n".join(map(_escaped, "".join(traceback.format_exception(error)).split("\n")))


def _json_line(record: Record) -> str:
    line: dict[str, Any] = {
        "time": record["time"].isoformat(),
        "level": record["level"].name,
        "event": record["message"],
        **{key: value for key, value in record["extra"].items() if not key.startswith("_")},
    }
    if record["exception"] is not None:
        line["exception"] = repr(record["exception"].value)
    record["extra"]["_json"] = _escaped(json.dumps(line, default=str, ensure_ascii=False))
    return "{extra[_json]}\n"


def _plain(value: object) -> str:
    text = str(value)
    return _quoted(text) if " " in text or not text.isprintable() else text


def _quoted(text: str) -> str:
    """As JSON has it, without a letter that a terminal obeys: it would let a sender write lines of the log himself."""
    return _escaped(json.dumps(text, ensure_ascii=False))


def _escaped(written: str) -> str:
    r"""JSON with everything that is not printable as \uXXXX: C1 controls and changes of direction too."""
    if written.isprintable():
        return written
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in written)
