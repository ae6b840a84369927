"""Symmetries of space and of equal atoms, and energies that add up when parts are far apart."""

from __future__ import annotations

import ase
import numpy as np

from symmd_md.verify.checks import Answer, Check, FloatArray, Potential, Precision, Yardstick, compared

SHIFT = np.array([31.7, -12.9, 8.3])
"""Å, a translation to no special place."""
APART = 3.0
"""Cutoffs between two copies of an open structure."""


def symmetry_checks(
    potential: Potential, atoms: ase.Atoms, yardstick: Yardstick, precision: Precision
) -> list[Check]:
    """Rotation, inversion, translation and permutation of the atoms."""
    generator = np.random.default_rng(5)
    expected = potential(atoms)
    turn = _rotation(generator)
    order = generator.permutation(len(atoms))
    cases: list[tuple[str, str, ase.Atoms, Answer]] = [
        ("equivariance", "rotation", _transformed(atoms, turn), _turned(expected, turn)),
        ("equivariance", "inversion", _transformed(atoms, -np.eye(3)), _turned(expected, -np.eye(3))),
        ("equivariance", "translation", _moved(atoms, SHIFT), expected),
        ("permutation", "atoms reordered", atoms[order], _reordered(expected, order)),
    ]
    return [
        check
        for group, name, changed, anticipated in cases
        for check in compared(group, name, precision, anticipated, potential(changed), yardstick)
    ]


def size_checks(
    potential: Potential,
    atoms: ase.Atoms,
    cutoff: float,
    yardstick: Yardstick,
    precision: Precision,
) -> list[Check]:
    """Two copies: a box repeated along a periodic axis, and far apart along an open one."""
    single = potential(atoms)
    twice = Answer(
        2.0 * single.energy,
        np.tile(single.forces, (2, 1)),
        None if single.atom_energy is None else np.tile(single.atom_energy, 2),
        None if single.virial is None else 2.0 * single.virial,
    )
    checks = []
    if atoms.pbc.any():
        repeats = [1, 1, 1]
        repeats[int(np.argmax(atoms.pbc))] = 2
        found = potential(atoms.repeat(repeats))
        checks += compared("size consistency", "box repeated", precision, twice, found, yardstick)
    if not atoms.pbc.all():
        axis = int(np.argmin(atoms.pbc))
        distance = np.zeros(3)
        distance[axis] = np.ptp(atoms.positions[:, axis]) + APART * cutoff
        both = atoms + _moved(atoms, distance)
        checks += compared(
            "size consistency", "two copies far apart", precision, twice, potential(both), yardstick
        )
    return checks


def _rotation(generator: np.random.Generator) -> FloatArray:
    """[3, 3], of determinant 1."""
    matrix: FloatArray = np.linalg.qr(generator.standard_normal((3, 3)))[0]
    return matrix * np.sign(np.linalg.det(matrix))


def _transformed(atoms: ase.Atoms, turn: FloatArray) -> ase.Atoms:
    return ase.Atoms(atoms.numbers, atoms.positions @ turn.T, cell=atoms.cell.array @ turn.T, pbc=atoms.pbc)


def _moved(atoms: ase.Atoms, shift: FloatArray) -> ase.Atoms:
    return ase.Atoms(atoms.numbers, atoms.positions + shift, cell=atoms.cell, pbc=atoms.pbc)


def _turned(answer: Answer, turn: FloatArray) -> Answer:
    virial = None if answer.virial is None else turn @ answer.virial @ turn.T
    return Answer(answer.energy, answer.forces @ turn.T, answer.atom_energy, virial)


def _reordered(answer: Answer, order: np.ndarray) -> Answer:
    energies = None if answer.atom_energy is None else answer.atom_energy[order]
    return Answer(answer.energy, answer.forces[order], energies, answer.virial)
