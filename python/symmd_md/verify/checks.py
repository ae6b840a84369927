"""What a check found, and how far from right its finding may be. Units eV, Å, ps.

Bounds are reasoned in docs/verify.md; none of them is loosened by the error that it judges.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import ase
import numpy as np
from numpy.typing import NDArray

from symmd_md.errors import SymmdError

FloatArray = NDArray[np.float64]
Precision = Literal["float64", "float32"]

RELATIVE = 1e-9
"""Two ways to the same number in fp64, relative to the largest of its kind."""
ENERGY_SINGLE = 1e-6
"""eV per atom, where learned energies of atoms are of the order of 1 eV or less."""
FORCE_SINGLE = 2e-5
"""eV/Å, of a force component where forces are of the order of 1 eV/Å or less."""
REFERENCE_ENERGY_DIGITS = 1e-4
"""E0 may be a million times the learned energy: rounding of their sum is then no fault of an engine."""


class NotChecked(SymmdError):
    """Something that cannot be checked here; the message is the reason."""


@dataclass(frozen=True)
class Answer:
    """What a potential says of a structure of N atoms."""

    energy: float
    """eV."""
    forces: FloatArray
    """[N, 3] eV/Å."""
    atom_energy: FloatArray | None = None
    """[N] eV, where the potential tells it."""
    virial: FloatArray | None = None
    """[3, 3] eV, −dE/dε; where the potential tells it."""


Potential = Callable[[ase.Atoms], Answer]


@dataclass(frozen=True)
class Check:
    """One number beside its bound."""

    group: str
    """What kind of property it is, such as ``equivariance``."""
    name: str
    """What was looked at within the group."""
    precision: str
    """float64, float32, or empty where it does not matter."""
    quantity: str
    measured: float | None
    """None: there is no number, since what should give it failed."""
    bound: float
    """Largest number that holds."""
    unit: str
    note: str = ""

    @property
    def held(self) -> bool:
        # Without isfinite an infinite bound would pass an infinite number.
        return (
            self.measured is not None
            and math.isfinite(self.measured)
            and math.isfinite(self.bound)
            and bool(self.measured <= self.bound)
        )

    @property
    def share(self) -> float:
        """Of the bound, that the number takes: above 1 it failed."""
        if self.measured is None or not math.isfinite(self.measured):
            return math.inf
        if self.bound > 0.0:
            return self.measured / self.bound
        return 0.0 if self.held else math.inf


class Yardstick:
    """How large energies, forces and virial of a structure are, from an answer in fp64."""

    def __init__(self, answer: Answer, reference_energies: FloatArray, energy_scale: float, cutoff: float):
        """``reference_energies``: [N] eV, E0 of each atom; ``cutoff``: Å."""
        atoms = len(answer.forces)
        energies = np.full(atoms, answer.energy / atoms) if answer.atom_energy is None else answer.atom_energy
        learned = energies - reference_energies
        size = max(largest(learned), energy_scale)
        self.energy = max(size, REFERENCE_ENERGY_DIGITS * largest(energies))
        """eV/atom, that differences of fp64 energies are relative to."""
        self.force = max(largest(answer.forces), energy_scale)
        """eV/Å, the same for forces."""
        self.virial = max(size, 0.0 if answer.virial is None else largest(answer.virial))
        """eV, the same for the virial."""
        self.energy_single = ENERGY_SINGLE * max(1.0, root_mean_square(learned))
        self.force_single = FORCE_SINGLE * max(1.0, root_mean_square(answer.forces))
        # Errors of the forces of N atoms over a cutoff's length, which add up like random numbers.
        self.virial_single = self.force_single * cutoff * math.sqrt(atoms)


def compared(
    group: str, name: str, precision: Precision, expected: Answer, found: Answer, yardstick: Yardstick
) -> list[Check]:
    """Energy, forces and, where both have it, virial of two answers that should be the same."""
    atoms = len(expected.forces)
    differences = {"energy": abs(found.energy - expected.energy) / atoms}
    differences["forces"] = difference(found.forces, expected.forces)
    if found.virial is not None and expected.virial is not None:
        differences["virial"] = difference(found.virial, expected.virial)
    if precision == "float64":
        sizes = {"energy": yardstick.energy, "forces": yardstick.force, "virial": yardstick.virial}
        return [
            Check(group, name, precision, quantity, error / sizes[quantity], RELATIVE, "relative")
            for quantity, error in differences.items()
        ]
    bounds = {
        "energy": (yardstick.energy_single, "eV/atom"),
        "forces": (yardstick.force_single, "eV/Å"),
        "virial": (yardstick.virial_single, "eV"),
    }
    return [
        Check(group, name, precision, quantity, error, *bounds[quantity])
        for quantity, error in differences.items()
    ]


def difference(found: FloatArray, expected: FloatArray) -> float:
    """Largest difference of two arrays; infinite where their shapes differ, NaN where one has it."""
    return largest(found - expected) if found.shape == expected.shape else math.inf


def largest(values: FloatArray) -> float:
    """Largest absolute value; 0 of none."""
    return float(np.abs(values).max(initial=0.0))


def root_mean_square(values: FloatArray) -> float:
    """0 of none."""
    return float(np.sqrt(np.square(values).mean())) if values.size else 0.0
