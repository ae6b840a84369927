"""Forces and virial as derivatives of the energy, and the symmetry of the forces' own derivative."""

from __future__ import annotations

import itertools

import ase
import numpy as np
from numpy.typing import NDArray

from symmd_md.verify.checks import Answer, Check, FloatArray, Potential, Yardstick, largest

MOST_ATOMS = 32
"""Of a larger structure the atom nearest to the middle and its neighbours stand for all."""
STEP, STRAIN = 5e-4, 2e-4
"""Å, and without a unit."""
JACOBIAN_STEP = 1e-5
"""Å, shorter since second derivatives jump a little where pieces of the radial splines meet."""
WEIGHTS = {1: 2.0 / 3.0, 2: -1.0 / 12.0}
"""Central differences of fourth order: by how many steps to both sides, and what the difference counts."""
DERIVATIVE_BOUND = 1e-6
"""Relative to the largest force component or virial."""
ASYMMETRY_BOUND = 1e-6
"""Of λ, which is 0 for a gradient and far above this for forces that no energy stands behind."""


def central_atoms(atoms: ase.Atoms, most: int = MOST_ATOMS) -> NDArray[np.int64]:
    """Indices of the ``most`` atoms nearest to the one nearest to the middle, itself first."""
    middle = int(np.argmin(np.linalg.norm(atoms.positions - atoms.positions.mean(axis=0), axis=1)))
    distances = atoms.get_distances(middle, range(len(atoms)), mic=bool(atoms.pbc.any()))
    return np.argsort(distances, kind="stable")[:most].astype(np.int64)


def derivative_checks(potential: Potential, atoms: ase.Atoms, yardstick: Yardstick) -> list[Check]:
    """Forces and virial in fp64 against central differences of the energy."""
    answer = potential(atoms)
    chosen = central_atoms(atoms)
    errors = []
    for atom, axis in itertools.product(chosen, range(3)):
        slope = 0.0
        for steps, weight in WEIGHTS.items():
            ends = []
            for side in (1.0, -1.0):
                moved = atoms.copy()
                moved.positions[atom, axis] += side * steps * STEP
                ends.append(potential(moved))
            slope += weight * _energy_difference(*ends) / STEP
        errors.append(answer.forces[atom, axis] + slope)
    bound, unit = DERIVATIVE_BOUND, "relative"
    error = largest(np.array(errors)) / yardstick.force
    checks = [
        Check("derivatives", "forces = −dE/dr", "float64", "forces", error, bound, unit, _part(chosen, atoms))
    ]
    if answer.virial is not None:
        error = largest(answer.virial - _virial(potential, atoms)) / yardstick.virial
        checks.append(Check("derivatives", "virial = −dE/dε", "float64", "virial", error, bound, unit))
    return checks


def jacobian_check(potential: Potential, atoms: ase.Atoms) -> Check:
    """λ = ‖J − Jᵀ‖ / 2‖J‖ of J = dF/dr, of all atoms or of those in the middle with each other."""
    chosen = central_atoms(atoms)
    columns = []
    for atom, axis in itertools.product(chosen, range(3)):
        ends = []
        for side in (1.0, -1.0):
            moved = atoms.copy()
            moved.positions[atom, axis] += side * JACOBIAN_STEP
            ends.append(potential(moved).forces[chosen].ravel())
        columns.append((ends[0] - ends[1]) / (2.0 * JACOBIAN_STEP))
    jacobian = np.stack(columns, axis=1)
    norm = float(np.linalg.norm(jacobian))
    asymmetry = float(np.linalg.norm(jacobian - jacobian.T)) / (2.0 * norm) if norm > 0.0 else 0.0
    return Check(
        "derivatives",
        "Jacobian asymmetry λ",
        "float64",
        "dF/dr",
        asymmetry,
        ASYMMETRY_BOUND,
        "relative",
        _part(chosen, atoms),
    )


def _part(chosen: NDArray[np.int64], atoms: ase.Atoms) -> str:
    return "" if len(chosen) == len(atoms) else f"{len(chosen)} of {len(atoms)} atoms"


def _virial(potential: Potential, atoms: ase.Atoms) -> FloatArray:
    """[3, 3] eV, −dE/dε for symmetric strains ε of the positions and the cell."""
    virial = np.zeros((3, 3))
    for row, column in itertools.combinations_with_replacement(range(3), 2):
        for steps, weight in WEIGHTS.items():
            ends = []
            for side in (1.0, -1.0):
                strain = np.eye(3)
                strain[row, column] += 0.5 * side * steps * STRAIN
                strain[column, row] += 0.5 * side * steps * STRAIN
                ends.append(
                    potential(
                        ase.Atoms(
                            atoms.numbers,
                            atoms.positions @ strain,
                            cell=atoms.cell.array @ strain,
                            pbc=atoms.pbc,
                        )
                    )
                )
            virial[row, column] -= weight * _energy_difference(*ends) / STRAIN
        virial[column, row] = virial[row, column]
    return virial


def _energy_difference(one: Answer, other: Answer) -> float:
    """Atom by atom where possible: the sum of large E0 would be rounded more than the difference is large."""
    if one.atom_energy is not None and other.atom_energy is not None:
        return float((one.atom_energy - other.atom_energy).sum())
    return one.energy - other.energy
