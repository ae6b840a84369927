"""The exported model in TorchForce against the engine: results, parameters, dynamics, serialisation."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torchforce_cases import (
    CELL,
    KJ_PER_MOL,
    NM,
    Found,
    assert_same,
    context_of,
    expected,
    found_in,
    model,
    openmm,
    structure,
    system_of,
    topology_of,
)

from symmd_md.openmm import torch_force

BOTH = pytest.mark.parametrize("portable", [False, True], ids=["engine", "portable"])
OUTPUTS = pytest.mark.parametrize("forces", [True, False], ids=["forces", "gradient"])
PERIODIC = pytest.mark.parametrize("periodic", [False, True], ids=["open", "periodic"])


def precision(portable: bool) -> str | None:
    """fp64 for the engine; the portable models are in it."""
    return None if portable else "double"


@BOTH
@OUTPUTS
@PERIODIC
@pytest.mark.parametrize("kind", ["default", "degree-3"])
def test_energy_and_forces_are_those_of_the_engine(
    kind: str, periodic: bool, forces: bool, portable: bool
) -> None:
    """Five structures: TorchScript compiles anew for what it saw in the first two."""
    atoms = structure(periodic)
    force = torch_force(
        model(kind, portable), topology_of(atoms), forces=forces, precision=precision(portable), forceGroup=3
    )
    assert (force.usesPeriodicBoundaryConditions(), force.getOutputsForces()) == (periodic, forces)
    assert force.getForceGroup() == 3
    context = context_of(atoms, system_of(atoms, force))
    for _ in range(5):
        assert_same(found_in(context), expected(atoms, kind))
        atoms.rattle(0.05, seed=len(atoms))
        context.setPositions(atoms.positions / NM)


@OUTPUTS
def test_the_cpu_platform_and_single_precision(forces: bool) -> None:
    atoms = structure(True)
    force = torch_force(model(), topology_of(atoms), forces=forces, threads=1)
    context = context_of(atoms, system_of(atoms, force), "CPU")
    for _ in range(3):
        # OpenMM's CPU platform adds forces in fp32 too.
        assert_same(found_in(context), expected(atoms, precision="float32"), 2e-6)
    assert abs(expected(atoms, precision="float32").energy - expected(atoms).energy) > 1e-9


@PERIODIC
def test_it_adds_to_other_forces(periodic: bool) -> None:
    atoms = structure(periodic)
    spring = openmm.CustomExternalForce("500*(x*x + y*y)")
    for index in range(len(atoms)):
        spring.addParticle(index)
    force = torch_force(model(), atoms.numbers, periodic=periodic, precision="double")
    context = context_of(atoms, system_of(atoms, spring, force))
    plane = atoms.positions.copy()
    plane[:, 2] = 0.0
    stiffness = 500.0 * KJ_PER_MOL / NM**2
    wanted = expected(atoms)
    total = Found(wanted.energy + stiffness * (plane**2).sum(), wanted.forces - 2.0 * stiffness * plane)
    assert_same(found_in(context), total)


@BOTH
@OUTPUTS
@PERIODIC
def test_a_global_parameter_scales_and_has_its_derivative(
    periodic: bool, forces: bool, portable: bool
) -> None:
    atoms = structure(periodic)
    force = torch_force(
        model(portable=portable),
        topology_of(atoms),
        forces=forces,
        precision=precision(portable),
        scaleParameter="part",
    )
    force.addEnergyParameterDerivative("part")
    context = context_of(atoms, system_of(atoms, force))
    wanted = expected(atoms)
    for part in (1.0, 0.37, 0.0, -0.5):
        assert part != 1.0 or context.getParameter("part") == 1.0
        context.setParameter("part", part)
        found = found_in(context)
        assert abs(found.energy - part * wanted.energy) < 1e-10 * abs(wanted.energy)
        assert np.abs(found.forces - part * wanted.forces).max() < 1e-10 * np.abs(wanted.forces).max()
        derivatives = context.getState(getParameterDerivatives=True).getEnergyParameterDerivatives()
        assert derivatives["part"] * KJ_PER_MOL == pytest.approx(wanted.energy, rel=1e-10)


@OUTPUTS
def test_dynamics_are_those_of_the_engine(forces: bool) -> None:
    """OpenMM's Verlet is the leapfrog, whose velocities are half a step behind."""
    atoms = structure(True)
    step, steps = 0.0002, 100
    force = torch_force(model(), topology_of(atoms), forces=forces, precision="double", threads=1)
    context = context_of(atoms, system_of(atoms, force), integrator=openmm.VerletIntegrator(step))
    energies = []
    for _ in range(steps // 10):
        context.getIntegrator().step(10)
        state = context.getState(getEnergy=True)
        kinetic = state.getKineticEnergy()._value
        energies.append([kinetic, kinetic + state.getPotentialEnergy()._value])
    there = context.getState(getPositions=True).getPositions(asNumpy=True)._value * NM

    velocities = np.zeros((len(atoms), 3))
    for _ in range(steps):
        pull = expected(atoms).forces / KJ_PER_MOL * NM
        velocities += step * pull / atoms.get_masses()[:, None]
        atoms.positions += step * velocities * NM
    assert np.abs(there - atoms.positions).max() < 1e-9
    kinetic, total = np.array(energies).T
    assert kinetic.max() > 1.0
    assert np.ptp(total) < 1e-3 * kinetic.max()


@BOTH
@OUTPUTS
def test_a_barostat_changes_the_box_of_the_model(forces: bool, portable: bool) -> None:
    atoms = structure(True)
    force = torch_force(
        model(portable=portable), topology_of(atoms), forces=forces, precision=precision(portable)
    )
    barostat = openmm.MonteCarloBarostat(5000.0, 300.0, 1)
    barostat.setRandomNumberSeed(1)
    integrator = openmm.LangevinMiddleIntegrator(300.0, 10.0, 0.0001)
    integrator.setRandomNumberSeed(1)
    context = context_of(atoms, system_of(atoms, force, barostat), integrator=integrator)
    integrator.step(30)
    state = context.getState(getPositions=True)
    atoms.positions = state.getPositions(asNumpy=True)._value * NM
    atoms.cell = state.getPeriodicBoxVectors(asNumpy=True)._value * NM
    assert np.abs(atoms.cell.array - CELL).max() > 0.01
    assert_same(found_in(context), expected(atoms))


def test_contexts_with_different_models_and_the_same_one() -> None:
    atoms = structure(True)
    kinds = ("default", "degree-3", "default")
    contexts = [
        context_of(atoms, system_of(atoms, torch_force(model(kind), topology_of(atoms), precision="double")))
        for kind in kinds
    ]
    for _ in range(3):
        for kind, context in zip(kinds, contexts, strict=True):
            assert_same(found_in(context), expected(atoms, kind))
        atoms.rattle(0.03, seed=8)
        for context in contexts:
            context.setPositions(atoms.positions / NM)


CHILD = """
import sys
import openmm
from symmd_md.openmm.torchforce import prepare
prepare()
system, state = (openmm.XmlSerializer.deserialize(open(path).read()) for path in sys.argv[1:])
platform = openmm.Platform.getPlatformByName("Reference")
context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
context.setState(state)
print(repr(context.getState(getEnergy=True).getPotentialEnergy()._value))
"""


@BOTH
@OUTPUTS
def test_systems_can_be_copied_and_written(tmp_path: Path, forces: bool, portable: bool) -> None:
    """The force holds its model: another process, which imports openmm first, needs no model file."""
    atoms = structure(True)
    force = torch_force(model(portable=portable), topology_of(atoms), forces=forces, scaleParameter="part")
    system = system_of(atoms, force)
    context = context_of(atoms, system)
    energy = context.getState(getEnergy=True).getPotentialEnergy()._value
    copied = context_of(atoms, copy.deepcopy(system))
    assert copied.getState(getEnergy=True).getPotentialEnergy()._value == pytest.approx(energy, rel=1e-6)
    paths = [tmp_path / "system.xml", tmp_path / "state.xml"]
    paths[0].write_text(openmm.XmlSerializer.serialize(system))
    paths[1].write_text(
        openmm.XmlSerializer.serialize(context.getState(getPositions=True, getParameters=True))
    )
    done = subprocess.run([sys.executable, "-c", CHILD, *map(str, paths)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) == pytest.approx(energy, rel=1e-6)
