"""Small analytic potentials, right ones and ones that break exactly one property, for tests of the checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import ase
import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.neighborlist import neighbor_list

from conftest import separated_points
from symmd_md.verify.checks import Answer, Potential, Yardstick

CUTOFF = 3.0
Slope = tuple[np.ndarray, np.ndarray]


def smooth(distance: np.ndarray) -> Slope:
    """(1 − r²/r_c²)³ and its slope: both vanish at the cutoff."""
    rest = 1.0 - (distance / CUTOFF) ** 2
    return rest**3, -6.0 * distance / CUTOFF**2 * rest**2


def truncated(distance: np.ndarray) -> Slope:
    """1/r² to the cutoff, where it ends."""
    return distance**-2, -2.0 * distance**-3


def bent(distance: np.ndarray) -> Slope:
    """1 − r/r_c: no jump of the energy, but of the force."""
    return 1.0 - distance / CUTOFF, np.full_like(distance, -1.0 / CUTOFF)


@dataclass(frozen=True)
class Pairs:
    """A sum over pairs within the cutoff, images included; eV, Å."""

    pair: Callable[[np.ndarray], Slope] = smooth

    def __call__(self, atoms: ase.Atoms) -> Answer:
        receiver, distance, vector = neighbor_list("idD", atoms, CUTOFF)
        values, slopes = self.pair(distance)
        energies, forces = np.zeros(len(atoms)), np.zeros((len(atoms), 3))
        np.add.at(energies, receiver, 0.5 * values)
        pull = (slopes / distance)[:, None] * vector
        np.add.at(forces, receiver, pull)
        return Answer(float(energies.sum()), forces, energies, -0.5 * pull.T @ vector)


def with_energy(extra: Callable[[ase.Atoms], float]) -> Potential:
    """The smooth pairs with something added to the energy alone."""

    def compute(atoms: ase.Atoms) -> Answer:
        answer = Pairs()(atoms)
        return replace(answer, energy=answer.energy + extra(atoms))

    return compute


def with_forces(change: Callable[[ase.Atoms, np.ndarray], np.ndarray]) -> Potential:
    """The smooth pairs with other forces."""

    def compute(atoms: ase.Atoms) -> Answer:
        answer = Pairs()(atoms)
        return replace(answer, forces=change(atoms, answer.forces))

    return compute


def swirling(atoms: ase.Atoms, forces: np.ndarray) -> np.ndarray:
    """Forces around an axis, which no energy has."""
    centred = atoms.positions - atoms.positions.mean(axis=0)
    return forces + 0.02 * np.stack([-centred[:, 1], centred[:, 0], 0.0 * centred[:, 2]], axis=1)


def _from_centre(atoms: ase.Atoms) -> np.ndarray:
    return atoms.positions - atoms.positions.mean(axis=0)


def _handedness(atoms: ase.Atoms) -> float:
    """A number that changes its sign in a mirror; the order of the atoms does not matter."""
    centred = _from_centre(atoms)
    order = np.argsort(np.linalg.norm(centred, axis=1))
    return float(np.linalg.det(centred[order[-3:]]))


UNSYMMETRIC: dict[str, Potential] = {
    "rotation": with_energy(lambda atoms: 0.1 * float((_from_centre(atoms)[:, 0] ** 2).sum())),
    "inversion": with_energy(lambda atoms: 0.1 * _handedness(atoms)),
    "translation": with_energy(lambda atoms: 0.1 * float((atoms.positions.mean(axis=0) ** 2).sum())),
    "atoms reordered": with_energy(
        lambda atoms: 0.01 * float(np.arange(len(atoms)) @ (_from_centre(atoms) ** 2).sum(axis=1))
    ),
}
"""By the name of the only check that they fail."""


def molecule(atoms: int = 8, seed: int = 5) -> ase.Atoms:
    """Random carbon and hydrogen, open."""
    generator = np.random.default_rng(seed)
    positions = separated_points(generator, atoms, np.eye(3) * 3.6, False, 1.1)
    return ase.Atoms(["C", "H"] * (atoms // 2), positions=positions)


def crystal(atoms: int = 6, seed: int = 7) -> ase.Atoms:
    """Random, periodic and triclinic, narrower than two cutoffs; its cell is left-handed."""
    generator = np.random.default_rng(seed)
    cell = np.array([[0.4, 4.1, 0.3], [4.0, 0.2, -0.5], [1.1, 0.6, 4.3]])
    positions = separated_points(generator, atoms, cell, True, 1.2)
    return ase.Atoms(["C", "H"] * (atoms // 2), positions=positions, cell=cell, pbc=True)


def yardstick_of(potential: Potential, atoms: ase.Atoms) -> Yardstick:
    """Without reference energies, learned energies of the order of 1 eV."""
    return Yardstick(potential(atoms), np.zeros(len(atoms)), 1.0, CUTOFF)


class AsCalculator(Calculator):
    """A potential for ASE's dynamics."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        answer = self.potential(self.atoms)
        self.results = {"energy": answer.energy, "forces": answer.forces}
