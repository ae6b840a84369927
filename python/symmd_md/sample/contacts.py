"""Structures in which two atoms are too close or too far, where dynamics never comes.

A network that has learned from dynamics alone may fall without end behind the wall of an atom.
"""

from __future__ import annotations

import numpy as np
from ase.data import atomic_masses
from numpy.typing import NDArray

from symmd_md.errors import SymmdError

FloatArray = NDArray[np.float64]
REACH = 3.0
"""Å; pairs that are farther apart are left alone."""
TRIALS = 1000


def with_one_contact(
    numbers: NDArray[np.int64],
    positions: FloatArray,
    bounds: tuple[float, float],
    generator: np.random.Generator,
) -> FloatArray:
    """``positions`` [N, 3] (Å) with the lighter atom of a random pair moved along the line between the two.

    Their distance is multiplied by a factor between ``bounds``, evenly. No other distance that was, or comes,
    within reach shrinks by more than the lower bound.
    """
    masses = atomic_masses[numbers]
    distances = np.linalg.norm(positions[:, None] - positions, axis=-1)
    pairs = np.argwhere(np.triu(distances < REACH, 1))
    if len(pairs) == 0:
        raise SymmdError(f"contacts need two atoms within {REACH:g} Å, found none")
    for _ in range(TRIALS):
        moved, kept = sorted(pairs[generator.integers(len(pairs))].tolist(), key=lambda atom: masses[atom])
        place = positions[kept] + generator.uniform(*bounds) * (positions[moved] - positions[kept])
        others = np.delete(np.arange(len(numbers)), [moved, kept])
        after = np.linalg.norm(positions[others] - place, axis=1)
        if (after >= np.minimum(bounds[0] * distances[moved, others], REACH)).all():
            result = positions.copy()
            result[moved] = place
            return result
    raise SymmdError(
        f"no pair of atoms could be brought to {bounds[0]:g} to {bounds[1]:g} times its distance without "
        "another one coming closer; choose other 'contacts'"
    )
