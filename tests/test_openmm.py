"""SymmdForce against ASE, LAMMPS and the engine: energies, forces, subsets, the scale, running Contexts."""

from __future__ import annotations

from pathlib import Path

import ase
import numpy as np
import pytest

import lammps_cases
from openmm_cases import (
    ELECTRONVOLT,
    HOST_PLATFORMS,
    PLATFORMS,
    SymmdForce,
    context_of,
    energy_of,
    engine_results,
    forces_of,
    liquid,
    molecule,
    narrow_crystal,
    openmm,
    positions_of,
    simulated,
    unit,
    write_model,
)
from symmd_md.engines.ase import SymmdCalculator

STRUCTURES = {"liquid": liquid(), "molecule": molecule(), "narrow triclinic": narrow_crystal()}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", STRUCTURES)
def test_same_as_the_ase_calculator(model: Path, name: str, platform: str) -> None:
    atoms = STRUCTURES[name].copy()
    context = context_of(*simulated(atoms, model)[1:], platform=platform)
    atoms.calc = SymmdCalculator(model, precision="float64", threads=1)
    np.testing.assert_allclose(energy_of(context) / ELECTRONVOLT, atoms.get_potential_energy(), rtol=1e-9)
    expected = atoms.get_forces()
    found = forces_of(context) / ELECTRONVOLT / 10.0
    np.testing.assert_allclose(found, expected, atol=1e-9 * np.abs(expected).max())


@lammps_cases.needs_lammps
@pytest.mark.parametrize(("name", "boundary"), [("liquid", "p p p"), ("molecule", "s s s")])
def test_same_as_lammps(tmp_path: Path, model: Path, name: str, boundary: str) -> None:
    atoms = STRUCTURES[name]
    data = lammps_cases.write_data(tmp_path, "atoms", atoms)
    script = lammps_cases.setup(data, model.name, boundary)
    script += lammps_cases.THERMO + lammps_cases.DUMP_FORCES + "run 0\n"
    energy = lammps_cases.run(tmp_path, script).table["PotEng"][0]
    forces = lammps_cases.dumped(tmp_path)[0][:, 1:]
    context = context_of(*simulated(atoms, model)[1:])
    np.testing.assert_allclose(energy_of(context) / ELECTRONVOLT, energy, rtol=1e-9)
    found = forces_of(context) / ELECTRONVOLT / 10.0
    np.testing.assert_allclose(found, forces, atol=1e-9 * np.abs(forces).max())


def test_precisions(model: Path) -> None:
    energies, forces = {}, {}
    for precision in ("single", "mixed", "double"):
        context = context_of(*simulated(liquid(), model, precision=precision)[1:])
        energies[precision], forces[precision] = energy_of(context), forces_of(context)
    assert energies["single"] == energies["mixed"] != energies["double"]
    np.testing.assert_array_equal(forces["single"], forces["mixed"])
    np.testing.assert_allclose(energies["mixed"], energies["double"], rtol=1e-5)
    largest = np.abs(forces["double"]).max()
    np.testing.assert_allclose(forces["mixed"], forces["double"], atol=1e-5 * largest)


@pytest.mark.parametrize("name", ["molecule", "narrow triclinic"])
def test_forces_are_differences_of_the_energy(model: Path, name: str) -> None:
    context = context_of(*simulated(STRUCTURES[name], model)[1:])
    forces, positions, step = forces_of(context), positions_of(context), 1e-5
    for particle in (0, 3):
        for axis in range(3):
            energies = []
            for side in (1, -1):
                moved = positions.copy()
                moved[particle, axis] += side * step
                context.setPositions(moved)
                energies.append(energy_of(context))
            difference = -(energies[0] - energies[1]) / (2 * step)
            np.testing.assert_allclose(
                difference, forces[particle, axis], rtol=1e-6, atol=1e-6 * np.abs(forces).max()
            )


def test_another_box_or_parameter_is_noticed_at_the_same_positions(model: Path) -> None:
    """What was computed last is kept, but only for what it was computed for."""
    atoms = liquid()
    context = context_of(*simulated(atoms, model)[1:])
    positions, energy, forces = positions_of(context), energy_of(context), forces_of(context)
    box = np.diag(atoms.cell.lengths() / 10.0 * 1.02)
    context.setPeriodicBoxVectors(*box)
    expected = engine_results(model, atoms.numbers, positions, box)
    np.testing.assert_allclose(energy_of(context), expected[0], rtol=1e-12)
    np.testing.assert_allclose(forces_of(context), expected[1], rtol=1e-12, atol=1e-9)
    assert abs(energy_of(context) - energy) > 1e-3
    context.setPeriodicBoxVectors(*np.diag(atoms.cell.lengths() / 10.0))
    assert energy_of(context) == energy
    # Forces after an energy without forces.
    np.testing.assert_array_equal(forces_of(context), forces)
    context.setParameter("symmd_scale", 0.5)
    assert energy_of(context) == 0.5 * energy


def test_results_that_are_kept_are_those_of_their_positions(model: Path) -> None:
    """To and fro, as trials of a barostat go, with a structure in between that cannot be computed."""
    _, system, positions = simulated(molecule(), model)
    nanometres = positions.value_in_unit(unit.nanometer)
    places = [scale * nanometres for scale in (1.0, 1.02, 1.05)]
    expected = [engine_results(model, molecule().numbers, place) for place in places]
    coinciding = nanometres.copy()
    coinciding[2] = coinciding[3]
    context = context_of(system, positions)
    for index in (0, 1, 0, 1, 2, 1, 0, 0, None, 0, None, 2, 2, 1):
        context.setPositions(coinciding if index is None else places[index])
        if index is None:
            with pytest.raises(openmm.OpenMMException, match="particles 2 and 3"):
                energy_of(context)
            continue
        energy, forces = expected[index]
        assert energy_of(context) == pytest.approx(energy, rel=1e-13)
        np.testing.assert_allclose(forces_of(context), forces, atol=1e-11 * np.abs(forces).max())


def system_with_two_kinds(model: Path, **settings: object) -> tuple[openmm.System, np.ndarray, list[int]]:
    """A liquid under a classical force, of which some atoms are also under the model."""
    topology, system, positions = simulated(liquid(), model)
    system.removeForce(0)
    chosen = [39, 21, 20, 18, 15, 12, 9, 6, 3, 0]  # any order
    classical = openmm.HarmonicBondForce()
    for k in range(39):
        classical.addBond(k, k + 1, 0.3, 20.0)
    classical.setForceGroup(1)
    system.addForce(classical)
    system.addForce(
        SymmdForce(model, topology, atoms=chosen, precision="double", threads=1, forceGroup=2, **settings)
    )
    return system, positions.value_in_unit(unit.nanometer), chosen


@pytest.mark.parametrize("platform", PLATFORMS)
def test_subset_beside_a_classical_force(model: Path, platform: str) -> None:
    atoms = liquid()
    system, positions, chosen = system_with_two_kinds(model)
    context = context_of(system, positions, platform=platform)
    box = atoms.cell.array / 10.0
    energy, forces = engine_results(model, atoms.numbers[chosen], positions[chosen], box)
    np.testing.assert_allclose(energy_of(context, groups={2}), energy, rtol=1e-9)
    found = forces_of(context, groups={2})
    np.testing.assert_allclose(found[chosen], forces, atol=1e-9 * np.abs(forces).max())
    others = np.setdiff1d(np.arange(40), chosen)
    assert not found[others].any()
    whole, classical = energy_of(context), energy_of(context, groups={1})
    np.testing.assert_allclose(whole, classical + energy, rtol=1e-6)
    assert np.abs(forces_of(context) - found - forces_of(context, groups={1})).max() < 1e-3


@pytest.mark.parametrize("platform", HOST_PLATFORMS)
def test_scale_and_its_derivative(model: Path, platform: str) -> None:
    topology, system, positions = simulated(molecule(), model)
    system.removeForce(0)
    force = SymmdForce(model, topology, precision="double", threads=1, scaleParameter="lambda_model")
    force.addEnergyParameterDerivative("lambda_model")
    assert force.getNumEnergyParameterDerivatives() == 1
    assert force.getEnergyParameterDerivativeName(0) == "lambda_model"
    system.addForce(force)
    context = context_of(system, positions, platform=platform)
    assert dict(context.getParameters()) == {"lambda_model": 1.0}
    energy, forces = energy_of(context), forces_of(context)
    for scale in (0.0, 0.3, 1.0):
        context.setParameter("lambda_model", scale)
        assert energy_of(context) == pytest.approx(scale * energy, rel=1e-14)
        np.testing.assert_allclose(forces_of(context), scale * forces, rtol=1e-14)
        for _ in range(2):  # asked again, it is not added up
            state = context.getState(parameterDerivatives=True, forces=True)
            assert dict(state.getEnergyParameterDerivatives()) == {
                "lambda_model": pytest.approx(energy, rel=1e-12)
            }


def test_derivative_through_a_collective_variable(model: Path) -> None:
    """The way of platforms whose derivatives the force cannot reach."""
    topology, system, positions = simulated(molecule(), model)
    system.removeForce(0)
    switched = openmm.CustomCVForce("switch*model")
    switched.addGlobalParameter("switch", 0.25)
    switched.addEnergyParameterDerivative("switch")
    switched.addCollectiveVariable("model", SymmdForce(model, topology, precision="double", threads=1))
    system.addForce(switched)
    context = context_of(system, positions)
    energy, _ = engine_results(model, molecule().numbers, positions.value_in_unit(unit.nanometer))
    assert energy_of(context) == pytest.approx(0.25 * energy, rel=1e-12)
    state = context.getState(parameterDerivatives=True)
    assert state.getEnergyParameterDerivatives()["switch"] == pytest.approx(energy, rel=1e-12)


def test_running_context_takes_another_model_precision_and_atoms(tmp_path: Path, model: Path) -> None:
    topology, system, positions = simulated(molecule(), model)
    numbers, nanometres = molecule().numbers, positions.value_in_unit(unit.nanometer)
    context = context_of(system, positions)
    force = SymmdForce.wrap(system.getForce(0))
    other = write_model(tmp_path, "three")
    before = energy_of(context)
    force.setModel(other)
    assert energy_of(context) == before  # nothing happens without being told
    force.updateParametersInContext(context)
    expected = engine_results(other, numbers, nanometres)[0]
    assert energy_of(context) == pytest.approx(expected, rel=1e-12)
    assert expected != pytest.approx(before, rel=1e-3)

    force.setPrecision("single")
    force.updateParametersInContext(context)
    assert energy_of(context) != pytest.approx(expected, rel=1e-12)
    assert energy_of(context) == pytest.approx(expected, rel=1e-5)

    force.setPrecision("double")
    force.setAtoms(topology, [1, 4, 2])
    force.updateParametersInContext(context)
    few = engine_results(other, numbers[[1, 4, 2]], nanometres[[1, 4, 2]])
    assert energy_of(context) == pytest.approx(few[0], rel=1e-12)
    assert not forces_of(context)[[0, 3, 5, 6, 7, 8]].any()


def test_threads_do_not_matter_beyond_rounding(model: Path) -> None:
    one, two = (context_of(*simulated(liquid(), model, threads=threads)[1:]) for threads in (1, 2))
    assert energy_of(one) == pytest.approx(energy_of(two), rel=1e-12)


def test_two_contexts_of_one_system_do_not_see_each_other(model: Path) -> None:
    _, system, positions = simulated(molecule(), model)
    first, second = context_of(system, positions), context_of(system, positions)
    energy = energy_of(first)
    second.setPositions(1.05 * positions.value_in_unit(unit.nanometer))
    second.setParameter("symmd_scale", 2.0)
    assert energy_of(second) != energy
    assert energy_of(first) == energy


def test_lone_atom_has_its_reference_energy(model: Path) -> None:
    atoms = ase.Atoms("C", positions=[[1.0, -2.0, 3.0]])
    context = context_of(*simulated(atoms, model)[1:])
    energy, _ = engine_results(model, [6], atoms.positions / 10.0)
    assert energy_of(context) == pytest.approx(energy, rel=1e-12)
    assert not forces_of(context).any()
