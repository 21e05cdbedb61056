"""Folders and files that only their owner can read: the store holds every message, the folder every password."""

from __future__ import annotations

import os
from pathlib import Path


def make_private_folder(folder: Path) -> None:
    """The folder and every level above it that is missing, with mode 0700; what is there stays as it is."""
    # Path.mkdir gives its mode to the last level alone.
    missing = [level for level in (folder, *folder.parents) if not level.exists()]
    for level in reversed(missing):
        level.mkdir(mode=0o700, exist_ok=True)


def make_private_file(path: Path) -> None:
    """An empty file with mode 0600, where none is yet."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
