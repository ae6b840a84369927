"""Structures to time a model on, made on the spot: a molecule of 22 atoms and boxes of liquid water. Å."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_masses, atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from symmd_md.data.neighbours import neighbour_list
from symmd_md.errors import SymmdError
from symmd_md.molecules import ALANINE_DIPEPTIDE_SYMBOLS, alanine_dipeptide_positions

FloatArray = NDArray[np.float64]

MOLECULE_ATOMS = 22
WATER_DENSITY = 0.997
"""g/cm³, of the liquid at 25 °C."""
DALTON_PER_CUBIC_ANGSTROM = 1.66053907
"""g/cm³."""
OH_LENGTH, HOH_ANGLE = 0.9572, 104.52
CONTACT = 1.6
"""Å that atoms of different water molecules are apart at least, as in the liquid."""
MOST_REDRAWS = 1000
MOST_ATOMS = 1_000_000


@dataclass(frozen=True)
class Structure:
    """Atoms that are timed."""

    name: str
    numbers: NDArray[np.int32]
    """[N] atomic numbers."""
    positions: FloatArray
    """[N, 3] Å."""
    cell: FloatArray | None
    """[3, 3] Å, periodic along all of its rows; None: open."""

    @property
    def atoms(self) -> int:
        return len(self.numbers)

    @property
    def periodic(self) -> tuple[bool, bool, bool]:
        periodic = self.cell is not None
        return periodic, periodic, periodic


def structure_of(atoms: int) -> Structure:
    """Alanine dipeptide for 22 atoms, else a box with as many whole molecules of water."""
    if atoms == MOLECULE_ATOMS:
        return alanine_dipeptide()
    if not 3 <= atoms <= MOST_ATOMS:
        raise SymmdError(
            f"a structure to time has 3 to {MOST_ATOMS:,} atoms, found {atoms}; give --atoms such numbers"
        )
    return water_box(atoms // 3)


def alanine_dipeptide() -> Structure:
    """The 22 atoms of ACE-ALA-NME, open boundaries."""
    numbers = np.array([atomic_numbers[symbol] for symbol in ALANINE_DIPEPTIDE_SYMBOLS], dtype=np.int32)
    return Structure("alanine dipeptide", numbers, alanine_dipeptide_positions(), None)


def water_box(molecules: int, seed: int = 0) -> Structure:
    """Water at 0.997 g/cm³ in a periodic box: molecules near the sites of a lattice, turned at random.

    Whatever comes closer than 1.6 Å to another molecule is turned anew.
    """
    generator = np.random.default_rng(seed)
    mass = atomic_masses[8] + 2 * atomic_masses[1]
    volume = molecules * mass * DALTON_PER_CUBIC_ANGSTROM / WATER_DENSITY
    counts = _lattice(molecules)
    spacing = (volume / np.prod(counts)) ** (1 / 3)
    cell = np.diag(spacing * np.array(counts))
    sites = spacing * (np.array(list(itertools.product(*map(range, counts)))) + 0.5)
    sites = sites[np.sort(generator.permutation(len(sites))[:molecules])]

    positions = _placed(sites, spacing, generator)
    for _ in range(MOST_REDRAWS):
        receiver, sender, _ = neighbour_list(
            positions.reshape(-1, 3), cell, np.ones(3, dtype=np.bool_), CONTACT
        )
        clashing = np.unique(receiver[receiver // 3 != sender // 3] // 3)
        if len(clashing) == 0:
            break
        # One of two that clash is enough, and which one is drawn anew each time.
        redrawn = clashing[generator.random(len(clashing)) < 0.5]
        positions[redrawn] = _placed(sites[redrawn], spacing, generator)
    else:
        raise SymmdError(f"no arrangement of {molecules} water molecules without contacts was found")
    numbers = np.tile(np.array([8, 1, 1], dtype=np.int32), molecules)
    return Structure("liquid water", numbers, positions.reshape(-1, 3), cell)


def _lattice(molecules: int) -> tuple[int, int, int]:
    """Sites along each axis of the most cubic lattice that has few sites to spare."""
    edge = max(1, round(molecules ** (1 / 3)))
    around = range(max(1, edge - 1), edge + 3)
    fitting = [
        counts
        for counts in itertools.combinations_with_replacement(around, 3)
        if np.prod(counts) >= molecules
    ]
    return min(fitting, key=lambda counts: (int(np.prod(counts)), counts[2] - counts[0]))


def _placed(sites: FloatArray, spacing: float, generator: np.random.Generator) -> FloatArray:
    """[n, 3, 3] atoms O, H, H of a molecule near each site in a random orientation."""
    half = np.radians(HOH_ANGLE / 2)
    hydrogen = OH_LENGTH * np.array([[np.cos(half), np.sin(half), 0.0], [np.cos(half), -np.sin(half), 0.0]])
    shape = np.concatenate([np.zeros((1, 3)), hydrogen])
    shape -= shape.mean(axis=0)
    q = generator.normal(size=(len(sites), 4))
    w, x, y, z = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    shift = 0.05 * spacing * generator.normal(size=(len(sites), 3)).clip(-2, 2)
    return np.einsum("abn,kb->nka", rotation, shape) + (sites + shift)[:, None]


def species_of(structure: Structure, known: Sequence[str]) -> tuple[NDArray[np.int32], dict[str, str]]:
    """[N] indices into ``known``, and what stands for an element that the model does not know.

    The nearest by atomic number stands for it: the time of a step does not depend on which one.
    """
    known_numbers = [atomic_numbers[symbol] for symbol in known]
    index: dict[int, int] = {}
    replaced: dict[str, str] = {}
    for number in sorted(set(structure.numbers.tolist())):
        nearest = min(range(len(known)), key=lambda k: (abs(known_numbers[k] - number), known_numbers[k]))
        index[number] = nearest
        if known_numbers[nearest] != number:
            replaced[chemical_symbols[number]] = known[nearest]
    return np.array([index[number] for number in structure.numbers.tolist()], dtype=np.int32), replaced
