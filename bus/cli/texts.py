"""Words for people: times with their offset, durations, counts; and text from outside made safe to print."""

from __future__ import annotations

from datetime import datetime, timedelta


def plain(value: object) -> str:
    """The text without anything a terminal would obey: control characters and the like show as a replacement.

    A carriage return that ends a line (as in HTTP) is left out; one inside a line could overwrite it, and shows.
    """
    text = str(value).replace("\r\n", "\n")
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def one_line(value: object) -> str:
    """The text on one line."""
    return " ".join(plain(value).split())


def in_local_zone(moment: datetime) -> datetime:
    """The time in the local zone; the first and the last day there are stay in UTC, a zone may have them no more."""
    try:
        return moment.astimezone()
    except (OverflowError, ValueError):
        return moment


def when(moment: datetime | None, *, brief: bool = False) -> str:
    """A time in the local zone with its offset; brief: without the year, for narrow tables."""
    if moment is None:
        return ""
    local = in_local_zone(moment)
    offset = local.strftime("%z")
    if brief:
        offset = offset[:3] if offset.endswith("00") else f"{offset[:3]}:{offset[3:5]}"
        return f"{local:%m-%d %H:%M:%S}{offset}"
    return f"{local:%Y-%m-%d %H:%M:%S}{offset[:3]}:{offset[3:5]}"


def clock(moment: datetime) -> str:
    """The time of day with milliseconds, for lines whose date and offset stand above them."""
    local = in_local_zone(moment)
    return f"{local:%H:%M:%S}.{local.microsecond // 1000:03d}"


def duration(span: timedelta | None) -> str:
    """A duration in the two units that matter."""
    if span is None:
        return ""
    seconds = span.total_seconds()
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    if seconds < 0.9995:
        return f"{sign}{seconds * 1000:.0f} ms"
    if seconds < 59.995:
        return f"{sign}{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{sign}{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{sign}{hours} h {minutes} min"
    return f"{sign}{hours // 24} days {hours % 24} h"


def size(count: int) -> str:
    """Bytes in the unit that leaves two or three digits to read."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:,.3g} TB" if amount < 1000 else f"{amount:,.0f} TB"


_OUTCOMES = {
    "succeed": "delivered",
    "fail": "failed, to be tried again",
    "kill": "failed for good",
    "doubt": "outcome unknown",
    "release": "given back: nothing was sent",
}


def outcome(word: str) -> str:
    """How an attempt ended, in words; what a probe found stands as it is."""
    return _OUTCOMES.get(word, plain(word))


def counted(count: int, noun: str, *, exact: bool = True) -> str:
    """`1 message`, `1,200 messages`, `more than 10,000 messages`."""
    words = noun if count == 1 and exact else f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{'' if exact else 'more than '}{count:,} {words}"
