"""Free energies from a biased trajectory by weights, with errors from blocks. Energies in kJ/mol.

Every row t of a COLVAR file counts w_t: exp(V(s_t)/kT) with the bias V at the end of the run, exp(rbias/kT)
with the bias less its growing mean (Tiwary and Parrinello), or a column of weights. Then
F(s) = −kT ln Σ_t w_t over the rows in the cell of the grid point s. Errors are those of the jackknife: every
block of the trajectory is left out once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from symmd_md.errors import ConfigurationError, DataError
from symmd_md.free_energy.grid import Axis, Surface, check_size, thermal_energy
from symmd_md.free_energy.tables import FloatArray

LEAST_BLOCKS = 2


@dataclass(frozen=True)
class Blocks:
    """Weights in the cells of a grid, block by block of a trajectory."""

    axes: tuple[Axis, ...]
    weights: FloatArray
    """[blocks, points of each axis]: sums of weights, in any common unit."""
    thermal: float
    """k_B T (kJ/mol)."""
    samples: int
    outside: int
    """Rows that lay outside of the grid."""
    effective_samples: float
    """(Σ w)² / Σ w², which weights of different size make smaller than the number of rows."""

    def free_energy(self) -> FloatArray:
        """[points of each axis] −kT ln of the whole weight; NaN where nothing was."""
        return self._energy(self.weights.sum(axis=0))

    def left_out(self) -> FloatArray:
        """[blocks, points of each axis] the same without each block; infinite where nothing is left."""
        # Sums of the others, since a difference from the whole leaves rounding where nothing is.
        others = [np.delete(self.weights, block, axis=0).sum(axis=0) for block in range(len(self.weights))]
        energy = self._energy(np.stack(others))
        return np.where(np.isnan(energy), np.inf, energy)

    def error(self) -> FloatArray:
        """[points of each axis] standard error of the free energy; NaN where one block alone was, or none."""
        return jackknife(self.left_out())

    def difference_error(self, first: Sequence[int], second: Sequence[int]) -> float:
        """Standard error (kJ/mol) of F(second) − F(first) of two grid points."""
        parts = self.left_out()
        flat = parts.reshape(len(parts), -1)
        shape = parts.shape[1:]
        here = flat[:, int(np.ravel_multi_index(tuple(second), shape))]
        there = flat[:, int(np.ravel_multi_index(tuple(first), shape))]
        return float(jackknife(here - there if np.isfinite(there).all() else np.full_like(here, np.inf)))

    def region_error(self, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
        """Standard error (kJ/mol) of the free energy of a region, a mask of points, less that of another."""
        energies = []
        for region in (first, second):
            sums = self.weights[:, region].sum(axis=1)
            with np.errstate(divide="ignore"):
                energies.append(-self.thermal * np.log(sums.sum() - sums))
        difference = energies[1] - energies[0]
        return float(jackknife(np.where(np.isfinite(difference), difference, np.inf)))

    def smoothed(self, widths: Sequence[float]) -> Blocks:
        """Each cell with those around it, within half of ``widths`` along each axis."""
        weights = self.weights
        for position, (axis, width) in enumerate(zip(self.axes, widths, strict=True), 1):
            reach = int(0.5 * width / axis.spacing)
            weights = _window(weights, position, min(reach, (axis.count - 1) // 2), axis.periodic)
        return Blocks(self.axes, weights, self.thermal, self.samples, self.outside, self.effective_samples)

    def surface(self) -> Surface:
        """The free energy with its errors."""
        return Surface(self.axes, self.free_energy(), self.error())

    def _energy(self, weights: FloatArray) -> FloatArray:
        """−kT ln of the density; its constant makes the density integrate to 1, as the errors assume."""
        total = weights.reshape(*weights.shape[: weights.ndim - len(self.axes)], -1).sum(axis=-1)
        total = total.reshape(*total.shape, *[1] * len(self.axes))
        cell = float(np.prod([axis.spacing for axis in self.axes]))
        with np.errstate(divide="ignore", invalid="ignore"):
            energy = -self.thermal * np.log(weights / (total * cell))
        return np.where(np.isfinite(energy), energy, np.nan)


def jackknife(left_out: FloatArray) -> FloatArray:
    """Standard error from [blocks, …] estimates without each block; NaN where one is infinite."""
    count = len(left_out)
    finite = np.isfinite(left_out).all(axis=0)
    values = np.where(finite, left_out, 0.0)
    spread = np.square(values - values.mean(axis=0)).sum(axis=0)
    return np.where(finite, np.sqrt(spread * (count - 1) / count), np.nan)


def gather(
    points: FloatArray,
    log_weights: FloatArray,
    axes: Sequence[Axis],
    temperature: float,
    blocks: int,
) -> Blocks:
    """Sort rows [n, variables] of weights exp(log_weights) [n] into the grid, in ``blocks`` parts of time."""
    if blocks < LEAST_BLOCKS:
        raise ConfigurationError(f"errors need at least {LEAST_BLOCKS} blocks, found {blocks}")
    if len(points) < blocks:
        raise DataError(
            f"expected at least one row for each of {blocks} blocks, found {len(points)} rows; "
            "wait for more, or ask for fewer --blocks (0: no errors)"
        )
    check_size(axes)
    indices = np.stack([axis.nearest(column) for axis, column in zip(axes, points.T, strict=True)])
    inside = (indices >= 0).all(axis=0)
    if not inside.any():
        raise DataError(f"none of the {len(points)} rows lies within the grid; change --min and --max")
    weights = np.exp(log_weights - log_weights[inside].max())
    shape = tuple(axis.count for axis in axes)
    flat = np.ravel_multi_index(tuple(np.where(inside, indices, 0)), shape)
    block = np.arange(len(points)) * blocks // len(points)
    size = int(np.prod(shape))
    cells = (block * size + flat)[inside]
    sums = np.bincount(cells, weights=weights[inside], minlength=blocks * size).astype(np.float64)
    effective = float(weights[inside].sum() ** 2 / np.square(weights[inside]).sum())
    return Blocks(
        tuple(axes),
        sums.reshape(blocks, *shape),
        thermal_energy(temperature),
        len(points),
        int((~inside).sum()),
        effective,
    )


def _window(weights: FloatArray, position: int, reach: int, periodic: bool) -> FloatArray:
    """Sums over ``reach`` cells to both sides along one axis."""
    if reach == 0:
        return weights
    padding = [(0, 0)] * weights.ndim
    padding[position] = (reach, reach)
    padded = np.pad(weights, padding, mode="wrap") if periodic else np.pad(weights, padding)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=position)
    return windows.sum(axis=-1)
