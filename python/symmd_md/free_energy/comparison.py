"""Two surfaces of the same variables: how far apart they are where it matters. Energies in kJ/mol."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from symmd_md.errors import ConfigurationError, DataError
from symmd_md.free_energy.grid import Surface
from symmd_md.free_energy.tables import FloatArray


@dataclass(frozen=True)
class Comparison:
    """The second surface less the first, on the grid of the first, after the best shift."""

    first: Surface
    """At zero."""
    second: Surface
    """On the grid of the first, shifted so that the mean difference in the region is zero."""
    difference: FloatArray
    """[points of each axis] kJ/mol; NaN outside of the region."""
    threshold: float
    """kJ/mol: the region is where the first surface is not higher."""
    missing: int
    """Points of the region that the second surface does not know."""
    outside_errors: float | None
    """Root-mean-square of the difference over its standard error, where both surfaces have errors."""

    @property
    def points(self) -> int:
        """Points that were compared."""
        return int(np.isfinite(self.difference).sum())

    @property
    def rms(self) -> float:
        """Root-mean-square difference (kJ/mol)."""
        return float(np.sqrt(np.nanmean(np.square(self.difference))))

    @property
    def largest(self) -> tuple[float, tuple[float, ...]]:
        """The largest difference (kJ/mol) and where it is."""
        flat = int(np.nanargmax(np.abs(self.difference)))
        index = tuple(int(i) for i in np.unravel_index(flat, self.difference.shape))
        return float(self.difference[index]), self.first.coordinates(index)


def compare(first: Surface, second: Surface, threshold: float) -> Comparison:
    """Compare where ``first`` is at most ``threshold`` (kJ/mol) above its minimum.

    The free constant of the second is chosen so that the mean of the difference over the region vanishes.
    """
    if first.names != second.names:
        raise ConfigurationError(
            f"expected two surfaces of the same variables, found {', '.join(first.names)} and "
            f"{', '.join(second.names)}"
        )
    for one, other in zip(first.axes, second.axes, strict=True):
        same_period = one.periodic == other.periodic and (
            not one.periodic or abs(one.range - other.range) < 1e-6 * one.range
        )
        if not same_period:
            raise ConfigurationError(
                f"variable {one.name}: expected the same period in both surfaces (or none), found "
                f"{_period(one.periodic, one.range)} and {_period(other.periodic, other.range)}"
            )
    first = first.at_zero()
    there = second.interpolated(first.axes)
    region = first.energy <= threshold
    both = region & np.isfinite(there.energy)
    if not both.any():
        raise DataError(
            f"no point below {threshold:g} kJ/mol is known to both surfaces; do their ranges overlap?"
        )
    shift = float((there.energy - first.energy)[both].mean())
    shifted = Surface(first.axes, there.energy - shift, there.error)
    difference = np.where(both, shifted.energy - first.energy, np.nan)
    ratio = None
    if first.error is not None and there.error is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = difference / np.hypot(first.error, there.error)
        if np.isfinite(ratios).any():
            ratio = float(np.sqrt(np.mean(np.square(ratios[np.isfinite(ratios)]))))
    return Comparison(first, shifted, difference, threshold, int((region & ~both).sum()), ratio)


def _period(periodic: bool, length: float) -> str:
    return f"a period of {length:.6g}" if periodic else "no period"
