"""Whether energy and forces stay continuous while atoms come into each other's cutoffs."""

from __future__ import annotations

from collections.abc import Iterable

import ase
import numpy as np

from symmd_md.verify.checks import Answer, Check, FloatArray, Potential, Yardstick, largest
from symmd_md.verify.derivatives import central_atoms

STEP = 1e-6
"""Å between the places on both sides of a cutoff."""
JUMP_BOUND = 1e-8
"""Relative. A bend leaves less than this over some steps, while a jump does not get smaller with them."""


def cutoff_checks(
    potential: Potential, atoms: ase.Atoms, cutoffs: Iterable[float], yardstick: Yardstick
) -> list[Check]:
    """An atom of each element, and a copy of the structure, coming within each of ``cutoffs`` (Å)."""
    group = _open_part(atoms)
    visitors = {
        symbol: ase.Atoms(symbol, positions=group.positions[:1])
        for symbol in sorted(set(group.get_chemical_symbols()))
    }
    visitors["a copy"] = group
    checks = []
    for cutoff in sorted(set(cutoffs)):
        for name, visitor in visitors.items():
            energy, forces = _jumps(potential, group, visitor, cutoff)
            name = f"{name} within {cutoff:g} Å"
            for quantity, jump, size in (
                ("energy", energy, yardstick.energy),
                ("forces", forces, yardstick.force),
            ):
                checks.append(Check("cutoff", name, "float64", quantity, jump / size, JUMP_BOUND, "relative"))
    return checks


def _open_part(atoms: ase.Atoms) -> ase.Atoms:
    """The structure, or what lies in the middle of a large or periodic one, with open boundaries."""
    chosen = central_atoms(atoms)
    middle = int(chosen[0])
    vectors = atoms.get_distances(middle, chosen, mic=bool(atoms.pbc.any()), vector=True)
    return ase.Atoms(atoms.numbers[chosen], positions=vectors)


def _jumps(potential: Potential, group: ase.Atoms, visitor: ase.Atoms, cutoff: float) -> tuple[float, float]:
    """Of energy per atom (eV) and a force component (eV/Å) where the nearest atoms are ``cutoff`` apart.

    Values on each side are extrapolated to the cutoff, so that a slope there is no jump.
    """
    direction = np.array([0.48, 0.6, 0.64])

    def at(gap: float) -> Answer:
        moved = visitor.copy()
        moved.positions += _distance(group.positions, visitor.positions, direction, gap) * direction
        return potential(group + moved)

    outside = [at(cutoff + STEP), at(cutoff + 2.0 * STEP)]
    inside = [at(cutoff - STEP), at(cutoff - 2.0 * STEP)]

    def limit(answers: list[Answer]) -> tuple[float, FloatArray]:
        near, far = answers
        if near.atom_energy is None or far.atom_energy is None:
            return 2.0 * near.energy - far.energy, 2.0 * near.forces - far.forces
        energies = 2.0 * near.atom_energy - far.atom_energy
        return float(energies.sum()), 2.0 * near.forces - far.forces

    (energy_out, forces_out), (energy_in, forces_in) = limit(outside), limit(inside)
    return abs(energy_in - energy_out) / (len(group) + len(visitor)), largest(forces_in - forces_out)


def _distance(group: FloatArray, visitor: FloatArray, direction: FloatArray, gap: float) -> float:
    """How far (Å) the visitor has to go along ``direction`` until its nearest atom is ``gap`` away."""
    vectors = (visitor[None] - group[:, None]).reshape(-1, 3)
    along = vectors @ direction
    inside = gap**2 - np.square(vectors).sum(axis=1) + along**2
    passing = inside >= 0.0
    return float((np.sqrt(inside[passing]) - along[passing]).max())
