"""What ``symmd fes`` writes: the surface as a table, minima and barriers as tables and JSON, a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from symmd_md.files import write_atomically
from symmd_md.free_energy.comparison import Comparison
from symmd_md.free_energy.grid import Axis, Surface, write_surface
from symmd_md.free_energy.landscape import Barrier, Landscape, Minimum, find_landscape, lowest_path
from symmd_md.free_energy.landscape import Path as LandscapePath
from symmd_md.free_energy.plots import GREEK, draw_landscape
from symmd_md.free_energy.reweighting import Blocks
from symmd_md.free_energy.tables import FloatArray, write_table

SURFACE, NUMBERS, PICTURE, PATH = "surface.dat", "surface.json", "surface.png", "path.dat"


@dataclass(frozen=True)
class Report:
    """A surface with its minima and barriers, and the errors of all of them where there are blocks."""

    landscape: Landscape
    temperature: float
    blocks: Blocks | None = None
    """On the grid of the surface."""
    path: LandscapePath | None = None
    """From one minimum to another, on surfaces of two variables and more."""
    source: dict[str, Any] = field(default_factory=dict)
    """Files and settings, for the JSON."""

    @property
    def surface(self) -> Surface:
        return self.landscape.surface

    def error_of(self, place: Minimum | Barrier, relative_to: Minimum | None = None) -> float:
        """Standard error (kJ/mol) of F at a place less F at a minimum, by default the lowest; NaN unknown."""
        origin = relative_to or self.landscape.minima[0]
        if place.index == origin.index:
            return 0.0
        return 0.0 if self.blocks is None else self.blocks.difference_error(origin.index, place.index)

    def basin_error_of(self, minimum: Minimum) -> float:
        """The same for the free energy of its whole basin less that of the lowest minimum's basin."""
        place = self.landscape.minima.index(minimum)
        if self.blocks is None or place == 0:
            return 0.0
        basins = self.landscape.basins
        return self.blocks.region_error(basins == 0, basins == place)

    def minima_table(self) -> Table:
        """Minima from the lowest up."""
        table = Table(title=f"minima at {self.temperature:g} K, kJ/mol")
        table.add_column("minimum")
        for axis in self.surface.axes:
            table.add_column(_heading(axis), justify="right")
        table.add_column("F", justify="right")
        table.add_column("F of the basin", justify="right")
        for minimum in self.landscape.minima:
            table.add_row(
                minimum.name,
                *_values(self.surface.axes, minimum.point),
                with_error(minimum.energy, self.error_of(minimum)),
                with_error(
                    self.landscape.basin_energy(minimum, self.temperature), self.basin_error_of(minimum)
                ),
            )
        return table

    def barriers_table(self) -> Table:
        """Barriers between basins that touch, from the lowest up, seen from both sides."""
        table = Table(title=f"barriers at {self.temperature:g} K, kJ/mol")
        table.add_column("between")
        for axis in self.surface.axes:
            table.add_column(_heading(axis), justify="right")
        for name in ("F", "from 1st", "from 2nd"):
            table.add_column(name, justify="right")
        for barrier in self.landscape.barriers:
            table.add_row(
                f"{barrier.first.name}–{barrier.second.name}",
                *_values(self.surface.axes, barrier.point),
                with_error(barrier.energy, self.error_of(barrier)),
                *(
                    with_error(barrier.energy - side.energy, self.error_of(barrier, side))
                    for side in (barrier.first, barrier.second)
                ),
            )
        return table

    def as_mapping(self) -> dict[str, Any]:
        """Everything of the tables, with units in the names."""
        names = [_key(axis) for axis in self.surface.axes]
        return {
            **self.source,
            "temperature_K": self.temperature,
            "variables": [
                {
                    "name": axis.name,
                    "unit": axis.unit or None,
                    "minimum": axis.minimum,
                    "maximum": axis.maximum,
                    "points": axis.count,
                    "periodic": axis.periodic,
                }
                for axis in self.surface.axes
            ],
            "minima": [
                {
                    "name": minimum.name,
                    **dict(zip(names, minimum.point, strict=True)),
                    "free_energy_kJ_per_mol": round(minimum.energy, 4),
                    "error_kJ_per_mol": self._rounded(self.error_of(minimum)),
                    "basin_free_energy_kJ_per_mol": round(
                        self.landscape.basin_energy(minimum, self.temperature), 4
                    ),
                    "basin_error_kJ_per_mol": self._rounded(self.basin_error_of(minimum)),
                }
                for minimum in self.landscape.minima
            ],
            "barriers": [
                {
                    "between": [barrier.first.name, barrier.second.name],
                    **dict(zip(names, barrier.point, strict=True)),
                    "free_energy_kJ_per_mol": round(barrier.energy, 4),
                    "error_kJ_per_mol": self._rounded(self.error_of(barrier)),
                    "from_first_kJ_per_mol": round(barrier.energy - barrier.first.energy, 4),
                    "from_first_error_kJ_per_mol": self._rounded(self.error_of(barrier, barrier.first)),
                    "from_second_kJ_per_mol": round(barrier.energy - barrier.second.energy, 4),
                    "from_second_error_kJ_per_mol": self._rounded(self.error_of(barrier, barrier.second)),
                }
                for barrier in self.landscape.barriers
            ],
        }

    def _rounded(self, error: float) -> float | None:
        """For JSON; null where nothing is known of the error."""
        return round(error, 4) if self.blocks is not None and math.isfinite(error) else None


def make_report(
    surface: Surface,
    temperature: float,
    depth: float,
    blocks: Blocks | None = None,
    ends: tuple[str, str] | None = None,
    source: dict[str, Any] | None = None,
) -> Report:
    """Find minima at least ``depth`` (kJ/mol) deep, barriers, and the path between ``ends``, two minima.

    Without ``ends`` the path joins the two lowest minima. ``blocks`` are on the grid of the surface.
    """
    if blocks is not None:
        surface = replace(surface, error=blocks.error())
    landscape = find_landscape(surface, depth)
    pair = None
    if ends is not None:
        pair = (landscape.minimum(ends[0]), landscape.minimum(ends[1]))
    elif len(landscape.minima) > 1:
        pair = (landscape.minima[0], landscape.minima[1])
    path = None
    if pair is not None and len(surface.axes) > 1 and pair[0] != pair[1]:
        path = lowest_path(surface, pair[0].index, pair[1].index, temperature)
    return Report(landscape, temperature, blocks, path, source or {})


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write surface.dat, surface.json, of one or two variables surface.png, and path.dat of a path."""
    written = [folder / SURFACE, folder / NUMBERS]
    write_surface(report.surface, written[0])
    write_json(report.as_mapping(), written[1])
    if len(report.surface.axes) <= 2:
        written.append(folder / PICTURE)
        draw_landscape(report.landscape, report.path, written[-1])
    if report.path is not None:
        written.append(folder / PATH)
        _write_path(report, report.path, written[-1])
    return written


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write a mapping as readable JSON."""
    write_atomically(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode("utf-8"))


def comparison_table(comparison: Comparison, labels: Sequence[str]) -> Table:
    """How far two surfaces are apart."""
    largest, place = comparison.largest
    where = ", ".join(
        f"{GREEK.get(axis.name, axis.name)} = {_shown(axis, value)}"
        for axis, value in zip(comparison.first.axes, place, strict=True)
    )
    table = Table(title=f"{labels[1]} less {labels[0]}, below {comparison.threshold:g} kJ/mol of {labels[0]}")
    table.add_column("quantity")
    table.add_column("value", justify="right")
    table.add_row("points", f"{comparison.points}")
    if comparison.missing:
        table.add_row(f"points unknown to {labels[1]}", f"{comparison.missing}")
    table.add_row("RMS difference", f"{comparison.rms:.3f} kJ/mol")
    table.add_row(f"largest, at {where}", f"{largest:+.3f} kJ/mol")
    if comparison.outside_errors is not None:
        table.add_row("RMS of difference / its standard error", f"{comparison.outside_errors:.2f}")
    return table


def comparison_mapping(comparison: Comparison) -> dict[str, Any]:
    """The same for JSON."""
    largest, place = comparison.largest
    names = [_key(axis) for axis in comparison.first.axes]
    return {
        "threshold_kJ_per_mol": comparison.threshold,
        "points": comparison.points,
        "points_unknown_to_second": comparison.missing,
        "rms_difference_kJ_per_mol": round(comparison.rms, 4),
        "largest_difference_kJ_per_mol": round(largest, 4),
        "largest_difference_at": dict(zip(names, place, strict=True)),
        "rms_of_difference_over_error": (
            None if comparison.outside_errors is None else round(comparison.outside_errors, 4)
        ),
    }


def _write_path(report: Report, path: LandscapePath, target: Path) -> None:
    columns: dict[str, FloatArray] = {"length": path.lengths}
    for i, axis in enumerate(report.surface.axes):
        columns[axis.name] = path.points[:, i]
    columns["free_energy_kJ_per_mol"] = path.energies
    if report.surface.error is not None:
        error = np.array([report.surface.error[index] for index in path.indices])
        columns["error_kJ_per_mol"] = np.where(np.isnan(error), np.inf, error)
    write_table(target, columns, {}, ["%12.6f"] * len(columns))


def _key(axis: Axis) -> str:
    return f"{axis.name}_{axis.unit}" if axis.unit else axis.name


def _heading(axis: Axis) -> str:
    name = GREEK.get(axis.name, axis.name)
    return f"{name} (deg)" if axis.unit else name


def _values(axes: Sequence[Axis], point: Sequence[float]) -> list[str]:
    return [_shown(axis, value) for axis, value in zip(axes, point, strict=True)]


def _shown(axis: Axis, value: float) -> str:
    if axis.unit:
        return f"{math.degrees(value) if axis.unit == 'rad' else value:.0f}"
    return f"{value:.4g}"


def with_error(value: float, error: float) -> str:
    """``1.23 ± 0.45``; without an error where it is exact, ``?`` where nothing is known of it."""
    if error == 0.0:
        return f"{value:.2f}"
    return f"{value:.2f} ± {error:.2f}" if math.isfinite(error) else f"{value:.2f} ± ?"
