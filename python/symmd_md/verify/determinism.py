"""Whether the same positions give the same numbers, whatever was computed before and on how many threads."""

from __future__ import annotations

from collections.abc import Callable

import ase
import numpy as np

from symmd_md.verify.checks import Answer, Check, Potential, Precision, Yardstick, compared, difference

ELSEWHERE = 0.3
"""Å, standard deviation of the coordinates of what was computed before."""
THREADS = (1, 2)


def determinism_checks(
    fresh: Callable[[int], Potential], atoms: ase.Atoms, yardstick: Yardstick, precision: Precision
) -> list[Check]:
    """``fresh(threads)``: a new potential that promises the same bits for the same positions."""
    generator = np.random.default_rng(9)
    elsewhere = atoms.copy()
    elsewhere.positions += ELSEWHERE * generator.standard_normal(atoms.positions.shape)
    checks, answers = [], []
    for threads in THREADS:
        potential, other = fresh(threads), fresh(threads)
        answer = potential(atoms)
        other(elsewhere)
        again = other(atoms)
        name = f"twice on {threads} thread{'s' if threads > 1 else ''}"
        checks.append(
            Check("determinism", name, precision, "all bits", _apart(answer, again), 0.0, "eV, eV/Å")
        )
        answers.append(answer)
    name = f"{THREADS[1]} threads as {THREADS[0]}"
    checks += compared("determinism", name, precision, answers[0], answers[1], yardstick)
    return checks


def _apart(one: Answer, other: Answer) -> float:
    """Largest difference of any number: 0 where all are the same."""
    differences = [abs(one.energy - other.energy), difference(one.forces, other.forces)]
    if one.atom_energy is not None and other.atom_energy is not None:
        differences.append(difference(one.atom_energy, other.atom_energy))
    if one.virial is not None and other.virial is not None:
        differences.append(difference(one.virial, other.virial))
    return float(np.max(differences))  # NaN where one of them is
