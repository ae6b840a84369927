"""What the commands of ``symmd fes`` do: read, compute, print and write. Energies in kJ/mol."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from symmd_md.errors import ConfigurationError, DataError
from symmd_md.free_energy.comparison import compare
from symmd_md.free_energy.foreign import (
    is_colvars_grid,
    read_colvars_grid,
    read_colvars_hills,
    read_openmm_bias,
    read_openmm_free_energy,
)
from symmd_md.free_energy.grid import (
    Axis,
    Surface,
    energy_unit,
    read_surface,
    thermal_energy,
    variable_positions,
)
from symmd_md.free_energy.hills import Hills, bias_at, bias_of_the_moment, free_energy_of_hills, read_hills
from symmd_md.free_energy.plots import draw_comparison
from symmd_md.free_energy.report import (
    Report,
    comparison_mapping,
    comparison_table,
    make_report,
    write_json,
    write_report,
)
from symmd_md.free_energy.reweighting import LEAST_BLOCKS, Blocks, gather
from symmd_md.free_energy.tables import FloatArray, Table, parse_number, read_table

Bounds = tuple[float, float]
DEFAULT_BINS = 60
"""Steps of a grid for reweighting, unless told."""


@dataclass(frozen=True)
class GridChoice:
    """What the options say about the grid; each a list with commas."""

    bins: str | None = None
    low: str | None = None
    high: str | None = None

    def bins_of(self, count: int) -> list[int] | None:
        """One number for each of ``count`` variables, or nothing."""
        values = _numbers(self.bins, "--bins", count)
        if values is not None and not all(value >= 1 and value == round(value) for value in values):
            raise ConfigurationError(f"--bins must be whole numbers of at least 1; found {self.bins}")
        return None if values is None else [round(value) for value in values]

    def low_of(self, count: int) -> list[float] | None:
        """One bound for each of ``count`` variables, or nothing."""
        return _numbers(self.low, "--min", count)

    def high_of(self, count: int) -> list[float] | None:
        """One bound for each of ``count`` variables, or nothing."""
        return _numbers(self.high, "--max", count)


def run_hills(
    files: Sequence[Path],
    output: Path,
    variables: str | None,
    temperature: float,
    grid: GridChoice,
    blocks: int,
    skip: float,
    depth: float | None,
    ends: str | None,
    unit: str,
    period: Sequence[str] | None,
    bias_factor: float | None,
) -> Report:
    """``symmd fes hills``."""
    names = _names(variables)
    hills = _read_hills(files, names, energy_unit(unit), _bounds(period, "--period"), bias_factor)
    count = len(hills.names)
    axes = hills.automatic_axes(grid.bins_of(count), grid.low_of(count), grid.high_of(count))
    surface = free_energy_of_hills(hills, axes, names, temperature)
    counted = len(hills) - int(skip * len(hills))
    if 0 < counted < blocks:
        print(f"no errors: {counted} hills are fewer than {blocks} blocks")
        blocks = 0
    parts = hills_blocks(hills, surface, temperature, blocks, skip) if blocks else None
    source = {
        "hills": [str(path) for path in files],
        "hills_summed": len(hills),
        "bias_factor": None if math.isinf(hills.bias_factor) else hills.bias_factor,
        "blocks": blocks,
        "skipped_fraction": skip if blocks else None,
    }
    return _finish(surface, temperature, depth, parts, ends, source, output)


def hills_blocks(hills: Hills, surface: Surface, temperature: float, blocks: int, skip: float) -> Blocks:
    """Blocks for the errors of a summed surface: centres of hills are samples, weighted by the bias they met.

    The bias at the end would be smoother, but is made of all blocks, whose errors it hides. Cells are as
    wide as a hill, since the surface shows nothing narrower.
    """
    first = int(skip * len(hills))
    log_weights = bias_of_the_moment(hills, temperature)[first:] / thermal_energy(temperature)
    keep = list(variable_positions(hills.names, surface.names))
    parts = gather(hills.centres[first:][:, keep], log_weights, surface.axes, temperature, blocks)
    return parts.smoothed([float(np.median(hills.extents[:, i])) for i in keep])


def run_colvar(
    files: Sequence[Path],
    output: Path,
    variables: str,
    bias: str | None,
    weights: str | None,
    hills: Sequence[Path] | None,
    temperature: float,
    grid: GridChoice,
    blocks: int,
    skip: float,
    depth: float | None,
    ends: str | None,
    unit: str,
    period: Sequence[str] | None,
) -> Report:
    """``symmd fes colvar``."""
    names = _names(variables) or []
    if sum(option is not None for option in (bias, weights, hills or None)) > 1:
        raise ConfigurationError("--bias, --weights and --hills exclude each other; give one of them")
    tables = [read_table(path) for path in files]
    kt, scale = thermal_energy(temperature), energy_unit(unit)
    summed = read_hills(hills, scale) if hills else None
    points, log_weights = [], []
    for table in tables:
        points.append(np.stack([table.column(name) for name in names], axis=1))
        log_weights.append(_log_weights(table, bias, weights, summed, scale, kt))
    joined, logs = _by_time(tables, points, log_weights)
    first = int(skip * len(joined))
    joined, logs = joined[first:], logs[first:]
    axes = _colvar_axes(names, joined, tables, _bounds(period, "--period"), grid)
    parts = gather(joined, logs, axes, temperature, blocks or LEAST_BLOCKS)
    source = {
        "colvar": [str(path) for path in files],
        "rows": parts.samples,
        "rows_outside_of_grid": parts.outside,
        "effective_samples": round(parts.effective_samples, 1),
        "bias": bias,
        "weights": weights,
        "hills": [str(path) for path in hills] if hills else None,
        "blocks": blocks,
        "skipped_fraction": skip,
    }
    print(
        f"{parts.samples} rows count as {parts.effective_samples:.0f} equal ones"
        + (f"; {parts.outside} lie outside of the grid" if parts.outside else "")
    )
    energy = Surface(axes, parts.free_energy())
    return _finish(energy, temperature, depth, parts if blocks else None, ends, source, output)


def run_show(
    path: Path,
    output: Path,
    variables: str | None,
    temperature: float,
    depth: float | None,
    ends: str | None,
    unit: str,
    period: Sequence[str] | None,
    bias_factor: float | None,
    ranges: Sequence[str] | None,
) -> Report:
    """``symmd fes show``."""
    source = _surface_source(unit, period, ranges, bias_factor)
    surface = read_any_surface(path, _names(variables), source)
    names = _names(variables)
    if names is not None:
        surface = surface.marginal(names, temperature)
    return _finish(surface, temperature, depth, None, ends, {"surface": str(path)}, output)


def run_compare(
    first: Path,
    second: Path,
    below: float,
    picture: Path | None,
    json_file: Path | None,
    unit: str,
    period: Sequence[str] | None,
    bias_factor: float | None,
    ranges: Sequence[str] | None,
) -> None:
    """``symmd fes compare``."""
    source = _surface_source(unit, period, ranges, bias_factor)
    one, other = (read_any_surface(path, None, source) for path in (first, second))
    comparison = compare(one, other, below)
    labels = _labels(first, second)
    Console().print(comparison_table(comparison, labels))
    if picture is not None:
        draw_comparison(comparison, labels, picture)
        print(f"written: {picture}")
    if json_file is not None:
        write_json({"first": str(first), "second": str(second), **comparison_mapping(comparison)}, json_file)
        print(f"written: {json_file}")


@dataclass(frozen=True)
class SurfaceSource:
    """What the options say about files that do not say it themselves."""

    unit: float
    """kJ/mol in one of the files' unit of energy."""
    periods: Mapping[str, Bounds]
    ranges: Mapping[str, Bounds]
    """Of variables that are not periodic."""
    bias_factor: float | None


def _surface_source(
    unit: str, period: Sequence[str] | None, ranges: Sequence[str] | None, bias_factor: float | None
) -> SurfaceSource:
    return SurfaceSource(
        energy_unit(unit), _bounds(period, "--period"), _bounds(ranges, "--range"), bias_factor
    )


def read_any_surface(path: Path, names: Sequence[str] | None, source: SurfaceSource) -> Surface:
    """A surface of PLUMED's form, of COLVARS, or of OpenMM, which its content tells."""
    if path.is_dir() or path.suffix == ".npy":
        axes = _openmm_axes(source)
        if path.suffix == ".npy" and not path.stem.startswith("bias_"):
            return read_openmm_free_energy(path, axes)
        if source.bias_factor is None:
            raise ConfigurationError(f"{path} holds a bias; give the run's --bias-factor")
        return read_openmm_bias(path, axes, _checked_factor(source.bias_factor))
    if not path.is_file():
        raise DataError(f"{path}: expected a file with a surface, found none; check the path")
    if is_colvars_grid(path):
        return read_colvars_grid(path, names, source.unit)
    return read_surface(path, source.unit)


def _finish(
    surface: Surface,
    temperature: float,
    depth: float | None,
    blocks: Blocks | None,
    ends: str | None,
    source: dict[str, Any],
    output: Path,
) -> Report:
    pair = None
    if ends is not None:
        names = _names(ends) or []
        if len(names) != 2:
            raise ConfigurationError(f"--path must be two minima such as A,B; found {ends!r}")
        pair = (names[0], names[1])
    depth = thermal_energy(temperature) if depth is None else depth
    report = make_report(surface, temperature, depth, blocks, pair, source)
    console = Console()
    console.print(report.minima_table())
    if report.landscape.barriers:
        console.print(report.barriers_table())
    print("written: " + ", ".join(str(path) for path in write_report(report, output)))
    return report


def _read_hills(
    files: Sequence[Path],
    names: Sequence[str] | None,
    unit: float,
    periods: Mapping[str, Bounds],
    bias_factor: float | None,
) -> Hills:
    """Hills of PLUMED, or of COLVARS by the ending of their name."""
    colvars = [path for path in files if path.name.endswith(".hills.traj")]
    if colvars:
        if len(files) > 1 or names is None:
            raise ConfigurationError(
                f"{colvars[0]} is of COLVARS and names no variables; give it alone and name all with --cv"
            )
        factor = math.inf if bias_factor is None else _checked_factor(bias_factor)
        return read_colvars_hills(files[0], names, periods, factor, unit)
    hills = read_hills(files, unit)
    known = tuple(found or periods.get(name) for name, found in zip(hills.names, hills.periods, strict=True))
    if bias_factor is not None and bias_factor != hills.bias_factor:
        raise ConfigurationError(
            f"{files[0]} has the bias factor {hills.bias_factor:g}, --bias-factor says {bias_factor:g}; "
            "leave the option away"
        )
    return replace(hills, periods=known)


def _log_weights(
    table: Table, bias: str | None, weights: str | None, hills: Hills | None, unit: float, kt: float
) -> FloatArray:
    """[rows] logarithms of the weights of a COLVAR file's rows."""
    if bias is not None:
        values = table.column(bias)
        if _grows(bias, values):
            print(
                f"{table.path}: {bias} seems to be of metadynamics and grows with time, so that late rows "
                "count too much; --bias NAME.rbias (CALC_RCT in PLUMED) or --hills HILLS are right"
            )
        return values * unit / kt
    if weights is not None:
        values = table.column(weights)
        if (bad := np.flatnonzero(values < 0)).size:
            raise DataError(
                f"{table.path}, line {table.lines[int(bad[0])]}: expected a weight of at least 0, found "
                f"{values[bad[0]]:g}"
            )
        if not values.any():
            raise DataError(f"{table.path}: expected a weight above 0 in {weights}, found none")
        with np.errstate(divide="ignore"):
            return np.log(values)
    if hills is not None:
        return bias_at(hills, np.stack([table.column(name) for name in hills.names], axis=1)) / kt
    return np.zeros(len(table.lines))


def _grows(name: str, values: FloatArray) -> bool:
    """Whether a column is the bias of metadynamics, which grows: nothing at first, then everywhere."""
    late = values[len(values) // 2 :]
    return name.endswith(".bias") and len(values) > 1 and values[0] == 0.0 and bool((late > 0.0).all())


def _by_time(
    tables: Sequence[Table], points: Sequence[FloatArray], log_weights: Sequence[FloatArray]
) -> tuple[FloatArray, FloatArray]:
    """Rows of all files; those of several walkers in the order of time, so that a block has them all."""
    joined, logs = np.concatenate(points), np.concatenate(log_weights)
    if not len(joined):
        raise DataError(f"{tables[0].path}: expected rows below the header, found none; has the run begun?")
    if len(tables) == 1 or not all("time" in table.numbers for table in tables):
        return joined, logs
    order = np.argsort(np.concatenate([table.numbers["time"] for table in tables]), kind="stable")
    return joined[order], logs[order]


def _colvar_axes(
    names: Sequence[str],
    points: FloatArray,
    tables: Sequence[Table],
    periods: Mapping[str, Bounds],
    grid: GridChoice,
) -> tuple[Axis, ...]:
    """The grid for reweighting: the period, or what was visited, unless told; moves periodic rows onto it."""
    count = len(names)
    bins = grid.bins_of(count) or [DEFAULT_BINS] * count
    low, high = grid.low_of(count), grid.high_of(count)
    axes = []
    for i, name in enumerate(names):
        period = tables[0].period(name) or periods.get(name)
        if period is not None and low is None and high is None:
            axes.append(Axis(name, *period, bins[i], True))
            continue
        if period is not None:
            length = period[1] - period[0]
            start = low[i] if low is not None else high[i] - length if high is not None else period[0]
            end = high[i] if high is not None else start + length
            whole = math.isclose(end - start, length, rel_tol=1e-6)
            axes.append(Axis(name, start, end, bins[i] + (not whole), whole))
            # Rows are where their image is next to the grid.
            centre = 0.5 * (start + end)
            points[:, i] = centre + np.remainder(points[:, i] - centre + 0.5 * length, length) - 0.5 * length
            continue
        axes.append(
            _open_axis(name, points[:, i], bins[i], low[i] if low else None, high[i] if high else None)
        )
    return tuple(axes)


def _open_axis(name: str, values: FloatArray, bins: int, low: float | None, high: float | None) -> Axis:
    """Steps between bounds; an end that is not told lies where the cell around it ends with the rows.

    A point on the last row would have half a cell of rows, and seem kT ln 2 too high.
    """
    start = float(values.min()) if low is None else low
    end = float(values.max()) if high is None else high
    inside = 0.5 * (low is None), 0.5 * (high is None)
    count = max(2, bins + 1 - (low is None and high is None))
    # Less by more than rounding, so that the row at the very end is in its cell.
    spacing = (end - start) / (count - 1 + sum(inside)) * (1.0 - 1e-9)
    return Axis(name, start + inside[0] * spacing, end - inside[1] * spacing, count, False)


def _openmm_axes(source: SurfaceSource) -> tuple[Axis, ...]:
    """Axes in the order of the options; their points are those of the array."""
    if bool(source.periods) == bool(source.ranges):
        raise ConfigurationError(
            "files of OpenMM do not tell their variables, which are periodic all or none; name each in order "
            "with --period, e.g. --period phi=-pi:pi, or with --range"
        )
    periodic = bool(source.periods)
    bounds = source.periods if periodic else source.ranges
    return tuple(Axis(name, *ends, 2, periodic) for name, ends in bounds.items())


def _checked_factor(value: float) -> float:
    if not value > 1.0:
        raise ConfigurationError(f"--bias-factor must be above 1, found {value:g}")
    return value


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _numbers(text: str | None, option: str, count: int) -> list[float] | None:
    if text is None:
        return None
    values = [parse_number(word, option) for word in text.split(",")]
    if len(values) != count:
        raise ConfigurationError(
            f"{option} must have a number for each of {count} variables; found {len(values)}"
        )
    return values


def _bounds(options: Sequence[str] | None, option_name: str) -> dict[str, Bounds]:
    found = {}
    for option in options or []:
        name, _, bounds = option.partition("=")
        low, colon, high = bounds.partition(":")
        if not colon or not name:
            raise ConfigurationError(f"{option_name} must be NAME=LOW:HIGH, as phi=-pi:pi; found {option!r}")
        ends = (parse_number(low, option_name), parse_number(high, option_name))
        if not ends[1] > ends[0]:
            raise ConfigurationError(f"{option_name} {option}: expected LOW below HIGH")
        found[name.strip()] = ends
    return found


def _labels(first: Path, second: Path) -> tuple[str, str]:
    """Names of two files that differ."""
    if first.name != second.name:
        return first.stem, second.stem
    return str(first.parent) or first.stem, str(second.parent) or second.stem
