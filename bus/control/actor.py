"""Who orders it: the person at the machine, with the reason that the journal keeps."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping

from bus.errors import NotAllowed
from bus.ports import Actor

LONGEST = 2000
"""Letters of a reason."""


def person(reason: str, *, environ: Mapping[str, str] = os.environ) -> Actor:
    """`person:<login>` with the reason; BUS_ACTOR names the person where a shared login hides them.

    Raises:
        NotAllowed: no reason, or a name that cannot stand in a journal.
    """
    why = reason.strip()
    if not why:
        raise NotAllowed("say why: --reason is kept in the journal, and an empty one helps nobody")
    if len(why) > LONGEST or "\x00" in why:
        raise NotAllowed(f"a reason has at most {LONGEST} letters and no NUL")
    name = environ.get("BUS_ACTOR", "").strip() or _login()
    if not name.isprintable() or len(name) > 100:
        raise NotAllowed("BUS_ACTOR must be at most 100 printable letters")
    return Actor(name=f"person:{name}", reason=why)


def _login() -> str:
    """The login of the process's user; not what LOGNAME says, which anybody may set."""
    user = os.getuid()
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"uid-{user}"
