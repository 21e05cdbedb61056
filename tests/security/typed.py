"""Types many commands in one process of its own: `python -m tests.security.typed`, commands and answers as JSON.

A process of its own, because a project's modules are named like this repository's.
"""

from __future__ import annotations

import json
import sys

from click.testing import CliRunner

from bus.cli.root import bus


def main() -> None:
    for words in json.load(sys.stdin):
        said = CliRunner().invoke(bus, words)
        print(json.dumps({"words": words, "code": said.exit_code, "output": said.output}))  # noqa: T201  # its answer


if __name__ == "__main__":
    main()
