"""What hostile input is made of, and what must not be in anything a person looks at."""

from __future__ import annotations

ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b31m\x7f\u202egnp.exe\u2066\u2028\r"
"""Sets a terminal's title, clears it, colours it, turns its text around, ends a line and writes over it."""


def obeyed(text: str) -> list[str]:
    """The letters that a terminal would obey; none in what is safe to look at."""
    return sorted({letter for letter in text if not letter.isprintable() and letter not in "\n\t"})
