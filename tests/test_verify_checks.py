"""Each check of ``symmd verify`` holds for a right potential and fails for one that breaks its subject."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ase
import numpy as np
import pytest

from symmd_md.errors import DataError
from symmd_md.molecules import alanine_dipeptide_positions
from symmd_md.verify import dynamics, structures
from symmd_md.verify.checks import Answer, Check, Potential, Yardstick, compared
from symmd_md.verify.cutoff import cutoff_checks
from symmd_md.verify.derivatives import central_atoms, derivative_checks, jacobian_check
from symmd_md.verify.determinism import determinism_checks
from symmd_md.verify.symmetry import size_checks, symmetry_checks
from verify_cases import (
    CUTOFF,
    UNSYMMETRIC,
    AsCalculator,
    Pairs,
    bent,
    crystal,
    molecule,
    swirling,
    truncated,
    with_energy,
    with_forces,
    yardstick_of,
)

STRUCTURES = {"molecule": molecule(), "crystal": crystal()}
slab = ase.Atoms("CHCH", positions=molecule().positions[:4], cell=np.eye(3) * 4.5, pbc=(True, True, False))


def failed(checks: list[Check]) -> set[str]:
    return {check.name for check in checks if not check.held}


@pytest.mark.parametrize("measured", [math.nan, math.inf, None, 1.1])
def test_what_is_no_number_below_the_bound_fails(measured: float | None) -> None:
    check = Check("group", "name", "float64", "energy", measured, 1.0, "eV")
    assert not check.held
    assert check.share > 1.0


def test_bounds_that_are_no_numbers_pass_nothing() -> None:
    assert Check("group", "name", "float64", "energy", 1.0, 1.0, "eV").held
    assert not Check("group", "name", "float64", "energy", 1.0, math.inf, "eV").held
    assert not Check("group", "name", "float64", "energy", 1.0, math.nan, "eV").held
    assert Check("group", "name", "float64", "all bits", 0.0, 0.0, "eV").held
    assert Check("group", "name", "float64", "all bits", 1e-300, 0.0, "eV").share == math.inf


@pytest.mark.parametrize("quantity", ["energy", "forces", "virial"])
@pytest.mark.parametrize(("precision", "error"), [("float64", 2e-8), ("float32", 1e-2)])
def test_agreement_is_of_every_quantity(quantity: str, precision: str, error: float) -> None:
    atoms = molecule()
    answer = Pairs()(atoms)
    yardstick = yardstick_of(Pairs(), atoms)
    assert all(check.held for check in compared("g", "n", precision, answer, answer, yardstick))
    wrong = {
        "energy": replace(answer, energy=answer.energy + len(atoms) * error),
        "forces": replace(answer, forces=answer.forces + np.eye(len(atoms), 3) * error),
        "virial": replace(answer, virial=answer.virial + 10.0 * error * np.eye(3)),
    }
    checks = compared("g", "n", precision, answer, wrong[quantity], yardstick)
    assert {check.quantity for check in checks if not check.held} == {quantity}
    # Bounds of single precision have the units that the table says.
    if precision == "float32":
        assert {check.unit for check in checks} == {"eV/atom", "eV/Å", "eV"}


def test_agreement_refuses_other_shapes_and_nan() -> None:
    atoms = molecule()
    answer = Pairs()(atoms)
    yardstick = yardstick_of(Pairs(), atoms)
    for forces in (answer.forces[:-1], np.full_like(answer.forces, np.nan)):
        checks = compared("g", "n", "float64", answer, replace(answer, forces=forces), yardstick)
        assert [check.held for check in checks] == [True, False, True]


def test_reference_energies_do_not_hide_errors() -> None:
    """Energies of −10⁴ eV: an error of 10⁻⁵ eV/atom stays one."""
    atoms = molecule()
    learned = Pairs()(atoms)
    shift = np.full(len(atoms), -1e4)
    answer = Answer(learned.energy + shift.sum(), learned.forces, learned.atom_energy + shift, learned.virial)
    yardstick = Yardstick(answer, shift, 1.0, CUTOFF)
    wrong = replace(answer, energy=answer.energy + 1e-5 * len(atoms))
    for precision in ("float64", "float32"):
        assert not compared("g", "n", precision, answer, wrong, yardstick)[0].held


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_right_potential_passes_everything(name: str) -> None:
    atoms = STRUCTURES[name]
    yardstick = yardstick_of(Pairs(), atoms)
    checks = derivative_checks(Pairs(), atoms, yardstick)
    checks.append(jacobian_check(Pairs(), atoms))
    checks += symmetry_checks(Pairs(), atoms, yardstick, "float64")
    checks += size_checks(Pairs(), atoms, CUTOFF, yardstick, "float64")
    checks += cutoff_checks(Pairs(), atoms, [CUTOFF], yardstick)
    checks += determinism_checks(lambda threads: Pairs(), atoms, yardstick, "float64")
    assert len(checks) > 20
    assert not failed(checks)


def test_a_slab_is_repeated_and_doubled() -> None:
    yardstick = yardstick_of(Pairs(), slab)
    checks = size_checks(Pairs(), slab, CUTOFF, yardstick, "float64")
    assert {check.name for check in checks} == {"box repeated", "two copies far apart"}
    assert not failed(checks)


@pytest.mark.parametrize("name", STRUCTURES)
def test_forces_that_are_not_the_gradient_fail(name: str) -> None:
    atoms = STRUCTURES[name]
    potential = with_forces(lambda atoms, forces: (1.0 + 1e-5) * forces)
    checks = derivative_checks(potential, atoms, yardstick_of(Pairs(), atoms))
    assert failed(checks) == {"forces = −dE/dr"}


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_virial_that_is_not_the_derivative_fails(name: str) -> None:
    atoms = STRUCTURES[name]

    def potential(atoms: ase.Atoms) -> Answer:
        answer = Pairs()(atoms)
        return replace(answer, virial=(1.0 + 1e-5) * answer.virial)

    checks = derivative_checks(potential, atoms, yardstick_of(Pairs(), atoms))
    assert failed(checks) == {"virial = −dE/dε"}


def test_forces_without_an_energy_have_an_asymmetric_jacobian() -> None:
    assert jacobian_check(Pairs(), molecule()).measured < 1e-8
    check = jacobian_check(with_forces(swirling), molecule())
    assert not check.held
    assert check.measured > 1e-4
    # It is a gradient of another energy: the Jacobian does not mind, the comparison with the energy does.
    assert jacobian_check(with_forces(lambda atoms, forces: 2.0 * forces), molecule()).held


def test_large_structures_are_differentiated_in_the_middle() -> None:
    atoms = crystal().repeat((3, 3, 3))
    chosen = central_atoms(atoms)
    assert len(chosen) == len(set(chosen.tolist())) == 32
    distances = atoms.get_distances(chosen[0], range(len(atoms)), mic=True)
    assert distances[chosen].max() <= np.delete(distances, chosen).min()
    check = jacobian_check(Pairs(), atoms)
    assert check.held
    assert check.note == "32 of 162 atoms"


@pytest.mark.parametrize("name", UNSYMMETRIC)
def test_each_symmetry_is_looked_at(name: str) -> None:
    atoms = molecule()
    yardstick = yardstick_of(Pairs(), atoms)
    assert failed(symmetry_checks(UNSYMMETRIC[name], atoms, yardstick, "float64")) == {name}
    assert failed(symmetry_checks(UNSYMMETRIC[name], atoms, yardstick, "float32")) == {name}


def test_forces_that_do_not_turn_fail() -> None:
    atoms = molecule()
    potential = with_forces(lambda atoms, forces: forces + np.array([0.0, 0.0, 1e-3]))
    checks = symmetry_checks(potential, atoms, yardstick_of(Pairs(), atoms), "float64")
    assert {(check.name, check.quantity) for check in checks if not check.held} == {
        ("rotation", "forces"),
        ("inversion", "forces"),
    }


@pytest.mark.parametrize("name", STRUCTURES)
def test_energies_that_do_not_add_up_fail(name: str) -> None:
    atoms = STRUCTURES[name]
    yardstick = yardstick_of(Pairs(), atoms)
    potential = with_energy(lambda atoms: 1e-4 * len(atoms) ** 2)
    assert failed(size_checks(potential, atoms, CUTOFF, yardstick, "float64"))
    assert not failed(symmetry_checks(potential, atoms, yardstick, "float64"))


@pytest.mark.parametrize(
    ("pair", "quantities"), [(truncated, {"energy", "forces"}), (bent, {"forces"})], ids=["jump", "kink"]
)
@pytest.mark.parametrize("name", STRUCTURES)
def test_jumps_at_the_cutoff_fail(
    name: str, pair: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], quantities: set[str]
) -> None:
    atoms = STRUCTURES[name]
    checks = cutoff_checks(Pairs(pair), atoms, [CUTOFF], yardstick_of(Pairs(), atoms))
    assert {check.name for check in checks} == {"C within 3 Å", "H within 3 Å", "a copy within 3 Å"}
    for check in checks:
        assert check.held == (check.quantity not in quantities), check
    # Where nothing ends nothing jumps, though energies and forces have slopes.
    assert not failed(cutoff_checks(Pairs(pair), atoms, [0.9 * CUTOFF], yardstick_of(Pairs(), atoms)))


class Forgetful:
    """Every answer is a little different from the one before."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, atoms: ase.Atoms) -> Answer:
        self.calls += 1
        answer = Pairs()(atoms)
        return replace(answer, forces=answer.forces * (1.0 + 1e-13 * self.calls))


def test_answers_that_depend_on_what_was_computed_before_fail() -> None:
    atoms = molecule()
    checks = determinism_checks(lambda threads: Forgetful(), atoms, yardstick_of(Pairs(), atoms), "float64")
    assert failed(checks) == {"twice on 1 thread", "twice on 2 threads"}


def test_answers_that_depend_on_the_threads_fail() -> None:
    atoms = molecule()

    def fresh(threads: int) -> Potential:
        return with_energy(lambda atoms: 1e-3 * threads)

    checks = determinism_checks(fresh, atoms, yardstick_of(Pairs(), atoms), "float64")
    assert failed(checks) == {"2 threads as 1"}


def test_drift_is_the_slope_beside_the_fluctuation() -> None:
    times = np.linspace(0.0, 2.0, 1001)
    waves = 0.02 * np.sin(600.0 * times)
    for slope, held in ((0.05, True), (-0.05, True), (0.2, False), (-0.2, False)):
        energies = 22e-3 * (-4000.0 + slope * times + waves)  # eV of 22 atoms
        check = dynamics.drift_check("engine", "float32", (times, energies), 22)
        assert check.held == held
        assert check.measured == pytest.approx(abs(slope), rel=0.02)
        assert check.unit == "meV/atom/ps"
        assert check.note == "fluctuation 0.014 meV/atom in 2 ps"
    # A short run cannot tell as little: its energy may change by 0.1 meV/atom.
    for change, held in ((0.09, True), (0.11, False)):
        series = times / 10.0, 22e-3 * change * times / 2.0
        check = dynamics.drift_check("engine", "float32", series, 22)
        assert check.bound == pytest.approx(0.5)
        assert check.held == held
    assert not dynamics.drift_check("engine", "float32", (times[:2], waves[:2]), 22).held
    waves[40] = np.nan
    assert not dynamics.drift_check("engine", "float32", (times, waves), 22).held


def test_dynamics_with_forces_without_an_energy_drift() -> None:
    atoms = molecule()
    run = dynamics.prepare(atoms, AsCalculator(Pairs()), steps=400)
    assert run.time_step == dynamics.TIME_STEP
    times, energies = dynamics.in_ase(run, AsCalculator(Pairs()))
    assert times[-1] == pytest.approx(400 * run.time_step)
    assert len(times) == len(energies) == 101
    assert dynamics.drift_check("ASE", "float64", (times, energies), len(atoms)).held
    series = dynamics.in_ase(run, AsCalculator(with_forces(swirling)))
    assert not dynamics.drift_check("ASE", "float64", series, len(atoms)).held


def test_relaxing_ends_before_atoms_meet() -> None:
    """A potential that pulls all atoms into one place."""
    atoms = molecule()
    pulling = with_forces(lambda atoms, forces: -5.0 * (atoms.positions - atoms.positions.mean(axis=0)))
    run = dynamics.prepare(atoms, AsCalculator(pulling), steps=4)
    assert dynamics._closest(run.atoms) >= min(dynamics.TOO_CLOSE, dynamics._closest(atoms))


def test_structures_for_models_of_any_elements() -> None:
    molecule_of_ala2 = structures.subject_of(["H", "C", "N", "O"], None)
    assert molecule_of_ala2.atoms.get_chemical_formula() == "C6H12N2O2"
    moved = molecule_of_ala2.atoms.positions - alanine_dipeptide_positions()
    assert 0.02 < np.std(moved) < 0.04
    assert "alanine dipeptide" in molecule_of_ala2.description
    assert "jiggled by 0.03 Å" in molecule_of_ala2.description

    metal = structures.subject_of(["Cu", "Au"], None)
    assert set(metal.atoms.get_chemical_symbols()) == {"Cu", "Au"}
    assert dynamics._closest(metal.atoms) > 0.8
    assert "Cu for C" in metal.description
    again = structures.subject_of(["Cu", "Au"], None)
    np.testing.assert_array_equal(again.atoms.positions, metal.atoms.positions)

    pytest.importorskip("torch", reason="boxes of water are made with the neighbour list of the training")
    water = structures.subject_of(["H", "O"], None)
    assert water.atoms.get_chemical_formula() == "H64O32"
    assert water.atoms.pbc.all()


@pytest.mark.parametrize("atoms", [crystal(), slab, molecule()], ids=["crystal", "slab", "molecule"])
def test_the_form_for_openmm_and_lammps_is_the_same_structure(atoms: ase.Atoms) -> None:
    turned = structures.in_standard_form(atoms)
    cell = turned.cell.array
    np.testing.assert_allclose(cell, np.tril(cell), atol=1e-14)
    assert turned.pbc.tolist() == atoms.pbc.tolist()
    before, after = Pairs()(atoms), Pairs()(turned)
    assert after.energy == pytest.approx(before.energy, rel=1e-12)
    np.testing.assert_allclose(np.linalg.norm(after.forces, axis=1), np.linalg.norm(before.forces, axis=1))


def test_one_atom_is_not_enough(tmp_path: Path) -> None:
    path = tmp_path / "one.xyz"
    ase.Atoms("C").write(path)
    with pytest.raises(DataError, match="expected at least two atoms, found 1"):
        structures.subject_of(["C"], path)
