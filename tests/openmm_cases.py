"""OpenMM as pip installs it, for tests: small models and structures, Contexts, what the engine says.

Test modules take ``openmm`` from here, so that they are skipped with a reason where it is absent.
"""

from __future__ import annotations

import subprocess
import sys
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
HOST_PLATFORMS = ("Reference", "CPU")
"""Without drivers, of which some crash in OpenMM's minimiser; with the derivative of the force's scale."""

TRIAL = """
import openmm
system, bond, pairs = openmm.System(), openmm.HarmonicBondForce(), openmm.NonbondedForce()
for k in range(3):
    system.addParticle(10.0)
    pairs.addParticle(0.1, 0.3, 0.5)
bond.addBond(0, 1, 0.2, 1000.0)
pairs.setNonbondedMethod(pairs.CutoffPeriodic)
pairs.setCutoffDistance(0.9)
system.addForce(bond)
system.addForce(pairs)
energies = []
for name, properties in (("Reference", {}), ("OpenCL", {"Precision": "double"})):
    integrator = openmm.VerletIntegrator(0.001)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(name), properties)
    context.setPositions([[0, 0, 0], [0.25, 0, 0], [0.1, 0.4, 0]])
    integrator.step(3)
    energies.append(context.getState(energy=True).getPotentialEnergy()._value)
assert abs(energies[0] - energies[1]) < 1e-6 * abs(energies[0])
"""


def usable_platforms() -> tuple[str, ...]:
    """Reference, CPU, and OpenCL where it is and computes in double precision without crashing."""
    names = [openmm.Platform.getPlatform(k).getName() for k in range(openmm.Platform.getNumPlatforms())]
    if "OpenCL" not in names:
        return HOST_PLATFORMS
    done = subprocess.run([sys.executable, "-c", TRIAL], capture_output=True)
    return (*HOST_PLATFORMS, "OpenCL") if done.returncode == 0 else HOST_PLATFORMS


PLATFORMS = usable_platforms()


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
    properties = {"CPU": {"Threads": "1"}, "OpenCL": {"Precision": "double"}}.get(platform, {})
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
