"""SymmdForce under OpenMM's integrators, barostats, minimiser, reporters and metadynamics; checkpoints."""

from __future__ import annotations

from pathlib import Path

import ase
import numpy as np
import pytest

from openmm_cases import (
    ELECTRONVOLT,
    PLATFORMS,
    SymmdForce,
    app,
    box_of,
    context_of,
    energy_of,
    engine_results,
    forces_of,
    liquid,
    molecule,
    openmm,
    positions_of,
    simulated,
    unit,
    write_model,
)
from symmd_md._engine import Engine

GAS_CONSTANT = 8.31446261815324e-3
"""kJ/mol/K"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path)


def relaxed(
    atoms: ase.Atoms, model: Path, iterations: int = 60
) -> tuple[app.Topology, openmm.System, np.ndarray]:
    """A System with positions (nm) from which dynamics with a random network does not run away."""
    topology, system, positions = simulated(atoms, model)
    context = context_of(system, positions)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=iterations)
    return topology, system, positions_of(context)


def total_energy(context: openmm.Context) -> float:
    state = context.getState(energy=True)
    return float((state.getPotentialEnergy() + state.getKineticEnergy())._value)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_energy_is_conserved(model: Path, platform: str) -> None:
    """And better by the square of the time step, which only exact derivatives give."""
    _, system, positions = relaxed(liquid(), model)
    spread = []
    for step in (1e-3, 5e-4):
        context = context_of(system, positions, openmm.VerletIntegrator(step), platform)
        context.setVelocitiesToTemperature(200.0, 1)
        energies = []
        for _ in range(40):
            context.getIntegrator().step(round(2e-3 / step))
            energies.append(total_energy(context))
        spread.append(np.std(energies))
        assert np.ptp(positions_of(context) - positions) > 0.01
    assert spread[1] < 0.35 * spread[0]


def test_minimiser(model: Path) -> None:
    _, system, positions = simulated(molecule(), model)
    context = context_of(system, positions)
    before = energy_of(context)
    openmm.LocalEnergyMinimizer.minimize(context, tolerance=0.1)
    assert energy_of(context) < before
    assert np.sqrt((forces_of(context) ** 2).mean()) < 0.2


@pytest.mark.parametrize("kind", ["isotropic", "anisotropic", "membrane", "flexible"])
def test_barostat_moves_the_box(model: Path, kind: str) -> None:
    atoms = liquid()
    _, system, positions = relaxed(atoms, model)
    # So strong that trials are accepted and the box is pressed together.
    pressure = 2e5
    if kind == "isotropic":
        barostat = openmm.MonteCarloBarostat(pressure, 300.0, 1)
    elif kind == "membrane":
        barostat = openmm.MonteCarloMembraneBarostat(
            pressure, 0.0, 300.0, openmm.MonteCarloMembraneBarostat.XYIsotropic,
            openmm.MonteCarloMembraneBarostat.ZFixed, 1,
        )  # fmt: skip
    elif kind == "flexible":
        barostat = openmm.MonteCarloFlexibleBarostat(pressure, 300.0, 1)
    else:
        # One axis keeps its length.
        barostat = openmm.MonteCarloAnisotropicBarostat([pressure] * 3, 300.0, True, True, False, 1)
    barostat.setRandomNumberSeed(4)
    system.addForce(barostat)
    integrator = openmm.LangevinMiddleIntegrator(300.0, 10.0, 0.0005)
    integrator.setRandomNumberSeed(5)
    context = context_of(system, positions, integrator)
    begin = box_of(context)
    integrator.step(60)
    box = box_of(context)
    assert np.linalg.det(box) < 0.99 * np.linalg.det(begin)
    assert (box[2, 2] == begin[2, 2]) == (kind in ("anisotropic", "membrane"))
    assert (np.abs(box - np.diag(np.diag(box))).max() > 0.0) == (kind == "flexible")
    # After all accepted and refused trials, energy and forces are those of where the atoms are.
    energy, forces = engine_results(model, atoms.numbers, positions_of(context), box)
    assert energy_of(context) == pytest.approx(energy, rel=1e-12)
    np.testing.assert_allclose(forces_of(context), forces, atol=1e-9 * np.abs(forces).max())


def test_pressure_of_the_barostat_is_that_of_the_virial(model: Path) -> None:
    """OpenMM differentiates the energy by the volume, the engine has the virial itself."""
    atoms = liquid()
    _, system, positions = simulated(atoms, model)
    barostat = openmm.MonteCarloBarostat(1.0, 300.0, 0)
    system.addForce(barostat)
    # Kinetic energies of Verlet are half a step away from the velocities.
    context = context_of(system, positions, openmm.VerletIntegrator(1e-9))
    context.setVelocitiesToTemperature(300.0, 2)
    pressure = barostat.computeCurrentPressure(context).value_in_unit(unit.bar)
    engine = Engine(model, precision="float64")
    found = engine.compute(
        engine.species_of(atoms.numbers), atoms.positions, atoms.cell.array, [True] * 3, virial=True
    )
    virial = np.trace(found["virial"]) * ELECTRONVOLT / 3.0
    kinetic = context.getState(energy=True).getKineticEnergy()._value * 2.0 / 3.0
    bar = 1e25 / 6.02214076e23  # in a kJ/mol/nm³
    assert pressure == pytest.approx((virial + kinetic) / (atoms.get_volume() * 1e-3) * bar, rel=1e-4)


def test_barostat_moves_molecules_as_a_whole(model: Path) -> None:
    """Bonds of the topology keep molecules of a barostat together; without, atoms move one by one."""
    atoms = liquid()
    topology, system, positions = simulated(atoms, model)
    system.removeForce(0)
    everything = list(topology.atoms())
    for k in range(0, 40, 2):
        topology.addBond(everything[k], everything[k + 1])
    system.addForce(SymmdForce(model, topology, precision="double", threads=1))
    barostat = openmm.MonteCarloBarostat(1e6, 300.0, 1)
    barostat.setRandomNumberSeed(1)
    system.addForce(barostat)
    for k in range(40):
        system.setParticleMass(k, 1e9)  # moved by the barostat alone
    context = context_of(system, positions, openmm.VerletIntegrator(1e-6))
    before = positions_of(context)
    context.getIntegrator().step(20)
    after, scale = positions_of(context), box_of(context)[0, 0] / (atoms.cell[0, 0] / 10.0)
    assert scale < 0.999
    np.testing.assert_allclose(after[1::2] - after[::2], before[1::2] - before[::2], atol=1e-6)


def test_multiple_time_steps(model: Path) -> None:
    """A stiff classical bond in short steps, the model in long ones."""
    _, system, positions = relaxed(molecule(), model, iterations=0)
    system.getForce(0).setForceGroup(1)
    stiff = openmm.HarmonicBondForce()
    stiff.addBond(0, 1, float(np.linalg.norm(positions[0] - positions[1])), 2e5)
    system.addForce(stiff)
    spread = {}
    for name, integrator in {
        "together": openmm.VerletIntegrator(0.001),
        "in turns": openmm.MTSIntegrator(0.001, [(0, 8), (1, 1)]),
    }.items():
        context = context_of(system, positions, integrator)
        context.setVelocitiesToTemperature(100.0, 3)
        energies = []
        for _ in range(80):
            integrator.step(1)
            energies.append(total_energy(context))
        spread[name] = np.std(energies)
    assert spread["in turns"] < 0.5 * spread["together"]

    langevin = openmm.MTSLangevinIntegrator(150.0, 20.0, 0.001, [(0, 4), (1, 1)])
    langevin.setRandomNumberSeed(6)
    context = context_of(system, positions, langevin)
    context.setVelocitiesToTemperature(150.0, 3)
    temperatures = []
    for _ in range(300):
        langevin.step(2)
        kinetic = context.getState(energy=True).getKineticEnergy()._value
        temperatures.append(2.0 * kinetic / (27 * GAS_CONSTANT))
    assert 100.0 < np.mean(temperatures[100:]) < 200.0


def test_constraints_and_one_integrator_after_another(model: Path) -> None:
    _, system, positions = relaxed(molecule(), model, iterations=0)
    length = float(np.linalg.norm(positions[0] - positions[1]))
    system.addConstraint(0, 1, length)
    integrator = openmm.CompoundIntegrator()
    integrator.addIntegrator(openmm.LangevinMiddleIntegrator(200.0, 5.0, 0.0005))
    integrator.addIntegrator(openmm.VerletIntegrator(0.0005))
    context = context_of(system, positions, integrator)
    context.setVelocitiesToTemperature(200.0, 1)
    integrator.step(20)
    integrator.setCurrentIntegrator(1)
    before = total_energy(context)
    integrator.step(20)
    assert total_energy(context) == pytest.approx(before, abs=0.5)
    there = positions_of(context)
    assert np.linalg.norm(there[0] - there[1]) == pytest.approx(length, rel=1e-4)
    assert np.abs(there - positions).max() > 1e-3


@pytest.mark.parametrize(
    ("atoms", "deterministic", "threads"), [(40, False, 1), (600, True, 1), (600, True, 2)]
)
def test_checkpoint_restarts_bitwise(
    tmp_path: Path, model: Path, atoms: int, deterministic: bool, threads: int
) -> None:
    """From 513 atoms on the engine sorts them, unless it shall be deterministic."""
    _, system, positions = simulated(
        liquid(atoms), model, precision="single", deterministic=deterministic, threads=threads
    )
    first = 5 if atoms > 100 else 30

    def fresh() -> openmm.Context:
        integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.0005)
        integrator.setRandomNumberSeed(11)
        return context_of(system, positions, integrator)

    whole = fresh()
    whole.setVelocitiesToTemperature(300.0, 8)
    whole.getIntegrator().step(first)
    (tmp_path / "checkpoint").write_bytes(whole.createCheckpoint())
    whole.getIntegrator().step(first)

    again = fresh()
    again.loadCheckpoint((tmp_path / "checkpoint").read_bytes())
    again.getIntegrator().step(first)
    np.testing.assert_array_equal(positions_of(again), positions_of(whole))
    assert energy_of(again) == energy_of(whole)
    assert not np.array_equal(positions_of(again), positions.value_in_unit(unit.nanometer))


def test_reporters_and_reinitialisation(tmp_path: Path, model: Path) -> None:
    topology, system, positions = relaxed(liquid(), model)
    platform = openmm.Platform.getPlatformByName("Reference")
    simulation = app.Simulation(topology, system, openmm.VerletIntegrator(0.0005), platform)
    simulation.context.setPositions(positions)
    simulation.context.setVelocitiesToTemperature(100.0, 1)
    table = tmp_path / "state.csv"
    simulation.reporters = [
        app.StateDataReporter(str(table), 5, step=True, potentialEnergy=True, totalEnergy=True, density=True),
        app.DCDReporter(str(tmp_path / "trajectory.dcd"), 5),
        app.PDBReporter(str(tmp_path / "trajectory.pdb"), 10),
    ]
    simulation.step(20)
    rows = np.loadtxt(table, delimiter=",")
    assert rows[:, 0].tolist() == [5, 10, 15, 20]
    assert rows[-1, 1] == pytest.approx(energy_of(simulation.context), rel=1e-12)
    written = app.PDBFile(str(tmp_path / "trajectory.pdb"))
    assert written.getNumFrames() == 2
    found = [atom.element.symbol for atom in written.topology.atoms()]
    assert found == liquid().get_chemical_symbols()

    energy, parameter = energy_of(simulation.context), simulation.context.getParameter("symmd_scale")
    simulation.context.reinitialize(preserveState=True)
    assert energy_of(simulation.context) == pytest.approx(energy, rel=1e-12)
    assert parameter == 1.0


def test_metadynamics(model: Path) -> None:
    """OpenMM's own: the bias is that of its hills, and the model's forces are untouched by it."""
    topology, system, positions = relaxed(molecule(), model)
    system.getForce(0).setForceGroup(3)
    distance = openmm.CustomBondForce("r")
    distance.addBond(0, 5)
    length = float(np.linalg.norm(positions[0] - positions[5]))
    variable = app.BiasVariable(distance, 0.2 * length, 3.0 * length, 0.05 * length)
    metadynamics = app.Metadynamics(system, [variable], 300.0, 5.0, 2.0, 5)
    platform = openmm.Platform.getPlatformByName("Reference")
    integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.0005)
    integrator.setRandomNumberSeed(2)
    simulation = app.Simulation(topology, system, integrator, platform)
    simulation.context.setPositions(positions)
    metadynamics.step(simulation, 25)
    assert metadynamics.getFreeEnergy().min()._value < -2.0
    there = positions_of(simulation.context)
    energy, forces = engine_results(model, molecule().numbers, there)
    assert energy_of(simulation.context, groups={3}) == pytest.approx(energy, rel=1e-12)
    assert energy_of(simulation.context) - energy > 2.0
    found = forces_of(simulation.context, groups={3})
    np.testing.assert_allclose(found, forces, atol=1e-9 * np.abs(forces).max())
