"""What ``symmd verify`` found, as a table and as JSON (docs/verify.md)."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from symmd_md.files import write_atomically
from symmd_md.verify.checks import Check

CERTIFICATE_VERSION = 1
"""Of the JSON; a key that changes its meaning or goes away raises it."""
SHORT = {"float64": "fp64", "float32": "fp32", "": ""}


@dataclass(frozen=True)
class Omission:
    """Something that was not checked."""

    group: str
    name: str
    reason: str


@dataclass(frozen=True)
class Certificate:
    """Everything that was found about a model file."""

    model: dict[str, Any]
    structure: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    written: str
    """Date and time, UTC."""
    seconds: float
    checks: list[Check]
    not_checked: list[Omission]

    @property
    def held(self) -> bool:
        """Whether there was something to check and all of it held."""
        return bool(self.checks) and all(check.held for check in self.checks)

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if not check.held]

    def table(self) -> Table:
        """Of each thing that was looked at the quantity nearest to its bound, and all that failed."""
        table = Table(
            title=f"{self.model['file']} on {self.structure['description']} "
            f"({self.structure['formula']}, {self.structure['atoms']} atoms)",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            show_edge=False,
        )
        table.add_column("check", no_wrap=True)
        table.add_column("", no_wrap=True)
        table.add_column("of", no_wrap=True)
        table.add_column("measured", justify="right", no_wrap=True)
        table.add_column("bound", justify="right", no_wrap=True)
        table.add_column("unit", no_wrap=True)
        table.add_column("", no_wrap=True)
        for group in dict.fromkeys(check.group for check in self.checks):
            table.add_row(Text(group, style="bold"))
            for check in _shown([check for check in self.checks if check.group == group]):
                table.add_row(
                    Text(f" {check.name}"),
                    *(SHORT[check.precision], check.quantity, _number(check.measured)),
                    *(_number(check.bound), check.unit),
                    Text("held", style="green") if check.held else Text("FAILED", style="bold red"),
                )
            table.add_section()
        return table

    def lines(self) -> list[str]:
        """What stands below the table."""
        lines = [f"{check.name}: {check.note}" for check in self.checks if check.note]
        lines += [f"not checked: {left.name} ({left.group}): {left.reason}" for left in self.not_checked]
        units = self.model["units"]
        lines.append(
            f"model SHA-256 {self.model['sha256']}; {', '.join(self.model['species'])}; "
            f"cutoff {self.model['cutoff']:g} Å; {units['energy']}, {units['length']}"
        )
        failed = len(self.failed)
        count = f"{len(self.checks)} numbers in {self.seconds:.0f} s"
        lines.append(f"all held: {count}" if self.held else f"{failed} FAILED of {count}")
        return lines

    def as_json(self) -> dict[str, Any]:
        """The same for machines: plain, finite, in the form of version ``CERTIFICATE_VERSION``."""
        return {
            "certificate": "symmd verify",
            "certificate_version": CERTIFICATE_VERSION,
            "held": self.held,
            "written": self.written,
            "seconds": round(self.seconds, 3),
            "model": self.model,
            "structure": self.structure,
            "machine": self.machine,
            "versions": self.versions,
            "checks": [
                {
                    "group": check.group,
                    "name": check.name,
                    "precision": check.precision or None,
                    "quantity": check.quantity,
                    "measured": _finite(check.measured),
                    "bound": _finite(check.bound),
                    "unit": check.unit,
                    "held": check.held,
                    "note": check.note,
                }
                for check in self.checks
            ],
            "not_checked": [
                {"group": left.group, "name": left.name, "reason": left.reason} for left in self.not_checked
            ],
        }

    def write(self, path: Path) -> None:
        """The JSON, into a file that is the old or the new one whole."""
        content = json.dumps(self.as_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(path, content.encode("utf-8"))


def _shown(checks: list[Check]) -> list[Check]:
    """Of each name and precision the failed ones, or else the one nearest to its bound."""
    cases: dict[tuple[str, str], list[Check]] = {}
    for check in checks:
        cases.setdefault((check.name, check.precision), []).append(check)
    shown = []
    for found in cases.values():
        shown += [check for check in found if not check.held] or [max(found, key=lambda check: check.share)]
    return shown


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _number(value: float | None) -> str:
    if value is None:
        return "none"
    return "0" if value == 0.0 else f"{value:.1e}"
