"""From structure files to Systems, and the examples that begin with them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
from ase.constraints import FixAtoms, FixBondLength
from scipy.spatial.transform import Rotation

from model_cases import make_config, make_network
from openmm_cases import (
    ELECTRONVOLT,
    SymmdForce,
    app,
    box_of,
    context_of,
    energy_of,
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
from symmd_md._engine import Engine
from symmd_md.analysis.bench_structures import alanine_dipeptide
from symmd_md.errors import DataError, ModelFileError
from symmd_md.export.model_file import write_model_file
from symmd_md.model import ModelStatistics
from symmd_md.models import model_path
from symmd_md.openmm import system_from


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path)


def engine_energy(model: Path, atoms: ase.Atoms) -> float:
    """Of a structure as it is (kJ/mol)."""
    engine = Engine(model, precision="float64", threads=1)
    species = engine.species_of(atoms.numbers)
    found = engine.compute(species, atoms.positions, atoms.cell.array, atoms.pbc.tolist())
    return float(found["energy"]) * ELECTRONVOLT


def skewed_cells() -> dict[str, ase.Atoms]:
    turned = narrow_crystal()
    matrix = Rotation.from_euler("xyz", [0.4, 1.1, -0.7]).as_matrix()
    turned.set_cell(turned.cell.array @ matrix)
    turned.positions = turned.positions @ matrix
    left_handed = turned.copy()
    left_handed.set_cell(left_handed.cell.array[[1, 0, 2]])
    long = narrow_crystal()
    long.set_cell(np.array([[1, 0, 0], [-3, 1, 0], [2, 4, 1]]) @ long.cell.array)
    hexagonal = narrow_crystal()
    hexagonal.set_cell([4.0, 4.0, 5.0, 90.0, 90.0, 120.0])
    return {"turned": turned, "left-handed": left_handed, "long vectors": long, "hexagonal": hexagonal}


@pytest.mark.parametrize("name", ["turned", "left-handed", "long vectors", "hexagonal"])
def test_cells_of_every_shape(model: Path, name: str) -> None:
    """OpenMM takes boxes of one shape alone: the same crystal is brought into it."""
    atoms = skewed_cells()[name]
    _, system, positions = simulated(atoms, model)
    context = context_of(system, positions)
    assert energy_of(context) == pytest.approx(engine_energy(model, atoms), rel=1e-9)
    assert np.linalg.det(box_of(context)) == pytest.approx(atoms.get_volume() * 1e-3, rel=1e-9)
    # Turned, not mirrored.
    found = positions_of(context)
    handedness = [np.linalg.det(place[1:4] - place[0]) for place in (found, atoms.positions / 10.0)]
    assert handedness[0] == pytest.approx(handedness[1], rel=1e-6)


@pytest.mark.parametrize("suffix", ["xyz", "pdb", "cif", "mmcif"])
def test_files(tmp_path: Path, model: Path, suffix: str) -> None:
    atoms = liquid()
    path = tmp_path / f"structure.{suffix}"
    if suffix == "xyz":
        ase.io.write(path, [molecule(), atoms], format="extxyz")
    else:
        topology, _, positions = simulated(atoms, model)
        writer = app.PDBFile if suffix == "pdb" else app.PDBxFile
        with path.open("w") as file:
            writer.writeFile(topology, positions, file)
    found = system_from(path, model, precision="double", threads=1, forceGroup=4)
    assert found.system.getForce(0).getForceGroup() == 4
    assert found.system.usesPeriodicBoundaryConditions()
    elements = [atom.element.symbol for atom in found.topology.atoms()]
    assert elements == atoms.get_chemical_symbols()
    masses = [found.system.getParticleMass(k).value_in_unit(unit.dalton) for k in range(3)]
    np.testing.assert_allclose(masses, atoms.get_masses()[:3], rtol=1e-3)
    # PDB files have three digits.
    tolerance = {"xyz": 1e-7, "pdb": 2e-3, "cif": 1e-3, "mmcif": 1e-3}[suffix]
    context = context_of(found.system, found.positions)
    assert energy_of(context) == pytest.approx(engine_energy(model, atoms), rel=tolerance)


def test_pdb_that_names_atoms_by_their_elements(tmp_path: Path, model: Path) -> None:
    """OpenMM takes atoms of a residue with the same name for one: nine atoms would become three."""
    atoms = molecule()
    atoms.cell, atoms.pbc = None, False
    ase.io.write(tmp_path / "molecule.pdb", atoms)
    topology, system, positions = system_from(tmp_path / "molecule.pdb", model, precision="double")
    assert [atom.element.symbol for atom in topology.atoms()] == atoms.get_chemical_symbols()
    assert system.getNumParticles() == len(atoms)
    energy = energy_of(context_of(system, positions))
    assert energy == pytest.approx(engine_energy(model, atoms), rel=2e-3)


def test_cif_of_a_crystal(tmp_path: Path, model: Path) -> None:
    """Not what biologists mean by the suffix."""
    atoms = narrow_crystal()
    ase.io.write(tmp_path / "crystal.cif", atoms)
    found = system_from(tmp_path / "crystal.cif", model, precision="double", threads=1)
    context = context_of(found.system, found.positions)
    assert energy_of(context) == pytest.approx(engine_energy(model, atoms), rel=1e-4)


def test_masses_and_fixed_atoms_of_ase(tmp_path: Path, model: Path) -> None:
    atoms = liquid()
    masses = atoms.get_masses()
    hydrogens = np.flatnonzero(atoms.numbers == 1)
    masses[hydrogens[:2]] = 2.014
    atoms.set_masses(masses)
    atoms.set_constraint(FixAtoms([3, 5]))
    # Selective dynamics of a POSCAR are the same constraint.
    ase.io.write(tmp_path / "POSCAR", atoms, format="vasp")
    _, of_file, _ = system_from(tmp_path / "POSCAR", model)
    _, system, positions = simulated(atoms, model)
    expected = masses.copy()
    expected[[3, 5]] = 0.0
    found = [system.getParticleMass(k).value_in_unit(unit.dalton) for k in range(40)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert [k for k in range(40) if of_file.getParticleMass(k)._value == 0.0] == [3, 5]
    context = context_of(system, positions)
    before = positions_of(context)
    context.setVelocitiesToTemperature(100.0, 1)
    context.getIntegrator().step(3)
    moved = np.abs(positions_of(context) - before).max(axis=1) > 0.0
    assert np.flatnonzero(~moved).tolist() == [3, 5]


VIRTUAL_SITE = """\
HETATM    1  O   HOH A   1       1.000   1.000   1.000  1.00  0.00           O
HETATM    2  H1  HOH A   1       1.960   1.000   1.000  1.00  0.00           H
HETATM    3  H2  HOH A   1       0.760   1.930   1.000  1.00  0.00           H
HETATM    4  M   HOH A   1       1.100   1.100   1.000  1.00  0.00          EP
END
"""


def test_part_of_a_structure(tmp_path: Path, model: Path) -> None:
    """The rest would fly about without any force, and virtual sites would stand still."""
    with pytest.raises(DataError, match=r"puts all atoms under the model, found atoms=\.\.\., which would"):
        system_from(molecule(), model, atoms=[0, 1])
    message = r"site.pdb: expected an element for every atom, found none for atom 3 \(M of HOH\), as virtual"
    with pytest.raises(DataError, match=message):
        system_from(written(tmp_path / "site.pdb", VIRTUAL_SITE), model)


def test_molecule_in_open_space(tmp_path: Path, model: Path) -> None:
    atoms = molecule()
    ase.io.write(tmp_path / "molecule.xyz", atoms, format="xyz")
    topology, system, positions = system_from(str(tmp_path / "molecule.xyz"), model, precision="double")
    assert topology.getPeriodicBoxVectors() is None
    assert not system.usesPeriodicBoundaryConditions()
    atoms.cell = None
    context = context_of(system, positions)
    assert energy_of(context) == pytest.approx(engine_energy(model, atoms), rel=1e-6)
    np.testing.assert_allclose(forces_of(context).sum(0), 0.0, atol=1e-6)
    bonds = SymmdForce.wrap(system.getForce(0)).getBonds()
    assert bonds == []


def test_bonds_of_a_pdb_file(tmp_path: Path, model: Path) -> None:
    """Water is known to OpenMM, and a barostat then moves it as a whole."""
    lines = ["CRYST1   12.000   12.000   12.000  90.00  90.00  90.00 P 1           1"]
    for k in range(2):
        for j, (name, x, y) in enumerate((("O", 1.0, 1.0), ("H1", 1.96, 1.0), ("H2", 0.76, 1.93))):
            lines.append(
                f"HETATM{3 * k + j + 1:5d}  {name:<3} HOH A{k + 1:4d}    "
                f"{x + 4 * k:8.3f}{y:8.3f}{2.0:8.3f}  1.00  0.00          {name[0]:>2}"
            )
    (tmp_path / "water.pdb").write_text("\n".join([*lines, "END", ""]))
    topology, system, positions = system_from(tmp_path / "water.pdb", model)
    bonds = SymmdForce.wrap(system.getForce(0)).getBonds()
    assert sorted(tuple(sorted(bond)) for bond in bonds) == [(0, 1), (0, 2), (3, 4), (3, 5)]
    context = context_of(system, positions)
    assert [list(group) for group in context.getMolecules()] == [[0, 1, 2], [3, 4, 5]]
    assert topology.getNumResidues() == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "absent.xyz", "absent.xyz: expected a structure file, found nothing"),
        (lambda folder: written(folder / "empty.xyz", ""), "empty.xyz cannot be read as a structure"),
        (lambda folder: written(folder / "wrong.pdb", "no PDB"), "wrong.pdb"),
        (
            lambda folder: ase.Atoms("HH", [[0, 0, 0], [0, 0, 1]], cell=[5, 5, 5], pbc=(True, True, False)),
            r"periodic along three axes or none, found pbc \[True, True, False\]; make all axes periodic",
        ),
        (lambda folder: ase.Atoms("HX", [[0, 0, 0], [0, 0, 1]]), r"atom 1 has no element \(X\); remove it"),
        (
            lambda folder: ase.Atoms("H", cell=[[1, 0, 0], [2, 0, 0], [0, 0, 1]], pbc=True),
            "a periodic structure needs a cell with a volume, found",
        ),
        (
            lambda folder: ase.Atoms("HH", [[0, 0, 0], [0, 0, 1]], constraint=FixBondLength(0, 1)),
            "expected no constraint but FixAtoms, found FixBondLengths, which would be lost; give ase.Atoms",
        ),
        (lambda folder: ase.Atoms("Au"), "knows H, C, O, found Au at atom 0"),
        (lambda folder: ase.Atoms(), "needs at least one atom"),
    ],
    ids=[
        "absent",
        "empty",
        "no pdb",
        "slab",
        "no element",
        "flat cell",
        "constraint",
        "unknown element",
        "no atoms",
    ],
)
def test_refusals(tmp_path: Path, model: Path, make: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        system_from(make(tmp_path), model)  # type: ignore[operator]
    assert not re.search(r"\n", str(caught.value))


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_simulation_from_a_file(tmp_path: Path, model: Path) -> None:
    """The whole way, with OpenMM's own objects."""
    ase.io.write(tmp_path / "liquid.xyz", liquid(), format="extxyz")
    topology, system, positions = system_from(tmp_path / "liquid.xyz", model)
    integrator = openmm.LangevinMiddleIntegrator(
        300 * unit.kelvin, 5 / unit.picosecond, 0.2 * unit.femtosecond
    )
    platform = openmm.Platform.getPlatformByName("CPU")
    simulation = app.Simulation(topology, system, integrator, platform, {"Threads": "1"})
    simulation.context.setPositions(positions)
    simulation.step(5)
    assert np.isfinite(energy_of(simulation.context))


def quiet_model(folder: Path, species: tuple[str, ...]) -> Path:
    """A random network whose forces are too small to move anything within some steps."""
    statistics = ModelStatistics(
        reference_energies=dict.fromkeys(species, -1.0), energy_scale=1e-4, mean_neighbours=9.0
    )
    write_model_file(
        make_network(make_config(species=species), statistics=statistics), folder / "quiet.safetensors", {}
    )
    return folder / "quiet.safetensors"


EXAMPLES = {
    "nve.py": ["liquid.xyz", "--picoseconds", "0.01", "--every", "5"],
    "npt_water.py": ["--edge", "1.3", "--picoseconds", "0.02", "--every", "10"],
    "mlmm.py": ["--padding", "0.3", "--picoseconds", "0.01", "--every", "5"],
}


def run_example(folder: Path, name: str, model: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """In ``folder``, where ``liquid.xyz`` is."""
    ase.io.write(folder / "liquid.xyz", liquid(), format="extxyz")
    script = Path(__file__).resolve().parents[1] / "examples" / "openmm" / name
    return subprocess.run(
        [sys.executable, str(script), model.name, *options, "--threads", "1"],
        cwd=folder,
        env=os.environ | {"OPENMM_CPU_THREADS": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(tmp_path: Path, name: str) -> None:
    if name == "mlmm.py":
        pytest.importorskip("openmmml", reason="pip install 'symmd-md[openmm]' brings openmmml")
    model = quiet_model(tmp_path, ("H", "C", "N", "O"))
    done = run_example(tmp_path, name, model, *EXAMPLES[name])
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    assert len(lines) == 4
    assert lines[-1].startswith("100.0%")
    assert (tmp_path / f"{name.partition('_')[0].removesuffix('.py')}.dcd").stat().st_size > 0


def test_example_ends_where_the_model_does_not_hold_the_structure(tmp_path: Path) -> None:
    """One that was never trained; and one that holds it, with a time step for which nothing does."""
    done = run_example(tmp_path, "nve.py", write_model(tmp_path), *EXAMPLES["nve.py"])
    assert re.match(
        r"the model does not hold this structure: .* found atoms \d+ and \d+ go from [\d.]+ to [\d.]+ Å in a",
        done.stderr,
    )
    assert done.returncode == 1
    assert not done.stdout

    statistics = ModelStatistics(
        reference_energies=dict.fromkeys("HCO", -1.0), energy_scale=0.01, mean_neighbours=9.0
    )
    model = tmp_path / "hot.safetensors"
    write_model_file(make_network(make_config(species=("H", "C", "O")), statistics=statistics), model, {})
    options = ["liquid.xyz", "--picoseconds", "40", "--timestep", "2000", "--every", "1"]
    done = run_example(tmp_path, "nve.py", model, *options)
    assert done.returncode == 1
    assert re.match(
        r"the simulation has blown up: expected less than 1500 K, found \S+ K at step", done.stderr
    )


def test_the_name_of_a_model_that_ships() -> None:
    structure = alanine_dipeptide()
    atoms = ase.Atoms(numbers=structure.numbers, positions=structure.positions)
    topology, system, positions = system_from(atoms, "ala2", precision="double")
    assert SymmdForce.wrap(system.getForce(0)).getModelName() == "ala2"
    expected = engine_energy(model_path("ala2"), atoms)
    assert energy_of(context_of(system, positions)) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ModelFileError, match="what ships: ala2"):
        SymmdForce("ala3", topology)
