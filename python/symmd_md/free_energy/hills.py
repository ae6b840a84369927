"""The hills of metadynamics: reading them, and the free energy that is minus their sum. Energies in kJ/mol.

PLUMED's conventions hold: the heights of a well-tempered run are written times γ/(γ−1), so that the sum of
what stands in the file is −F; and a hill is cut where its exponent reaches 6.25, stretched to end at zero:

    g(x) = h (A exp(−x²/2) + B),  A = 1/(1 − exp(−6.25)),  B = 1 − A,  0 from x²/2 = 6.25 on,

x being the distance from the centre in widths. Files with ``kerneltype gaussian`` have g(x) = h exp(−x²/2),
cut by a box of the same reach.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from symmd_md.errors import ConfigurationError, DataError
from symmd_md.free_energy.grid import (
    Axis,
    Surface,
    check_size,
    linear_corners,
    thermal_energy,
    variable_positions,
)
from symmd_md.free_energy.tables import FloatArray, Table, bound_text, parse_number, read_table, write_table

CUTOFF = 6.25
"""Largest exponent x²/2 of a hill."""
STRETCH = 1.0 / (1.0 - math.exp(-CUTOFF))
REACH = math.sqrt(2.0 * CUTOFF)
"""Widths from the centre to the end of a hill."""

STRETCHED, PLAIN = "stretched-gaussian", "gaussian"
POINTS_PER_REACH = 10
"""Points of an automatic grid from the centre of the narrowest hill to its end, as sum_hills has it."""
CONSTANTS = 500
"""Times at which c(t) is computed; between them it is interpolated."""
FINE_PER_WIDTH = 10
"""Points in a width of the grid that the bias is interpolated on."""


@dataclass(frozen=True)
class Hills:
    """What a run of metadynamics has deposited."""

    names: tuple[str, ...]
    periods: tuple[tuple[float, float] | None, ...]
    """Smallest and largest value of each periodic variable; None for others."""
    times: FloatArray
    """[hills] ps, as in the file."""
    centres: FloatArray
    """[hills, variables]"""
    widths: FloatArray
    """[hills, variables, variables]: lower triangles L of the covariances L Lᵀ; mostly diagonal."""
    heights: FloatArray
    """[hills] kJ/mol; of a well-tempered run times γ/(γ−1)."""
    bias_factor: float
    """γ; infinite where the run was not well-tempered."""
    kernel: str = STRETCHED
    interval: tuple[float, float] | None = None
    """Outside of it the bias of a run on one variable stays what it is at the end."""

    def __len__(self) -> int:
        return len(self.heights)

    @property
    def bias_scale(self) -> float:
        """(γ−1)/γ: by this the bias is smaller than the sum of the heights in the file."""
        return 1.0 if math.isinf(self.bias_factor) else (self.bias_factor - 1.0) / self.bias_factor

    @property
    def extents(self) -> FloatArray:
        """[hills, variables] standard deviation of each hill along each variable."""
        return np.sqrt(np.einsum("hij,hij->hi", self.widths, self.widths))

    def first(self, count: int) -> Hills:
        """The first hills alone."""
        return replace(
            self,
            times=self.times[:count],
            centres=self.centres[:count],
            widths=self.widths[:count],
            heights=self.heights[:count],
        )

    def automatic_axes(
        self,
        bins: Sequence[int] | None = None,
        low: Sequence[float] | None = None,
        high: Sequence[float] | None = None,
    ) -> tuple[Axis, ...]:
        """The grid that sum_hills takes unless told: from end to end of the hills, or the period.

        ``bins``, ``low`` and ``high`` replace what is found, for each variable.
        """
        reach = REACH * self.extents
        axes = []
        for i, (name, period) in enumerate(zip(self.names, self.periods, strict=True)):
            if period is None:
                minimum = low[i] if low is not None else float((self.centres[:, i] - reach[:, i]).min())
                maximum = high[i] if high is not None else float((self.centres[:, i] + reach[:, i]).max())
            else:
                minimum, maximum = period
                given = [
                    (bound[i], end) for bound, end in ((low, minimum), (high, maximum)) if bound is not None
                ]
                if any(abs(value - end) > 1e-6 * (maximum - minimum) for value, end in given):
                    raise ConfigurationError(
                        f"variable {name} is periodic from {minimum:g} to {maximum:g} and its grid covers "
                        "the whole period; leave --min and --max away or give these"
                    )
            steps = bins[i] if bins is not None else 0
            if not steps:
                steps = math.ceil((maximum - minimum) / (reach[:, i].min() / POINTS_PER_REACH) - 1e-9)
            axes.append(Axis(name, minimum, maximum, steps + (period is None), period is not None))
        check_size(axes)
        return tuple(axes)


def read_hills(paths: Sequence[Path], unit: float = 1.0) -> Hills:
    """Read HILLS files of one run or of walkers that shared their bias, in the order of time.

    ``unit``: kJ/mol in one of the files' unit of energy.
    """
    if not paths:
        raise ConfigurationError("expected at least one HILLS file, found none")
    parts = [_hills_of(read_table(path), unit) for path in paths]
    first = parts[0]
    for path, part in zip(paths[1:], parts[1:], strict=True):
        for what in ("names", "periods", "bias_factor", "kernel", "interval"):
            if getattr(part, what) != getattr(first, what):
                raise DataError(
                    f"{path}: expected the {what.replace('_', ' ')} of {paths[0]}, "
                    f"{getattr(first, what)}, found {getattr(part, what)}; sum files of one simulation alone"
                )
    times = np.concatenate([part.times for part in parts])
    # A restarted run may count its time anew, so that the order within one file is the file's own.
    order = np.argsort(times, kind="stable") if len(parts) > 1 else np.arange(len(times))
    return replace(
        first,
        times=times[order],
        centres=np.concatenate([part.centres for part in parts])[order],
        widths=np.concatenate([part.widths for part in parts])[order],
        heights=np.concatenate([part.heights for part in parts])[order],
    )


def _hills_of(table: Table, unit: float) -> Hills:
    names = []
    for name in table.fields:
        if name.startswith("sigma_"):
            break
        if name not in ("time", "kerneltype", "multivariate"):
            names.append(name)
    if "height" not in table.fields or not names or not any(n.startswith("sigma_") for n in table.fields):
        raise DataError(
            f"{table.path}: expected hills (time, variables, sigma_…, height, biasf), found the columns "
            f"{' '.join(table.fields)}; for COLVAR files use symmd fes colvar"
        )
    if not table.lines:
        raise DataError(f"{table.path}: expected hills, found none below the header; has the run begun?")
    kernel = table.word("kerneltype", STRETCHED)
    if kernel not in (STRETCHED, PLAIN):
        raise DataError(f"{table.path}: expected kerneltype {STRETCHED} or {PLAIN}, found {kernel}")
    count, variables = len(table.lines), len(names)
    widths = np.zeros((count, variables, variables))
    multivariate = table.word("multivariate", "false")
    if multivariate not in ("true", "false"):
        raise DataError(f"{table.path}: expected multivariate true or false, found {multivariate}")
    for i, name in enumerate(names):
        if multivariate == "false":
            widths[:, i, i] = table.column(f"sigma_{name}")
        else:
            for j, other in enumerate(names[: i + 1]):
                widths[:, i, j] = table.column(f"sigma_{name}_{other}")
        if (bad := np.flatnonzero(widths[:, i, i] <= 0)).size:
            row = int(bad[0])
            raise DataError(
                f"{table.path}, line {table.lines[row]}: expected a width of {name} above 0, found "
                f"{widths[row, i, i]:g}"
            )
    low, high = table.constants.get("lower_int"), table.constants.get("upper_int")
    interval = None
    if low is not None and high is not None:
        where = f"{table.path}: interval"
        interval = (parse_number(low, where), parse_number(high, where))
    return Hills(
        tuple(names),
        tuple(table.period(name) for name in names),
        table.numbers.get("time", np.arange(count, dtype=np.float64)),
        np.stack([table.column(name) for name in names], axis=1),
        widths,
        table.column("height") * unit,
        _bias_factor(table),
        kernel,
        interval,
    )


def _bias_factor(table: Table) -> float:
    """γ of the file; −1 and 1 in it are a run that was not well-tempered."""
    if "biasf" not in table.numbers:
        return math.inf
    factors = table.numbers["biasf"]
    if (changed := np.flatnonzero(factors != factors[0])).size:
        row = int(changed[0])
        raise DataError(
            f"{table.path}, line {table.lines[row]}: the bias factor was {factors[0]:g} above and is "
            f"{factors[row]:g} here; split the file where another run begins"
        )
    return float(factors[0]) if factors[0] > 1.0 else math.inf


def write_hills(hills: Hills, path: Path) -> None:
    """Write ordinary (diagonal) hills in PLUMED's form."""
    columns: dict[str, FloatArray] = {"time": hills.times}
    for i, name in enumerate(hills.names):
        columns[name] = hills.centres[:, i]
    for i, name in enumerate(hills.names):
        columns[f"sigma_{name}"] = hills.widths[:, i, i]
    columns["height"] = hills.heights
    factor = -1.0 if math.isinf(hills.bias_factor) else hills.bias_factor
    columns["biasf"] = np.full(len(hills), factor)
    write_table(path, columns, hills_constants(hills.names, hills.periods, hills.kernel))


def hills_constants(
    names: Sequence[str], periods: Sequence[tuple[float, float] | None], kernel: str
) -> dict[str, str]:
    """What the header of a HILLS file sets."""
    constants = {"multivariate": "false", "kerneltype": kernel}
    for name, period in zip(names, periods, strict=True):
        if period is not None:
            constants |= {f"min_{name}": bound_text(period[0]), f"max_{name}": bound_text(period[1])}
    return constants


def sum_hills(hills: Hills, axes: Sequence[Axis]) -> Surface:
    """−Σ hills on a grid (kJ/mol): the free energy up to a constant, as PLUMED's sum_hills gives it."""
    if tuple(axis.name for axis in axes) != hills.names:
        raise ConfigurationError(f"expected a grid of {hills.names}, found {[axis.name for axis in axes]}")
    energy = np.zeros(tuple(axis.count for axis in axes))
    for place, values in _patches(hills, axes):
        energy[place] -= values
    return Surface(tuple(axes), energy)


def _patches(
    hills: Hills, axes: Sequence[Axis]
) -> Iterator[tuple[tuple[NDArray[np.int64], ...], FloatArray]]:
    """Of each hill the points that it may reach, as an index into the grid, and what it is there (kJ/mol)."""
    points = [axis.points for axis in axes]
    if hills.interval is not None:
        points = [np.clip(values, *hills.interval) for values in points]
    inverse = np.linalg.inv(hills.widths)
    diagonal = not np.any(hills.widths * (1.0 - np.eye(len(axes))))
    extents = hills.extents
    for centre, whitening, extent, height in zip(hills.centres, inverse, extents, hills.heights, strict=True):
        indices, offsets = [], []
        for axis, values, middle, width in zip(axes, points, centre, extent, strict=True):
            index = _within_reach(axis, middle, width, hills.interval)
            indices.append(index)
            offsets.append(axis.difference(values[index] - middle))
        if diagonal:
            exponent = np.zeros(())
            for i, offset in enumerate(offsets):
                exponent = exponent[..., None] + 0.5 * (offset * whitening[i, i]) ** 2
        else:
            mesh = np.stack(np.meshgrid(*offsets, indexing="ij"), axis=-1)
            exponent = 0.5 * np.square(mesh @ whitening.T).sum(-1)
        yield np.ix_(*indices), height * _shape(exponent, hills.kernel)


def bias_of_the_moment(hills: Hills, temperature: float) -> FloatArray:
    """[hills] the bias (kJ/mol) that each hill met at its centre, less the constant c(t) by which it grows.

    This is what PLUMED calls rbias (Tiwary and Parrinello): with the sum S of the heights in the file,
    c = kT ln(Σ exp(S/kT) / Σ exp((1−s) S/kT)) over the grid, s being (γ−1)/γ.
    """
    axes, thermal, scale = hills.automatic_axes(), thermal_energy(temperature), hills.bias_scale
    total = np.zeros(tuple(axis.count for axis in axes))
    corners, _ = linear_corners(axes, hills.centres)
    met = np.zeros(len(hills))
    every = max(1, len(hills) // CONSTANTS)
    numbers, constants = [], []
    for number, (place, values) in enumerate(_patches(hills, axes)):
        if number % every == 0:
            sums = [_log_sum(total / thermal), _log_sum((1.0 - scale) * total / thermal)]
            numbers.append(number)
            constants.append(thermal * (sums[0] - sums[1]))
        for index, weight in corners:
            met[number] += scale * weight[number] * total[tuple(column[number] for column in index)]
        total[place] += values
    return met - np.interp(np.arange(len(hills)), numbers, constants)


def _log_sum(exponents: FloatArray) -> float:
    """ln Σ exp."""
    largest = float(exponents.max())
    return largest + math.log(float(np.exp(exponents - largest).sum()))


def _shape(exponent: FloatArray, kernel: str) -> FloatArray:
    """A hill of height 1 where its exponent is x²/2."""
    gaussian = np.exp(-exponent)
    if kernel == PLAIN:
        return gaussian
    return np.where(exponent < CUTOFF, STRETCH * gaussian + (1.0 - STRETCH), 0.0)


def _within_reach(
    axis: Axis, middle: float, width: float, interval: tuple[float, float] | None
) -> NDArray[np.int64]:
    """Indices of the points that a hill may reach: the box of sum_hills, each point once."""
    reach = REACH * width
    if interval is not None and (middle + reach > interval[1] or middle - reach < interval[0]):
        return np.arange(axis.count)
    steps = math.ceil(reach / axis.spacing)
    at = math.floor((middle - axis.minimum) / axis.spacing)
    if axis.periodic:
        every = 2 * steps + 1 >= axis.count
        return np.arange(axis.count) if every else np.arange(at - steps, at + steps + 1) % axis.count
    return np.arange(max(0, at - steps), min(axis.count, at + steps + 1))


def free_energy_of_hills(
    hills: Hills, axes: Sequence[Axis], names: Sequence[str] | None, temperature: float
) -> Surface:
    """The free energy (kJ/mol) of ``names`` (absent: all), by summing hills on a grid of all variables."""
    surface = sum_hills(hills, axes)
    if names is not None and variable_positions(hills.names, names) != tuple(range(len(hills.names))):
        return surface.marginal(names, temperature)
    return surface


def bias_at(hills: Hills, points: FloatArray) -> FloatArray:
    """[n] bias (kJ/mol) of all hills at values [n, variables] of their variables.

    Of one or two variables it is interpolated on a grid of a tenth of a width, else summed directly.
    """
    if len(hills.names) <= 2:
        extents, axes = hills.extents.min(axis=0), []
        for i, (name, period) in enumerate(zip(hills.names, hills.periods, strict=True)):
            ends = (points[:, i].min(), points[:, i].max())
            low, high = period or (ends[0] - extents[i], ends[1] + extents[i])
            count = math.ceil((high - low) / extents[i] * FINE_PER_WIDTH)
            axes.append(Axis(name, float(low), float(high), count, period is not None))
        check_size(axes)
        return -hills.bias_scale * sum_hills(hills, axes).value_at(points)
    result = np.zeros(len(points))
    inverse = np.linalg.inv(hills.widths)
    for centre, whitening, height in zip(hills.centres, inverse, hills.heights, strict=True):
        offset = points - centre
        for i, period in enumerate(hills.periods):
            if period is not None:
                span = period[1] - period[0]
                offset[:, i] -= span * np.round(offset[:, i] / span)
        result += height * _shape(0.5 * np.square(offset @ whitening.T).sum(-1), hills.kernel)
    return hills.bias_scale * result
