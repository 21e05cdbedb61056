"""Bodies laid out for reading: only white space changes, so every digit and name is the one that was sent."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bus.cli.texts import plain

SHOWN = 6_000
"""Letters of a body that are shown; -o json has all of it."""

LONG = 100
"""Letters in a line from which on a body is laid out anew; a shorter one was laid out by its sender."""

LAID_OUT = 4
"""Times the letters shown that are laid out: white space may go, and nobody reads the rest."""

DEEPEST = 40
"""Levels that are indented."""

# Whatever begins also ends, at the latest with the text: what has no end is not looked for again and again.
_JSON = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[{}\[\],:]|[^\s{}\[\],:"]++', re.DOTALL)
_XML = re.compile(r"<!--.*?(?:-->|\Z)|<!\[CDATA\[.*?(?:\]\]>|\Z)|<[^>]*+(?:>|\Z)|[^<]++", re.DOTALL)


def readable(body: bytes, content_type: str, *, limit: int = SHOWN) -> str:
    """The body as text with one thing a line; what is no text is told by its size and first bytes."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        return f"{len(body):,} bytes that are no UTF-8 text, beginning with {body[:32].hex(' ')}"
    letters = len(text)
    text = text[: LAID_OUT * limit]
    if any(len(line) > LONG for line in text.splitlines()):
        if "json" in content_type:
            text = "\n".join(_json_lines(text))
        elif "xml" in content_type:
            text = "\n".join(_xml_lines(text))
    if len(text) > limit or letters > LAID_OUT * limit:
        text = f"{text[:limit]}\n… {max(letters, len(text)) - limit:,} more letters; all of it with -o json"
    return plain(text)


def readable_exchange(raw: bytes, *, limit: int = SHOWN) -> str:
    """What went over the wire: HTTP's head as it was, its body laid out by the content type the head names."""
    head, blank, body = raw.partition(b"\r\n\r\n")
    first, _, fields = head.decode("latin-1").partition("\r\n")
    if not blank or "HTTP/1." not in first:
        return readable(raw, "", limit=limit)
    content_type = ""
    for line in fields.splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-type":
            content_type = value.strip().lower()
    shown = plain(head.decode("utf-8", "replace"))
    return f"{shown}\n\n{readable(body, content_type, limit=limit)}" if body else shown


def _indent(depth: int) -> str:
    return "  " * min(depth, DEEPEST)


def _json_lines(text: str) -> Iterator[str]:
    pieces = _JSON.findall(text)
    depth = 0
    line = ""
    for index, piece in enumerate(pieces):
        following = pieces[index + 1] if index + 1 < len(pieces) else ""
        if piece in "{[":
            if following and following in "}]":
                line += piece
                continue
            depth += 1
            yield line + piece
            line = _indent(depth)
        elif piece in "}]":
            if line.endswith(("{", "[")):
                line += piece
                continue
            depth = max(depth - 1, 0)
            if line.strip():
                yield line
            line = _indent(depth) + piece
        elif piece == ",":
            yield line + piece
            line = _indent(depth)
        else:
            line += ": " if piece == ":" else piece
    if line.strip():
        yield line


def _xml_lines(text: str) -> Iterator[str]:
    pieces = [piece for piece in _XML.findall(text) if piece.strip()]
    depth = index = 0
    while index < len(pieces):
        piece = pieces[index]
        closes = piece.startswith("</")
        opens = piece.startswith("<") and not closes and not piece.startswith(("<?", "<!")) and not piece.endswith("/>")
        depth = max(depth - closes, 0)
        line = _indent(depth) + piece.strip()
        if (
            opens
            and index + 2 < len(pieces)
            and not pieces[index + 1].startswith("<")
            and pieces[index + 2][:2] == "</"
        ):
            line += pieces[index + 1] + pieces[index + 2]
            index += 2
        else:
            depth += opens
        yield line
        index += 1
