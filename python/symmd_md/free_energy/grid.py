"""Free-energy surfaces on regular grids, periodic or not, of any number of variables. Energies in kJ/mol."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from symmd_md.errors import ConfigurationError, DataError
from symmd_md.free_energy.tables import FloatArray, bound_text, parse_number, read_table, write_table

GAS_CONSTANT = 0.00831446261815324
"""kJ/mol/K: k_B T of one molecule is this times T, per mole."""

ENERGY_UNITS = {"kJ/mol": 1.0, "kcal/mol": 4.184, "eV": 96.48533212331}
"""kJ/mol in one of each."""

ENERGY_FIELD, ERROR_FIELD = "free_energy_kJ_per_mol", "error_kJ_per_mol"
MOST_POINTS = 20_000_000
"""Points of a grid; more would not fit into memory with everything that is computed on it."""


def thermal_energy(temperature: float) -> float:
    """k_B T (kJ/mol) at ``temperature`` (K)."""
    if not temperature > 0.0:
        raise ConfigurationError(f"the temperature must be above 0 K, found {temperature:g}")
    return GAS_CONSTANT * temperature


def energy_unit(name: str) -> float:
    """kJ/mol in one of the unit ``name``."""
    if name not in ENERGY_UNITS:
        raise ConfigurationError(f"the energy unit must be {', '.join(ENERGY_UNITS)}; found {name!r}")
    return ENERGY_UNITS[name]


@dataclass(frozen=True)
class Axis:
    """Grid points of one variable: ``count`` in equal steps from ``minimum``.

    Of a periodic variable the last point lies one step before ``maximum``, which is the image of ``minimum``;
    else the last point is ``maximum``. Both as in PLUMED's grids.
    """

    name: str
    minimum: float
    maximum: float
    count: int
    periodic: bool

    def __post_init__(self) -> None:
        if not self.maximum > self.minimum:
            raise ConfigurationError(
                f"variable {self.name}: expected a maximum above the minimum, found "
                f"{self.minimum:g} to {self.maximum:g}"
            )
        if self.count < 2:
            raise ConfigurationError(f"variable {self.name}: expected at least 2 points, found {self.count}")

    @property
    def range(self) -> float:
        """From minimum to maximum; of a periodic variable its period."""
        return self.maximum - self.minimum

    @property
    def spacing(self) -> float:
        return self.range / (self.count if self.periodic else self.count - 1)

    @property
    def points(self) -> FloatArray:
        """[count] values of the variable."""
        return np.asarray(self.minimum + self.spacing * np.arange(self.count), dtype=np.float64)

    @property
    def unit(self) -> str:
        """ "rad" or "deg" of a dihedral, which its period tells; "" where nothing is known."""
        if self.periodic and math.isclose(self.range, 2.0 * math.pi, rel_tol=1e-6):
            return "rad"
        return "deg" if self.periodic and math.isclose(self.range, 360.0, rel_tol=1e-6) else ""

    def difference(self, values: FloatArray) -> FloatArray:
        """Differences of two values by the shortest way around."""
        return values - self.range * np.round(values / self.range) if self.periodic else values

    def position(self, values: FloatArray) -> FloatArray:
        """Steps from the first point to values; of a periodic variable from 0 to below ``count``."""
        steps = (values - self.minimum) / self.spacing
        return np.mod(steps, self.count) if self.periodic else steps

    def nearest(self, values: FloatArray) -> NDArray[np.int64]:
        """Index of the nearest point; −1 outside of the range of a variable that is not periodic."""
        index = np.floor(self.position(values) + 0.5).astype(np.int64)
        if self.periodic:
            return index % self.count
        return np.where((index < 0) | (index >= self.count), -1, index)


@dataclass(frozen=True)
class Surface:
    """A free energy on a grid."""

    axes: tuple[Axis, ...]
    energy: FloatArray
    """[points of each axis] kJ/mol; NaN where nothing is known."""
    error: FloatArray | None = None
    """The same shape: standard error (kJ/mol); NaN where it is not known."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(axis.name for axis in self.axes)

    def at_zero(self) -> Surface:
        """The same with its lowest point at 0."""
        if not np.isfinite(self.energy).any():
            raise DataError("the surface has no known point; was anything sampled within the grid?")
        return replace(self, energy=self.energy - np.nanmin(self.energy))

    def coordinates(self, index: Sequence[int]) -> tuple[float, ...]:
        """The variables at a grid point."""
        return tuple(float(axis.points[i]) for axis, i in zip(self.axes, index, strict=True))

    def nearest(self, point: Sequence[float]) -> tuple[int, ...]:
        """The grid point nearest to values of the variables."""
        return tuple(
            int(axis.nearest(np.array([value]))[0]) for axis, value in zip(self.axes, point, strict=True)
        )

    def marginal(self, names: Sequence[str], temperature: float) -> Surface:
        """−kT ln Σ exp(−F/kT) over the points of all variables but ``names``; errors do not carry over."""
        keep = variable_positions(self.names, names)
        if keep == tuple(range(len(self.axes))):
            return self
        summed = tuple(i for i in range(len(self.axes)) if i not in keep)
        kt = thermal_energy(temperature)
        # A point that is not known is as good as never visited.
        known = np.where(np.isnan(self.energy), np.inf, self.energy)
        lowest = known.min(axis=summed, keepdims=True)
        with np.errstate(invalid="ignore"):
            weights = np.exp(-(known - lowest) / kt)
        energy = np.squeeze(lowest, summed) - kt * np.log(weights.sum(axis=summed))
        left = sorted(keep)
        order = [left.index(i) for i in keep]
        return Surface(tuple(self.axes[i] for i in keep), energy.transpose(order))

    def interpolated(self, axes: Sequence[Axis]) -> Surface:
        """Multilinear interpolation on another grid of the same variables; NaN outside of this one."""
        points = np.stack(np.meshgrid(*(axis.points for axis in axes), indexing="ij"), axis=-1)
        flat = points.reshape(-1, len(axes))
        error = None if self.error is None else self.value_at(flat, self.error).reshape(points.shape[:-1])
        return Surface(tuple(axes), self.value_at(flat, self.energy).reshape(points.shape[:-1]), error)

    def value_at(self, points: FloatArray, values: FloatArray | None = None) -> FloatArray:
        """[n] multilinear interpolation of the energy, or of other ``values`` on the grid, at [n, axes]."""
        values = self.energy if values is None else values
        result = np.zeros(len(points))
        corners, outside = linear_corners(self.axes, points)
        for index, weight in corners:
            # A corner without weight may be unknown.
            result += np.where(weight > 0.0, weight * np.where(weight > 0.0, values[index], 0.0), 0.0)
        return np.where(outside, np.nan, result)


def linear_corners(
    axes: Sequence[Axis], points: FloatArray
) -> tuple[list[tuple[tuple[NDArray[np.int64], ...], FloatArray]], NDArray[np.bool_]]:
    """Grid points around each of [n, axes] points, corner by corner: indices [n] by axis, and weights [n].

    Also [n] whether a point lies outside of the grid.
    """
    base, fraction = [], []
    outside = np.zeros(len(points), dtype=np.bool_)
    for axis, column in zip(axes, points.T, strict=True):
        position = axis.position(column)
        if axis.periodic:
            lower = np.floor(position)
        else:
            # Rounding may put a point on the border next to it.
            outside |= (position < -1e-9) | (position > axis.count - 1 + 1e-9)
            position = np.clip(position, 0.0, axis.count - 1)
            lower = np.minimum(np.floor(position), axis.count - 2)
        base.append(lower.astype(np.int64))
        fraction.append(position - lower)
    corners = []
    for steps in itertools.product((0, 1), repeat=len(axes)):
        index = tuple((at + step) % axis.count for at, step, axis in zip(base, steps, axes, strict=True))
        weight = np.ones(len(points))
        for part, step in zip(fraction, steps, strict=True):
            weight = weight * (part if step else 1.0 - part)
        corners.append((index, weight))
    return corners, outside


def variable_positions(known: Sequence[str], wanted: Sequence[str]) -> tuple[int, ...]:
    """Where each wanted name stands among the known ones."""
    for name in wanted:
        if name not in known:
            raise ConfigurationError(f"expected variables out of {', '.join(known)}; found {name!r}")
    if len(set(wanted)) != len(wanted) or not wanted:
        raise ConfigurationError(f"expected different variables, found {', '.join(wanted) or 'none'}")
    return tuple(list(known).index(name) for name in wanted)


def check_size(axes: Sequence[Axis]) -> None:
    """Refuse a grid that no memory holds."""
    points = math.prod(axis.count for axis in axes)
    if points > MOST_POINTS:
        shape = " × ".join(str(axis.count) for axis in axes)
        raise ConfigurationError(
            f"a grid of {shape} = {points:,} points is too large; give fewer --bins "
            f"(at most {MOST_POINTS:,} points)"
        )


def write_surface(surface: Surface, path: Path) -> None:
    """Write the surface in the form of PLUMED's grids, with the error as a last column where it is known.

    The first variable runs fastest and an empty line ends each of its runs, as in PLUMED's own files.
    """
    mesh = np.meshgrid(*(axis.points for axis in surface.axes), indexing="ij")
    columns = {axis.name: part.ravel(order="F") for axis, part in zip(surface.axes, mesh, strict=True)}
    columns[ENERGY_FIELD] = surface.energy.ravel(order="F")
    if surface.error is not None:
        columns[ERROR_FIELD] = surface.error.ravel(order="F")
    constants: dict[str, str] = {}
    for axis in surface.axes:
        constants[f"min_{axis.name}"] = bound_text(axis.minimum)
        constants[f"max_{axis.name}"] = bound_text(axis.maximum)
        constants[f"nbins_{axis.name}"] = str(axis.count)
        constants[f"periodic_{axis.name}"] = "true" if axis.periodic else "false"
    runs = np.zeros(surface.energy.size, dtype=np.bool_)
    if len(surface.axes) > 1:
        runs[surface.axes[0].count :: surface.axes[0].count] = True
    unknown = {name: np.where(np.isnan(values), np.inf, values) for name, values in columns.items()}
    write_table(path, unknown, constants, ["%14.9f"] * len(columns), runs)


def read_surface(path: Path, unit: float = 1.0) -> Surface:
    """Read a surface in PLUMED's form (sum_hills' or this program's own); ``unit``: kJ/mol in one of its own.

    ``inf`` stands for what is not known, as in PLUMED's histograms.
    """
    table = read_table(path, infinite=True, growing=False)
    axes = []
    for name in table.fields:
        if f"nbins_{name}" not in table.constants:
            break
        bounds = table.period(name)
        if bounds is None or f"periodic_{name}" not in table.constants:
            raise DataError(
                f"{path}: expected '#! SET min_{name}', max_{name} and periodic_{name}, found not all"
            )
        count = round(parse_number(table.constants[f"nbins_{name}"], f"{path}: nbins_{name}"))
        axes.append(Axis(name, *bounds, count, table.constants[f"periodic_{name}"] == "true"))
    if not axes or len(axes) == len(table.fields):
        raise DataError(
            f"{path}: expected a surface on a grid ('#! SET nbins_…' for each variable and a column with the "
            "free energy), found none; make one with symmd fes hills or plumed sum_hills"
        )
    shape = tuple(axis.count for axis in axes)
    energy = table.numbers[table.fields[len(axes)]]
    if len(energy) != math.prod(shape):
        raise DataError(
            f"{path}: expected {' × '.join(map(str, shape))} = {math.prod(shape)} rows, found {len(energy)}; "
            "was the file cut?"
        )
    for axis, mesh in zip(axes, np.meshgrid(*(axis.points for axis in axes), indexing="ij"), strict=True):
        apart = np.abs(axis.difference(table.numbers[axis.name] - mesh.ravel(order="F")))
        if (wrong := np.flatnonzero(apart > 1e-3 * axis.spacing + 1e-8)).size:
            row = int(wrong[0])
            raise DataError(
                f"{path}, line {table.lines[row]}: expected {axis.name} = {mesh.ravel(order='F')[row]:.6g} "
                f"from the header, found {table.numbers[axis.name][row]:.6g}"
            )
    known = np.where(np.isinf(energy), np.nan, energy).reshape(shape, order="F") * unit
    if ERROR_FIELD not in table.numbers:
        return Surface(tuple(axes), known)
    error = table.numbers[ERROR_FIELD]
    return Surface(
        tuple(axes), known, np.where(np.isinf(error), np.nan, error).reshape(shape, order="F") * unit
    )
