"""One labelled structure and the checks that every structure passes, whatever file it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from symmd_md.errors import DataError

SMALLEST_CELL_HEIGHT = 0.5
"""Å; a periodic axis below this is thinner than an atom, nearly always a unit or lattice mistake."""
ISOLATION_LENGTH = 8.0
"""Å; plane-wave codes need a periodic box for an atom, and no crystal has one atom in a cell so wide."""
HEAVIEST_ELEMENT = 118

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Frame:
    """A structure of N atoms with its labels, in float64. Build it with ``checked_frame``."""

    numbers: NDArray[np.int64]
    """[N] atomic numbers."""
    positions: FloatArray
    """[N, 3] Å."""
    cell: FloatArray
    """[3, 3] Å, rows are the lattice vectors; zeros for an open structure."""
    pbc: NDArray[np.bool_]
    """[3] which axes are periodic."""
    energy: float | None
    """eV, of the whole structure."""
    forces: FloatArray | None
    """[N, 3] eV/Å."""
    stress: FloatArray | None
    """[3, 3] eV/Å³, σ = (1/V) dE/dε."""
    source: str
    """Where it came from, for messages: ``"file.xyz, frame 12"``, counted from 0."""

    @property
    def atom_count(self) -> int:
        return len(self.numbers)

    @property
    def is_isolated_atom(self) -> bool:
        """Whether this is one atom alone in open space or in a wide box; its energy is a reference energy."""
        return self.atom_count == 1 and bool((cell_heights(self.cell, self.pbc) >= ISOLATION_LENGTH).all())


def checked_frame(
    *,
    numbers: Any,
    positions: Any,
    source: str,
    cell: Any = None,
    pbc: Any = None,
    energy: Any = None,
    forces: Any = None,
    stress: Any = None,
) -> Frame:
    """A ``Frame`` from raw values, or one ``DataError`` that names ``source``.

    Stress may be [3, 3], 9 numbers, or 6 in Voigt order (xx, yy, zz, yz, xz, xy). A stress label without a
    volume has no meaning and is left out.
    """
    atomic_numbers = np.array(numbers, dtype=np.int64).reshape(-1)
    if atomic_numbers.size == 0:
        raise DataError(f"{source}: expected at least one atom, found none; remove the frame")
    if atomic_numbers.min() < 1 or atomic_numbers.max() > HEAVIEST_ELEMENT:
        wrong = atomic_numbers[(atomic_numbers < 1) | (atomic_numbers > HEAVIEST_ELEMENT)][0]
        raise DataError(
            f"{source}: expected atomic numbers from 1 to {HEAVIEST_ELEMENT}, found {wrong}; correct the "
            "element"
        )
    count = atomic_numbers.size
    coordinates = _numbers(positions, (count, 3), "positions", source)
    periodic = np.zeros(3, bool) if pbc is None else np.array(pbc, dtype=bool) & np.ones(3, bool)
    lattice = np.zeros((3, 3)) if cell is None else _numbers(cell, (3, 3), "cell", source)
    if not periodic.any():
        lattice = np.zeros((3, 3))
    _check_cell(lattice, periodic, source)
    return Frame(
        numbers=atomic_numbers,
        positions=coordinates,
        cell=lattice,
        pbc=periodic,
        energy=None if energy is None else float(_numbers(energy, (), "energy", source)),
        forces=None if forces is None else _numbers(forces, (count, 3), "forces", source),
        stress=None if stress is None else _checked_stress(stress, lattice, source),
        source=source,
    )


def _numbers(values: Any, shape: tuple[int, ...], what: str, source: str) -> FloatArray:
    """A new float64 array of ``shape``; refuses other shapes, text, NaN and infinity."""
    try:
        array = np.array(values, dtype=np.float64, order="C")
    except (TypeError, ValueError):
        raise DataError(
            f"{source}: expected numbers for the {what}, found {str(values)[:60]!r}; correct the frame"
        ) from None
    if shape == () and array.size == 1:
        array = array.reshape(())
    if array.shape != shape:
        raise DataError(
            f"{source}: expected the {what} in shape {list(shape)}, found {list(array.shape)}; correct the "
            "frame"
        )
    if not np.isfinite(array).all():
        where = ""
        if what in ("positions", "forces"):
            where = f" at atom {int(np.argwhere(~np.isfinite(array))[0][0])}"
        raise DataError(
            f"{source}: expected finite {what}, found NaN or infinity{where}; remove or recompute the frame"
        )
    return array


def _checked_stress(stress: Any, cell: FloatArray, source: str) -> FloatArray | None:
    array = np.asarray(stress)
    if array.shape == (9,):
        array = array.reshape(3, 3)
    elif array.shape == (6,):
        array = array[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    matrix = _numbers(array, (3, 3), "stress", source)
    # Files carry few digits, so that the two halves of a symmetric matrix may be rounded apart.
    tolerance = 1e-5 + 1e-3 * np.abs(matrix).max()
    asymmetry = np.abs(matrix - matrix.T).max()
    if asymmetry > tolerance:
        raise DataError(
            f"{source}: expected a symmetric stress, found components that differ by {asymmetry:.3g} eV/Å³; "
            "check the order of the components"
        )
    if abs(np.linalg.det(cell)) < 1e-10:
        return None
    return 0.5 * (matrix + matrix.T)


def cell_heights(cell: FloatArray, pbc: NDArray[np.bool_]) -> FloatArray:
    """Perpendicular height of the cell (Å) along each periodic axis, one number for each; 0 if singular.

    Only periodic axes count: the vacuum axis of a slab may be absent or oblique.
    """
    periodic = cell[pbc]
    lengths = np.linalg.norm(periodic, axis=1)
    if (lengths < 1e-8).any():
        return lengths
    directions = periodic / lengths[:, None]
    gram = directions @ directions.T
    if np.linalg.det(gram) < 1e-12:
        return np.zeros(len(periodic))
    return lengths / np.sqrt(np.diag(np.linalg.inv(gram)))


def _check_cell(cell: FloatArray, pbc: NDArray[np.bool_], source: str) -> None:
    if not pbc.any():
        return
    heights = cell_heights(cell, pbc)
    thinnest = int(np.argmin(heights))
    if heights[thinnest] < SMALLEST_CELL_HEIGHT:
        axis = "abc"[int(np.flatnonzero(pbc)[thinnest])]
        raise DataError(
            f"{source}: expected a cell at least {SMALLEST_CELL_HEIGHT} Å thick along each periodic axis, "
            f"found {heights[thinnest]:.3g} Å along {axis}, thinner than an atom; check the lattice and its "
            "units"
        )


def check_labels(frame: Frame, require_forces: bool, forces_key: str = "forces") -> None:
    """Refuse a frame that has nothing to learn from, or no forces where the training needs them."""
    if require_forces and frame.forces is None:
        raise DataError(
            f"{frame.source}: expected forces under the key '{forces_key}', found none; set "
            "'data.forces_key', or 'data.require_forces: false' to train without forces"
        )
    if frame.energy is None and frame.forces is None and frame.stress is None:
        raise DataError(
            f"{frame.source}: expected an energy, forces or a stress, found no label; set 'data.energy_key' "
            "or remove the frame"
        )


def formula_symbols(numbers: NDArray[np.int64]) -> list[str]:
    """The element symbols in a structure, by atomic number, each once."""
    return [chemical_symbols[number] for number in np.unique(numbers)]
