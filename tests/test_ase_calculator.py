"""SymmdCalculator: against the network, and in what ASE does with calculators."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase
import ase.build
import ase.io
import numpy as np
import pytest
from ase import units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.phonons import Phonons

from conftest import RandomAtoms
from model_cases import make_config, make_network, predict
from symmd_md.engines.ase import SymmdCalculator
from symmd_md.errors import EngineError, ModelFileError
from symmd_md.export import network_from_model_file, write_model_file
from symmd_md.export.command import run_export
from symmd_md.model import SymmdNetwork
from symmd_md.train import run_config, train
from training_cases import DISTANCE, child_environment, make_frames, run_mapping, write_frames

ELEMENTS = ("H", "C", "O")


@pytest.fixture(scope="module")
def network() -> SymmdNetwork:
    """Two layers with random weights: forces of some eV/Å."""
    return make_network(make_config()).requires_grad_(False)


@pytest.fixture(scope="module")
def path(network: SymmdNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("random") / "model.safetensors"
    write_model_file(network, written, {})
    return written


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was trained on molecules held together by springs, and exported."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_frames(folder / "data.xyz", make_frames(24))
    mapping = run_mapping(data, max_epochs=25, learning_rate=0.02, precision="float32")
    mapping["data"] |= {"train_size": 20, "valid_size": 4}
    train(run_config(mapping), folder / "run")
    return run_export(folder / "run" / "best.ckpt", output=folder / "springs.safetensors").model


@pytest.fixture
def calculator(path: Path) -> SymmdCalculator:
    return SymmdCalculator(path, precision="float64", threads=1)


@pytest.fixture
def crystal(random_crystal: RandomAtoms) -> ase.Atoms:
    """Triclinic, smaller than two cutoffs."""
    return random_crystal(8, ELEMENTS, volume=10.0, least=1.3)


def slab_of(crystal: ase.Atoms) -> ase.Atoms:
    """Periodic along two axes, with vacuum along the third."""
    slab = crystal.copy()
    slab.pbc = (True, True, False)
    slab.cell[2] *= 2.0
    return slab


def voigt(matrix: np.ndarray) -> np.ndarray:
    return np.array([matrix[0, 0], matrix[1, 1], matrix[2, 2], matrix[1, 2], matrix[0, 2], matrix[0, 1]])


# Against the network


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-11), ("float32", 2e-5)])
def test_all_properties_are_those_of_the_network(
    path: Path,
    network: SymmdNetwork,
    crystal: ase.Atoms,
    random_molecule: RandomAtoms,
    precision: str,
    tolerance: float,
) -> None:
    for atoms in (random_molecule(9), crystal, slab_of(crystal)):
        expected = predict(network, atoms)
        atoms.calc = SymmdCalculator(path, precision=precision, threads=1)
        close: Any = {"rtol": 0, "atol": tolerance}
        np.testing.assert_allclose(atoms.get_forces(), expected.forces, **close)
        np.testing.assert_allclose(atoms.get_potential_energies(), expected.atom_energy, **close)
        assert atoms.get_potential_energy() == pytest.approx(float(expected.energy), abs=len(atoms) * 1e-6)
        assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), rel=1e-13)
        assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
        if atoms.cell.rank == 3:
            np.testing.assert_allclose(atoms.get_stress(), voigt(expected.stress[0].numpy()), **close)


def test_no_atoms_have_no_energy(calculator: SymmdCalculator) -> None:
    atoms = ase.Atoms(calculator=calculator)
    assert atoms.get_potential_energy() == 0.0
    assert atoms.get_forces().shape == (0, 3)


def test_forces_and_stress_are_derivatives_of_the_energy(
    calculator: SymmdCalculator, crystal: ase.Atoms
) -> None:
    for atoms in (crystal, slab_of(crystal)):
        atoms.calc = calculator
        numerical = calculate_numerical_forces(atoms, eps=1e-4, iatoms=[0, 3])
        np.testing.assert_allclose(atoms.get_forces()[[0, 3]], numerical, rtol=0, atol=1e-6)
        numerical = calculate_numerical_stress(atoms, eps=1e-5)
        np.testing.assert_allclose(atoms.get_stress(), numerical, rtol=0, atol=1e-7)


def test_pressure_is_the_slope_of_the_energy_over_the_volume(
    calculator: SymmdCalculator, crystal: ase.Atoms
) -> None:
    def scaled(factor: float) -> ase.Atoms:
        atoms = crystal.copy()
        atoms.set_cell(crystal.cell * factor ** (1 / 3), scale_atoms=True)
        atoms.calc = calculator
        return atoms

    step = 1e-4
    for factor in (0.9, 1.0, 1.1):
        smaller, middle, larger = (scaled(factor * (1 + k * step)) for k in (-1, 0, 1))
        slope = larger.get_potential_energy() - smaller.get_potential_energy()
        slope /= larger.get_volume() - smaller.get_volume()
        assert middle.get_stress()[:3].mean() == pytest.approx(slope, abs=1e-7)


# What is computed, and when


def test_only_what_is_asked_for_is_computed(calculator: SymmdCalculator, crystal: ase.Atoms) -> None:
    crystal.calc = calculator
    crystal.get_potential_energy()
    assert set(calculator.results) == {"energy", "free_energy", "energies"}
    crystal.get_forces()
    assert set(calculator.results) == set(SymmdCalculator.implemented_properties)
    known = dict(calculator.results)
    crystal.set_initial_charges(np.ones(len(crystal)))
    crystal.get_stress()
    assert all(calculator.results[name] is value for name, value in known.items())


def test_stress_without_a_volume_is_refused_and_forces_are_not(
    calculator: SymmdCalculator, crystal: ase.Atoms, random_molecule: RandomAtoms
) -> None:
    flat = crystal.copy()
    flat.pbc, flat.cell[2] = (True, True, False), 0.0
    for atoms in (random_molecule(5), flat):
        atoms.calc = calculator
        assert np.isfinite(atoms.get_forces()).all()
        assert "stress" not in calculator.results
        with pytest.raises(
            PropertyNotImplementedError, match=r"stress needs a volume, found the cell .*; give"
        ):
            atoms.get_stress()


def test_every_change_of_a_structure_is_noticed(
    path: Path, calculator: SymmdCalculator, crystal: ase.Atoms
) -> None:
    atoms = crystal
    atoms.calc = calculator

    def move() -> None:
        atoms.positions[2] += 0.3

    def stretch() -> None:
        atoms.set_cell(atoms.cell * 1.05, scale_atoms=True)

    def replace() -> None:
        atoms.numbers[0] = 1 if atoms.numbers[0] != 1 else 8

    def remove() -> None:
        del atoms[[1, 4]]

    def add() -> None:
        atoms.append(ase.Atom("H", atoms.positions[0] + [0.0, 0.0, 1.1]))

    def open_axis() -> None:
        atoms.pbc = (True, False, True)

    seen = [atoms.get_potential_energy()]
    for change in (move, stretch, replace, remove, add, open_axis):
        change()
        fresh = atoms.copy()
        fresh.calc = SymmdCalculator(path, precision="float64", threads=1)
        np.testing.assert_allclose(atoms.get_forces(), fresh.get_forces(), rtol=0, atol=1e-12)
        assert atoms.get_potential_energy() == pytest.approx(fresh.get_potential_energy(), rel=1e-13)
        seen.append(atoms.get_potential_energy())
    assert len({round(energy, 9) for energy in seen}) == len(seen)


def test_what_cannot_be_computed_is_one_sentence_and_the_calculator_goes_on(
    calculator: SymmdCalculator, random_molecule: RandomAtoms
) -> None:
    atoms = random_molecule(4)
    atoms.calc = calculator
    expected = atoms.get_potential_energy()
    wrong = atoms.copy()
    wrong.calc = calculator
    wrong.numbers[0] = 79
    with pytest.raises(
        EngineError, match=r"the model knows H, C, O, found an atom with atomic number 79; use"
    ):
        wrong.get_forces()
    wrong = atoms.copy()
    wrong.calc = calculator
    wrong.positions[1] = np.nan
    with pytest.raises(EngineError, match="finite"):
        wrong.get_forces()
    assert atoms.get_potential_energy() == pytest.approx(expected, rel=1e-13)


# The calculator as an object


def test_parameters_can_be_changed_and_wrong_ones_are_refused(
    path: Path, crystal: ase.Atoms, calculator: SymmdCalculator
) -> None:
    crystal.calc = calculator
    exact = crystal.get_potential_energy()
    assert calculator.set(precision="float32") == {"precision": "float32"}
    assert calculator.results == {}
    assert 0 < abs(crystal.get_potential_energy() - exact) < 1e-4
    for wrong, error, message in (
        ({"precision": "half"}, ValueError, "precision must be float32 or float64, found 'half'"),
        (
            {"cutoff": 5.0},
            TypeError,
            "has the parameters path, precision, threads, skin, device; found 'cutoff'",
        ),
        ({"skin": -1.0}, EngineError, "skin must lie between 0 and 100"),
        ({"path": "absent.pt"}, ModelFileError, "absent.pt: it does not exist"),
    ):
        with pytest.raises(error, match=message):
            calculator.set(**wrong)
        assert calculator.parameters == {
            "path": str(path), "precision": "float32", "threads": 1, "skin": 1.0, "device": "cpu"
        }  # fmt: skip
    with pytest.raises(ModelFileError, match=r"cannot use model file absent.pt: it does not exist"):
        SymmdCalculator("absent.pt")


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda item: pickle.loads(pickle.dumps(item))])
def test_a_copy_computes_the_same_by_itself(
    duplicate: Any, calculator: SymmdCalculator, crystal: ase.Atoms
) -> None:
    crystal.calc = calculator
    forces = crystal.get_forces()
    other = crystal.copy()
    other.calc = duplicate(calculator)
    assert other.calc.engine is not calculator.engine
    assert other.calc.parameters == calculator.parameters
    assert set(other.calc.results) == set(calculator.results)
    other.rattle(0.1)
    crystal.positions = other.positions
    np.testing.assert_allclose(other.get_forces(), crystal.get_forces(), rtol=0, atol=1e-12)
    assert np.abs(forces - crystal.get_forces()).max() > 0.01


def test_a_copy_of_another_model_is_refused(network: SymmdNetwork, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_model_file(network, path, {})
    kept = pickle.dumps(SymmdCalculator(path))
    write_model_file(network, path, {"note": "another"})
    with pytest.raises(ModelFileError, match=r"to hold the model with SHA-256 \w{12}…, found \w{12}…; keep "):
        pickle.loads(kept)


def test_results_are_written_with_the_structure(
    calculator: SymmdCalculator, crystal: ase.Atoms, tmp_path: Path
) -> None:
    crystal.calc = calculator
    expected = crystal.get_forces(), crystal.get_stress(), crystal.get_potential_energy()
    ase.io.write(tmp_path / "frame.traj", crystal)
    again = ase.io.read(tmp_path / "frame.traj")
    np.testing.assert_array_equal(again.get_forces(), expected[0])
    np.testing.assert_array_equal(again.get_stress(), expected[1])
    assert again.get_potential_energy() == expected[2]


# What ASE does with it


def test_an_optimisation_finds_the_minimum_that_was_trained(trained: Path) -> None:
    atoms = make_frames(1)[0]
    atoms.calc = SymmdCalculator(trained, precision="float64", threads=1)
    assert BFGS(atoms, logfile=None).run(fmax=1e-7, steps=100)
    distances = atoms.get_all_distances()[np.triu_indices(3, 1)]
    np.testing.assert_allclose(distances, DISTANCE, rtol=0, atol=0.15)
    assert np.abs(predict(network_from_model_file(trained).double(), atoms).forces.numpy()).max() < 1e-6


class WrongForces(SymmdCalculator):
    """Forces that are wrong by one part in ten thousand."""

    def calculate(self, *arguments: Any, **settings: Any) -> None:
        super().calculate(*arguments, **settings)
        if "forces" in self.results:
            self.results["forces"] = self.results["forces"] * (1 + 1e-4)


def drift(atoms: ase.Atoms, steps: int, femtoseconds: float) -> float:
    """Range of the total energy over that of the potential energy, in dynamics that starts at 600 K."""
    spread = np.sqrt(600.0 * units.kB * atoms.get_masses())[:, None]
    atoms.set_momenta(spread * np.random.default_rng(5).standard_normal((len(atoms), 3)))
    totals: list[float] = []
    potentials: list[float] = []

    def record() -> None:
        potentials.append(atoms.get_potential_energy())
        totals.append(potentials[-1] + atoms.get_kinetic_energy())

    dynamics = VelocityVerlet(atoms, timestep=femtoseconds * units.fs)
    dynamics.attach(record)
    dynamics.run(steps)
    return float(np.ptp(totals) / np.ptp(potentials))


def test_dynamics_conserve_the_energy_and_would_not_with_forces_wrong_by_1e_4(trained: Path) -> None:
    bound = 4e-5
    start = make_frames(1)[0]
    for kind, conserves in ((SymmdCalculator, True), (WrongForces, False)):
        atoms = start.copy()
        atoms.calc = kind(trained, precision="float64", threads=1)
        assert (drift(atoms, steps=600, femtoseconds=0.05) < bound) is conserves


def test_dynamics_in_single_precision_conserve_the_energy(trained: Path) -> None:
    atoms = make_frames(1)[0]
    atoms.calc = SymmdCalculator(trained, threads=1)
    assert drift(atoms, steps=600, femtoseconds=0.05) < 1e-4


def test_force_constants_of_a_crystal_have_its_symmetries(
    calculator: SymmdCalculator, tmp_path: Path
) -> None:
    atoms = ase.build.bulk("CO", crystalstructure="rocksalt", a=3.4)
    phonons = Phonons(atoms, calculator, supercell=(3, 3, 3), delta=1e-3, name=tmp_path / "phonon")
    phonons.run()
    phonons.read(symmetrize=0)
    constants = phonons.get_force_constant().reshape(3, 3, 3, 6, 6)
    size = np.abs(constants).max()
    assert size > 0.1
    back = np.roll(np.flip(constants, (0, 1, 2)), 1, (0, 1, 2)).swapaxes(-1, -2)
    np.testing.assert_allclose(constants, back, rtol=0, atol=1e-5 * size)
    # Moving the whole crystal costs nothing, and cubic sites have isotropic springs.
    total = constants.sum((0, 1, 2))
    np.testing.assert_allclose(total[:, :3] + total[:, 3:], 0.0, rtol=0, atol=1e-5 * size)
    own = constants[0, 0, 0, :3, :3]
    np.testing.assert_allclose(own, own[0, 0] * np.eye(3), rtol=0, atol=1e-5 * size)


# Imports


def run_python(code: str, absent: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a child process in which the packages ``absent`` are not installed."""
    script = (
        "import sys, importlib.abc\n"
        "class Absent(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {set(absent)!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n" + code
    )
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=child_environment()
    )


def test_the_calculator_needs_no_torch(path: Path) -> None:
    done = run_python(
        "import ase.build\n"
        "from symmd_md.engines.ase import SymmdCalculator\n"
        "atoms = ase.build.molecule('H2O')\n"
        f"atoms.calc = SymmdCalculator({str(path)!r})\n"
        "print(atoms.get_forces().shape)\n",
        absent=("torch", "e3nn", "vesin", "yaml", "rich"),
    )
    assert done.stdout == "(3, 3)\n", done.stderr


def test_without_ase_the_import_says_how_to_get_it() -> None:
    done = run_python("import symmd_md.engines.ase\n", absent=("ase",))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: SymmdCalculator needs the Python package 'ase', which is not installed; "
        "install it with: pip install ase"
    )
