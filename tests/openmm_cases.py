"""OpenMM as pip installs it, for tests: small models and structures, Contexts, what the engine says.

Test modules take ``openmm`` from here, so that they are skipped with a reason where it is absent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest

import lammps_cases
from lammps_cases import liquid, molecule, narrow_crystal
from symmd_md._engine import Engine

openmm = pytest.importorskip(
    "openmm", reason="OpenMM is not installed; pip install 'symmd-md[openmm]' brings it"
)

from openmm import app, unit  # noqa: E402

from symmd_md.openmm.library import load_library  # noqa: E402

if load_library():
    pytest.skip(load_library(), allow_module_level=True)

from symmd_md.openmm import Simulated, SymmdForce, system_from  # noqa: E402

__all__ = ["Simulated", "SymmdForce", "app", "liquid", "molecule", "narrow_crystal", "openmm", "unit"]

ELECTRONVOLT = 1.602176634e-19 * 6.02214076e23 / 1000.0
"""In kJ/mol, from the constants that define the SI."""
PLATFORMS = ("Reference", "CPU")


def write_model(folder: Path, name: str = "two") -> Path:
    """A model file of one of ``lammps_cases.CONFIGS``."""
    return folder / lammps_cases.write_model(folder, name)


def simulated(atoms: ase.Atoms, model: Path, **settings: Any) -> Simulated:
    """A System of all atoms, in double precision and one thread unless ``settings`` say otherwise."""
    return system_from(atoms, model, **{"precision": "double", "threads": 1, **settings})


def context_of(
    system: openmm.System,
    positions: Any,
    integrator: openmm.Integrator | None = None,
    platform: str = "Reference",
) -> openmm.Context:
    """A Context with these positions."""
    integrator = integrator or openmm.VerletIntegrator(0.0005 * unit.picoseconds)
    properties = {"Threads": "1"} if platform == "CPU" else {}
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform), properties)
    context.setPositions(positions)
    return context


def energy_of(context: openmm.Context, **which: Any) -> float:
    """kJ/mol"""
    energy = context.getState(energy=True, **which).getPotentialEnergy()
    return float(energy.value_in_unit(unit.kilojoule_per_mole))


def forces_of(context: openmm.Context, **which: Any) -> np.ndarray:
    """[particles, 3] kJ/mol/nm"""
    forces = context.getState(forces=True, **which).getForces(asNumpy=True)
    return np.asarray(forces.value_in_unit(unit.kilojoule_per_mole / unit.nanometer))


def positions_of(context: openmm.Context) -> np.ndarray:
    """[particles, 3] nm"""
    positions = context.getState(positions=True).getPositions(asNumpy=True)
    return np.asarray(positions.value_in_unit(unit.nanometer))


def box_of(context: openmm.Context) -> np.ndarray:
    """[3, 3] nm"""
    vectors = context.getState().getPeriodicBoxVectors(asNumpy=True)
    return np.asarray(vectors.value_in_unit(unit.nanometer))


def engine_results(
    model: Path, numbers: Any, positions: np.ndarray, box: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """Energy and forces of the engine in fp64 for nm, in kJ/mol and kJ/mol/nm."""
    engine = Engine(model, precision="float64", threads=1)
    species = engine.species_of(np.asarray(numbers))
    cell, pbc = (None, (False,) * 3) if box is None else (10.0 * box, (True,) * 3)
    found = engine.compute(species, 10.0 * positions, cell, pbc)
    return found["energy"] * ELECTRONVOLT, found["forces"] * 10.0 * ELECTRONVOLT
