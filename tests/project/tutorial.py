"""The README's tutorial as something to run: its files, its commands and what they printed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
HEADING = "## Your own route in ten minutes"
PARTS = ("bus.toml", "pyproject.toml", "routes", "transformers", "adapters", "tests/__init__.py", "tests/project")
"""What the tutorial starts from: a copy of the project as it is."""

_FILE = re.compile(
    r"\*\*`(?P<path>[^`]+)`\*\*(?P<where>(?:(?!\n\n).)*)\n\n```\w+\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
_COMMANDS = re.compile(r"^```console\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
_SECONDS = re.compile(r"\b\d+\.\d+s\b")
_COUNTS = re.compile(r"\b\d+ (?=contracts|routes|systems|endpoints|deselected)")


@dataclass(frozen=True)
class File:
    """A file to write, or lines to put at the end of one."""

    path: str
    text: str
    at_its_end: bool

    def put_into(self, folder: Path) -> None:
        path = folder / self.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.at_its_end:
            assert path.is_file(), f"the README adds to {self.path}, which is not there"
            path.write_text(f"{path.read_text(encoding='utf-8')}\n{self.text}", encoding="utf-8")
        else:
            path.write_text(self.text, encoding="utf-8")


def section(readme: str) -> str:
    """The tutorial: from its heading to the next one of its level."""
    _, heading, rest = readme.partition(HEADING)
    assert heading, f"README.md has no section {HEADING!r}"
    return heading + rest.partition("\n## ")[0]


def files(tutorial: str) -> Iterator[File]:
    """Every file, under a line that begins with its name in bold."""
    for found in _FILE.finditer(tutorial):
        yield File(found["path"], found["text"], "at its end" in found["where"])


def project_copy(folder: Path) -> None:
    """The project as it is, to try something on."""
    for part in PARTS:
        source, target = ROOT / part, folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)


def run_again(tutorial: str, folder: Path) -> str:
    """The tutorial with what its commands print now, each run in the folder."""
    return _COMMANDS.sub(lambda found: f"```console\n{_transcript(found['text'], folder)}```", tutorial)


def without_counts(text: str) -> str:
    """The text without how long it took, and how much else there is in the project."""
    return _COUNTS.sub("… ", _SECONDS.sub("…s", text))


def _transcript(text: str, folder: Path) -> str:
    commands = [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]
    return "".join(f"$ {command}\n{_printed(command, folder)}" for command in commands)


def _printed(command: str, folder: Path) -> str:
    tools = str(Path(sys.executable).parent)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("BUS_", "PLANT", "PYTEST"))}
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=folder,
        env={**inherited, "PATH": f"{tools}:{os.environ['PATH']}", "COLUMNS": "100", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    code = [f"(exit code {done.returncode})"] if done.returncode else []
    return "".join(f"{line}\n" for line in [*lines, *code])
