"""Resolve secret references: `env:NAME` from the environment, `file:path` from a file that not everybody can read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from bus.errors import ConfigurationError, SecretUnavailable
from bus.model.secret import Secret
from bus.model.system import Endpoint

LARGEST = 64 * 1024
"""Bytes of a file that holds a secret."""


def resolve_secret(reference: str, *, root: Path) -> Secret:
    """Read the secret now; called again after a refusal, so that a rotated one is found.

    `file:` paths are relative to `root`, the project's folder, unless absolute. One trailing newline is cut off.

    Raises:
        SecretUnavailable: the reference cannot be read.
        ConfigurationError: it is no reference.
    """
    kind, _, name = reference.partition(":")
    if kind == "env" and name:
        return Secret(reference, _from_environment(name))
    if kind == "file" and name:
        return Secret(reference, _from_file(root / name, reference))
    # The text found may be the secret itself, written where its reference belongs.
    raise ConfigurationError("found a secret that is no reference: write env:NAME or file:path instead of its value")


def is_reference(value: str) -> bool:
    return value.startswith(("env:", "file:"))


def revealed(value: str, *, root: Path) -> str:
    """A setting that may be a secret reference: what the reference says, or the value itself."""
    return resolve_secret(value, root=root).reveal() if is_reference(value) else value


def missing_secrets(endpoint: Endpoint, *, root: Path) -> tuple[str, ...]:
    """References of the endpoint, its address among them, that cannot be read now; each with its place in bus.toml."""
    found = []
    for name, value in {"address": endpoint.address, **endpoint.options}.items():
        try:
            revealed(value if isinstance(value, str) else "", root=root)
        except ConfigurationError as error:
            found.append(f"bus.toml [endpoints.{endpoint.name}] {name}: {error}")
    return tuple(found)


def _from_environment(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        found = "is empty" if name in os.environ else "is not set"
        raise SecretUnavailable(f"secret env:{name}: the variable {found}; export {name} before starting the bus")
    if any("\udc80" <= letter <= "\udcff" for letter in value):  # how Python keeps bytes that are no text
        raise SecretUnavailable(f"secret env:{name}: the variable is not UTF-8 text")
    return value


def _from_file(path: Path, reference: str) -> str:
    try:
        # Checked on the open file: a path could be exchanged between the check and the read. A pipe is not waited for.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise SecretUnavailable(f"secret {reference}: {path} is no ordinary file")
            if mode & stat.S_IRWXO:
                raise SecretUnavailable(
                    f"secret {reference}: {path} gives rights to everybody (mode {stat.S_IMODE(mode):04o}); "
                    f"type: chmod 600 {path}"
                )
            raw = file.read(LARGEST + 1)
    except OSError as error:
        raise SecretUnavailable(f"secret {reference}: {path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the path
        raise SecretUnavailable(f"secret {reference}: no file can have this name: {error}") from error
    if len(raw) > LARGEST:
        raise SecretUnavailable(f"secret {reference}: {path} is larger than {LARGEST:,} bytes")
    try:
        value = raw.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        # Without a cause: its text would quote the bytes of the secret.
        raise SecretUnavailable(f"secret {reference}: {path} is not UTF-8 text") from None
    if not value:
        raise SecretUnavailable(f"secret {reference}: {path} is empty; write the secret into it")
    return value
