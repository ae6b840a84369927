"""What tests of TorchForce share: models, structures, Systems, and the engine as the reference. Å, eV."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest

from conftest import separated_points
from symmd_md._engine import Engine

torch_module = pytest.importorskip(
    "openmmtorch", reason="openmmtorch is not installed; make test-torchforce has it"
)
if not os.environ.get("SYMMD_TORCHFORCE_MODELS"):
    pytest.skip("there are no models; make test-torchforce exports them", allow_module_level=True)

import openmm  # noqa: E402
from openmm import app  # noqa: E402

MODELS = Path(os.environ["SYMMD_TORCHFORCE_MODELS"])
NM = 10.0
KJ_PER_MOL = 0.010364269656262174
CELL = np.array([[6.2, 0.0, 0.0], [1.1, 5.8, 0.0], [-0.9, 0.8, 6.6]])
"""Reduced, as OpenMM wants it, and narrower than two cutoffs of the models (3.5 Å)."""


def model(kind: str = "default", portable: bool = False) -> Path:
    """One of the exported models."""
    return MODELS / f"{kind}{'_portable' if portable else ''}.pt"


def structure(periodic: bool, atoms: int = 9, seed: int = 5) -> ase.Atoms:
    """H, C and O at random places; in CELL, with some of them outside of it, when periodic."""
    generator = np.random.default_rng(seed)
    numbers = generator.choice([1, 6, 8], atoms)
    positions = separated_points(generator, atoms, CELL, periodic, 1.2)
    if periodic:
        positions += generator.integers(-2, 3, (atoms, 3)) @ CELL
    return ase.Atoms(numbers, positions=positions, cell=CELL, pbc=periodic)


def topology_of(atoms: ase.Atoms) -> app.Topology:
    """OpenMM's, of single atoms."""
    topology = app.Topology()
    chain = topology.addChain()
    for number in atoms.numbers:
        element = app.Element.getByAtomicNumber(int(number))
        topology.addAtom(element.symbol, element, topology.addResidue("ATM", chain))
    if atoms.pbc.any():
        topology.setPeriodicBoxVectors(vectors(atoms.cell.array / NM))
    return topology


def vectors(box: np.ndarray) -> list[openmm.Vec3]:
    """Rows of a box in nm."""
    return [openmm.Vec3(*map(float, row)) for row in box]


def system_of(atoms: ase.Atoms, *forces: Any) -> openmm.System:
    """Particles with their masses, and forces."""
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    system.setDefaultPeriodicBoxVectors(*vectors(atoms.cell.array / NM))
    for force in forces:
        system.addForce(force)
    return system


def context_of(
    atoms: ase.Atoms, system: openmm.System, platform: str = "Reference", integrator: Any = None
) -> openmm.Context:
    """A Context at the positions of ``atoms``."""
    chosen = openmm.Platform.getPlatformByName(platform)
    context = openmm.Context(system, integrator or openmm.VerletIntegrator(0.0005), chosen)
    context.setPositions(atoms.positions / NM)
    return context


@dataclass(frozen=True)
class Found:
    """What a Context says, or the engine of the same structure."""

    energy: float
    forces: np.ndarray
    """[N, 3]."""


def found_in(context: openmm.Context) -> Found:
    """Energy and forces."""
    state = context.getState(getEnergy=True, getForces=True)
    energy = state.getPotentialEnergy().value_in_unit(openmm.unit.kilojoule_per_mole)
    forces = state.getForces(asNumpy=True)._value
    return Found(energy * KJ_PER_MOL, np.array(forces) * KJ_PER_MOL / NM)


def expected(atoms: ase.Atoms, kind: str = "default", precision: str = "float64") -> Found:
    """The engine of the same model file."""
    engine = Engine(model(kind), precision=precision, threads=1)
    found = engine.compute(
        engine.species_of(atoms.numbers), atoms.positions, atoms.cell.array, tuple(map(bool, atoms.pbc))
    )
    return Found(found["energy"], found["forces"])


def assert_same(found: Found, wanted: Found, relative: float = 1e-10) -> None:
    """Equal, relative to the largest number of each kind."""
    assert abs(found.energy - wanted.energy) <= relative * max(1.0, abs(wanted.energy))
    largest = np.abs(wanted.forces).max()
    assert largest > 1e-3, "forces that are zero would be equal to anything"
    assert np.abs(found.forces - wanted.forces).max() <= relative * largest
