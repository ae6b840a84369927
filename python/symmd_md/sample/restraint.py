"""Dihedral angles: measuring, turning and restraining them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixConstraint
from ase.data import covalent_radii
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BOND_TOLERANCE = 1.3
"""Atoms closer than this many sums of covalent radii are bonded."""


def dihedral_angle(positions: FloatArray, atoms: Sequence[int]) -> float:
    """Dihedral angle (degrees, −180 … 180, IUPAC sign) of four atoms at ``positions`` [N, 3] (Å)."""
    first, second, third, fourth = (positions[atom] for atom in atoms)
    axis = third - second
    normal, other = np.cross(second - first, axis), np.cross(axis, fourth - third)
    sine = np.linalg.norm(axis) * np.dot(second - first, other)
    return float(np.degrees(np.arctan2(sine, np.dot(normal, other))))


def dihedral_gradient(positions: FloatArray, atoms: Sequence[int]) -> FloatArray:
    """[4, 3] derivative of the dihedral angle by the four atoms (rad/Å)."""
    first, second, third, fourth = (positions[atom] for atom in atoms)
    before, axis, after = second - first, third - second, fourth - third
    normal, other = np.cross(before, axis), np.cross(axis, after)
    length = np.linalg.norm(axis)
    at_first = -length / np.dot(normal, normal) * normal
    at_fourth = length / np.dot(other, other) * other
    # The two inner atoms follow from invariance under translation and rotation.
    share_before, share_after = np.dot(before, axis) / length**2, np.dot(after, axis) / length**2
    at_second = -(1.0 + share_before) * at_first + share_after * at_fourth
    at_third = share_before * at_first - (1.0 + share_after) * at_fourth
    return np.array([at_first, at_second, at_third, at_fourth])


class DihedralRestraint(FixConstraint):  # type: ignore[misc]
    """Energy k (1 − cos(θ − θ₀)) on a dihedral angle θ: ½ k (θ − θ₀)² nearby, and periodic."""

    def __init__(self, atoms: Sequence[int], angle: float, stiffness: float) -> None:
        """Four atom indices, θ₀ (degrees) and k (eV/rad²)."""
        self.atoms = [int(atom) for atom in atoms]
        self.angle = float(angle)
        self.stiffness = float(stiffness)

    def _deviation(self, atoms: Atoms) -> float:
        return float(np.radians(dihedral_angle(atoms.positions, self.atoms) - self.angle))

    def get_removed_dof(self, atoms: Atoms) -> int:
        return 0

    def adjust_positions(self, atoms: Atoms, new: FloatArray) -> None:
        """A restraint forbids no place."""

    def adjust_momenta(self, atoms: Atoms, momenta: FloatArray) -> None:
        """A restraint forbids no momentum."""

    def adjust_potential_energy(self, atoms: Atoms) -> float:
        """Energy of the restraint (eV)."""
        return self.stiffness * (1.0 - np.cos(self._deviation(atoms)))

    def adjust_forces(self, atoms: Atoms, forces: FloatArray) -> None:
        """Add the forces of the restraint to ``forces`` [N, 3] (eV/Å)."""
        slope = self.stiffness * np.sin(self._deviation(atoms))
        forces[self.atoms] -= slope * dihedral_gradient(atoms.positions, self.atoms)

    def copy(self) -> DihedralRestraint:
        return DihedralRestraint(self.atoms, self.angle, self.stiffness)

    def todict(self) -> dict[str, Any]:
        values = {"atoms": self.atoms, "angle": self.angle, "stiffness": self.stiffness}
        return {"name": "DihedralRestraint", "kwargs": values}


def bonds(numbers: NDArray[np.int64], positions: FloatArray) -> NDArray[np.bool_]:
    """[N, N] whether two atoms of an open structure (Å) are bonded, by their covalent radii."""
    radii = covalent_radii[numbers]
    limits = BOND_TOLERANCE * (radii[:, None] + radii[None, :])
    distances = np.linalg.norm(positions[:, None] - positions[None, :], axis=-1)
    bonded = distances < limits
    np.fill_diagonal(bonded, False)
    return np.asarray(bonded)


def turn_dihedral(
    positions: FloatArray, bonded: NDArray[np.bool_], atoms: Sequence[int], angle: float
) -> FloatArray:
    """[N, 3] positions (Å) with the dihedral of four atoms turned to ``angle`` (degrees), all bonds kept.

    In a ring no such turn exists: then the positions come back as they are, and a restraint has to pull.
    """
    second, third = atoms[1], atoms[2]
    moved = _behind(bonded, second, third)
    if moved[second]:
        return positions
    turn = np.radians(angle - dihedral_angle(positions, atoms))
    axis = (positions[third] - positions[second]) / np.linalg.norm(positions[third] - positions[second])
    relative = positions[moved] - positions[third]
    turned = (
        relative * np.cos(turn)
        + np.cross(axis, relative) * np.sin(turn)
        + np.outer(relative @ axis, axis) * (1.0 - np.cos(turn))
    )
    result = positions.copy()
    result[moved] = turned + positions[third]
    return result


def _behind(bonded: NDArray[np.bool_], near: int, far: int) -> NDArray[np.bool_]:
    """[N] atoms that are reached from ``far`` without the bond between ``near`` and ``far``."""
    reached = np.zeros(len(bonded), dtype=np.bool_)
    open_bonds = bonded.copy()
    open_bonds[near, far] = open_bonds[far, near] = False
    front = [far]
    while front:
        atom = front.pop()
        if not reached[atom]:
            reached[atom] = True
            front.extend(np.flatnonzero(open_bonds[atom]).tolist())
    return reached
