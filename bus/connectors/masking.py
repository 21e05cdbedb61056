"""Our own login taken out of what a target says, however the target spells it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

MASK = "***"
SHORTEST_MASKED = 6
"""Letters of the shortest secret that is looked for: a shorter one would hit too much else in an answer."""

_JSON = {"\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
_XML = {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "apos"}
_ESCAPED = (0, 1, 2)
"""How often a text was put into JSON: not at all, once, or as JSON within JSON."""


class Masking:
    """Replaces secrets by MASK. Letter by letter it knows the spellings of JSON, of URLs, of XML and of Python.

    A target that wants to give a secret away can still do so, reversed, say; one that only quotes us cannot.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        long_enough = {secret for secret in secrets if len(secret) >= SHORTEST_MASKED}
        # The longest first: one may be the beginning of another.
        patterns = [_pattern(secret) for secret in sorted(long_enough, key=len, reverse=True)]
        self._pattern = re.compile(b"|".join(patterns), re.DOTALL) if patterns else None

    def octets(self, said: bytes) -> bytes:
        return self._pattern.sub(MASK.encode(), said) if self._pattern else said

    def text(self, said: str) -> str:
        if not self._pattern:
            return said
        return self.octets(said.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")


@lru_cache(maxsize=256)
def masking(secrets: tuple[str, ...]) -> Masking:
    """The Masking of these secrets; made once, an endpoint's login changes rarely."""
    return Masking(secrets)


def _pattern(secret: str) -> bytes:
    wide = (secret.encode(name, "surrogatepass") for name in ("utf-16-le", "utf-16-be"))
    spelled = (b"".join(_letter(letter, escaped) for letter in secret) for escaped in _ESCAPED)
    first = {ord(b"%"), ord(b"&"), ord(b"\\"), ord(b"+"), 0, *secret[0].encode("utf-8", "surrogatepass")}
    first |= {ord(secret[0]) % 256, ord(secret[0]) >> 8 & 255}
    first |= {octet for misread in _misread(secret[0]) for octet in misread.encode()}
    # Looked at first, which makes the search several times as fast.
    begins = b"(?=[" + b"".join(b"\\x%02x" % octet for octet in sorted(first)) + b"])"
    if ord(secret[0]) > 0xFFFF:
        begins = b""
    return begins + b"(?:" + b"|".join([*spelled, *map(re.escape, wide)]) + b")"


def _letter(letter: str, escaped: int) -> bytes:
    spellings = [*_spellings(letter, escaped)]
    if misread := _misread(letter):
        spellings.append(b"".join(_either(_spellings(each, escaped)) for each in misread))
    return _either(spellings)


def _either(patterns: Iterable[bytes]) -> bytes:
    return b"(?:" + b"|".join(dict.fromkeys(patterns)) + b")"


def _misread(letter: str) -> str:
    """What a server makes of a letter beyond ASCII that takes our UTF-8 for Latin-1, as many do with headers."""
    return "" if letter.isascii() else letter.encode("utf-8", "surrogatepass").decode("latin-1")


def _spellings(letter: str, escaped: int) -> Iterator[bytes]:
    """Patterns of a letter. Their number of backslashes is fixed: runs of them would be tried in every division."""
    octets = letter.encode("utf-8", "surrogatepass")
    if letter == "\\":
        yield re.escape(octets * 2**escaped)
    else:
        yield re.escape(octets)
    yield b"(?i:" + b"".join(b"%%%02x" % octet for octet in octets) + b")"
    yield b"(?i:&#(?:0{0,6}%d|x0{0,6}%x);)" % (ord(letter), ord(letter))
    if letter in _XML:
        yield b"(?i:&%s;)" % _XML[letter].encode()
    if ord(letter) in range(0x80, 0x100):
        yield re.escape(letter.encode("latin-1"))
    if letter == " ":
        yield rb"\+"
    if escaped:
        slashes = rb"\\" * (2 * escaped - 1)
        units = letter.encode("utf-16-be", "surrogatepass")
        pairs = zip(units[::2], units[1::2], strict=True)
        lead = rb"\\" * escaped
        yield b"(?i:" + b"".join(lead + b"u%02x%02x" % pair for pair in pairs) + b")"
        yield b"(?i:" + b"".join(lead + b"x%02x" % octet for octet in octets) + b")"
        if letter in _JSON:
            yield lead + _JSON[letter].encode()
        if letter in "\"'/":
            yield slashes + re.escape(octets)
            yield lead + re.escape(octets)
