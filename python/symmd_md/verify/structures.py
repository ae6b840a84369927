"""The structure that a model is verified on: a given one, or one made on the spot. Å."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ase
import numpy as np
from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from symmd_md.engines.lammps import boxed, read_structure
from symmd_md.errors import DataError
from symmd_md.lattice import reduced_box
from symmd_md.molecules import (
    ALANINE_DIPEPTIDE,
    ALANINE_DIPEPTIDE_SYMBOLS,
    alanine_dipeptide_positions,
)

SEED = 20260101
JIGGLE = 0.03
"""Å, standard deviation of each coordinate's displacement: no force then vanishes by symmetry."""
WATER_MOLECULES = 32


@dataclass(frozen=True)
class Subject:
    """Atoms, and in words what they are."""

    description: str
    atoms: ase.Atoms
    """Its cell is in the form of OpenMM and LAMMPS."""


def subject_of(species: list[str], given: Path | None) -> Subject:
    """The structure in a file (last frame), or else one for a model of these ``species``; jiggled."""
    if given is not None:
        description, atoms = f"{given.name}, last frame", read_structure(given)
    elif {"H", "C", "N", "O"} <= set(species):
        description = "alanine dipeptide, made on the spot"
        atoms = ase.Atoms(ALANINE_DIPEPTIDE_SYMBOLS, positions=alanine_dipeptide_positions())
    elif {"H", "O"} <= set(species):
        description, atoms = f"{WATER_MOLECULES} molecules of liquid water, made on the spot", _water()
    else:
        description, atoms = _stand_in(species)
    if len(atoms) < 2:
        raise DataError(f"{given}: expected at least two atoms, found {len(atoms)}; give a larger structure")
    atoms = in_standard_form(ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc))
    atoms.positions += JIGGLE * np.random.default_rng(SEED).standard_normal(atoms.positions.shape)
    return Subject(f"{description}; each coordinate jiggled by {JIGGLE:g} Å", atoms)


def in_standard_form(atoms: ase.Atoms) -> ase.Atoms:
    """The same structure turned so that OpenMM and LAMMPS take its cell as it is."""
    if not atoms.pbc.any():
        return ase.Atoms(atoms.numbers, atoms.positions)
    if atoms.pbc.all():
        cell, rotation = reduced_box(atoms.cell.array)
        return ase.Atoms(atoms.numbers, atoms.positions @ rotation, cell=cell, pbc=True)
    complete = boxed(atoms)
    cell, turned = complete.cell.standard_form()
    return ase.Atoms(complete.numbers, complete.positions @ turned.T, cell=cell, pbc=complete.pbc)


def _water() -> ase.Atoms:
    from symmd_md.analysis.bench_structures import water_box

    box = water_box(WATER_MOLECULES)
    return ase.Atoms(box.numbers, box.positions, cell=box.cell, pbc=True)


def _stand_in(species: list[str]) -> tuple[str, ase.Atoms]:
    """Alanine dipeptide of elements that the model knows, blown up until no bond is too short for them."""
    known = [atomic_numbers[symbol] for symbol in species]
    numbers = np.array([atomic_numbers[symbol] for symbol in ALANINE_DIPEPTIDE_SYMBOLS])
    stands_for = {number: _nearest(number, known) for number in sorted(set(numbers.tolist()))}
    chosen = np.array([stands_for[number] for number in numbers.tolist()])
    for place, number in enumerate(sorted(set(known) - set(chosen.tolist()))[: len(chosen)]):
        chosen[place] = number  # as many elements of the model as there are atoms
    growth = 1.0
    for atom, (_, (partner, _, _), _) in enumerate(ALANINE_DIPEPTIDE):
        if partner >= 0:
            before = covalent_radii[numbers[atom]] + covalent_radii[numbers[partner]]
            growth = max(growth, (covalent_radii[chosen[atom]] + covalent_radii[chosen[partner]]) / before)
    words = ", ".join(
        f"{chemical_symbols[other]} for {chemical_symbols[number]}"
        for number, other in stands_for.items()
        if other != number
    )
    description = f"the shape of alanine dipeptide, made on the spot ({words or 'all of its elements'})"
    if growth > 1.0:
        description += f", {growth:.2f} times as large"
    return description, ase.Atoms(chosen, positions=growth * alanine_dipeptide_positions())


def _nearest(number: int, known: list[int]) -> int:
    return min(known, key=lambda other: (abs(other - number), other))
