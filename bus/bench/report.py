"""What was found, as JSON and as a table; and the few numbers by which a machine is sized."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from bus.bench.frame import Finding
from bus.errors import ConfigurationError

MEMORY = ("tmpfs", "ramfs")
"""File systems that are on no disk."""
IN_MEMORY = "The services' folder is in memory, and nothing in it was synced to a disk: name one on a disk by TMPDIR."
LATENCY_RATE = 100
"""Orders/s of the latency that stands in the summary."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything one run found, and on what."""

    at: datetime
    machine: Mapping[str, object]
    versions: Mapping[str, str]
    findings: Sequence[Finding]
    message_bytes: int

    def as_value(self) -> dict[str, Any]:
        """As it stands in JSON; the summary comes first."""
        return {
            **summary(self.findings),
            "at": self.at.isoformat(timespec="seconds"),
            "machine": dict(self.machine),
            "versions": dict(self.versions),
            "message_bytes": self.message_bytes,
            "findings": [_as_value(finding) for finding in self.findings],
        }

    def table(self) -> Table:
        """For people; what could not be measured says why."""
        table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
        for title, justify in (("Measured", "left"), ("Median", "right"), ("Min", "right"), ("Max", "right")):
            table.add_column(title, justify=justify, no_wrap=title != "Measured", overflow="fold")  # type: ignore[arg-type]  # literals
        table.add_column("", overflow="fold")
        for finding in self.findings:
            spread = finding.spread
            if spread is None:
                table.add_row(Text(finding.name), "", "", "", Text(finding.error, style="red"))
            else:
                numbers = (spread.median, spread.minimum, spread.maximum)
                table.add_row(Text(finding.name), *(f"{each:,.5g}" for each in numbers), Text(_about(finding)))
        for name, ratio in summary(self.findings)["ratios"].items():
            if ratio is not None:
                table.add_row(Text(f"pipeline / {name}"), f"{ratio:.3g}", "", "", "")
        return table

    def caption(self) -> str:
        """How each contender does the job, a line for each way; then the machine in one sentence."""
        each = self.machine
        cores = f"{each['cores']} cores ({each['processor']}), {each['memory_gib']} GiB"
        disk = f"{each['filesystem'] or 'a disk'} that syncs in {each['fsync_ms']} ms"
        named = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        on = f"{cores}, {disk}, load before {each['load_before']}; {named}; orders of {self.message_bytes} bytes"
        return "\n".join([*self._ways(), on, *([IN_MEMORY] if each["filesystem"] in MEMORY else [])])

    def _ways(self) -> list[str]:
        ways: dict[str, list[str]] = {}
        for finding in self.findings:
            if about := finding.notes.get("about"):
                ways.setdefault(str(about), []).append(finding.name)
        return [f"{', '.join(names)}: {about}" for about, names in ways.items()]

    def write(self, path: Path) -> None:
        """
        Raises:
            ConfigurationError: the file cannot be written.
        """
        try:
            path.write_text(json.dumps(self.as_value(), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error


def summary(findings: Sequence[Finding]) -> dict[str, Any]:
    """Messages/s of bus, peers and limit, what they are to each other, and the latency; None: not measured."""
    medians = {finding.name: finding.spread.median for finding in findings if finding.spread is not None}
    bus = medians.get("pipeline.postgresql")
    peers = {name: medians.get(name) for name in ("celery", "faststream", "handwritten")}
    library_peers = [rate for name in ("celery", "faststream") if (rate := peers[name]) is not None]
    return {
        "pipeline": {"postgresql": bus, "sqlite": medians.get("pipeline.sqlite")},
        "peers": peers,
        "limit": medians.get("limit"),
        "ratios": {
            "best_peer": ratio(bus, max(library_peers, default=None)),
            "handwritten": ratio(bus, peers["handwritten"]),
            "limit": ratio(bus, medians.get("limit")),
        },
        "latency_ms": {name: medians.get(f"latency.{LATENCY_RATE}.{name}") for name in ("p50", "p99")},
    }


def ratio(one: float | None, other: float | None) -> float | None:
    return round(one / other, 3) if one is not None and other else None


def _as_value(finding: Finding) -> dict[str, Any]:
    spread = finding.spread
    value: dict[str, Any] = {"name": finding.name, "unit": finding.unit}
    if spread is None:
        return value | {"error": finding.error}
    numbers = {"median": spread.median, "min": spread.minimum, "max": spread.maximum}
    return value | numbers | {"values": list(finding.values), **finding.notes}


def _about(finding: Finding) -> str:
    counts = finding.notes.get("messages")
    if isinstance(counts, list):
        return f"{finding.unit}; {', '.join(f'{count:,}' for count in counts)} messages"
    return finding.unit
