"""The form in which OpenMM and LAMMPS want the vectors of a periodic box. Lengths Å."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from symmd_md.errors import DataError

FloatArray = NDArray[np.float64]


def reduced_box(cell: FloatArray) -> tuple[FloatArray, FloatArray]:
    """[3, 3] rows of the same lattice in OpenMM's form, and the rotation that positions are multiplied with.

    That form is lower triangular with a positive diagonal, and no vector has more than half of an earlier
    one along that one's axis.
    """
    volume = np.linalg.det(cell)
    if abs(volume) < 1e-6:
        raise DataError(f"a periodic structure needs a cell with a volume, found {cell.tolist()} Å")
    # A left-handed cell has the lattice of the right-handed one with a vector turned round.
    right_handed = cell * np.array([[1.0], [1.0], [np.sign(volume)]])
    first = right_handed[0] / np.linalg.norm(right_handed[0])
    third = np.cross(right_handed[0], right_handed[1])
    third /= np.linalg.norm(third)
    rotation = np.stack([first, np.cross(third, first), third], axis=1)
    a, b, c = np.tril(right_handed @ rotation)
    c = c - b * np.round(c[1] / b[1])
    c = c - a * np.round(c[0] / a[0])
    b = b - a * np.round(b[0] / a[0])
    return np.stack([a, b, c]), rotation
