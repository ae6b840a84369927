"""The potential "symmd" of openmmml: whole systems, ML/MM with link atoms, interpolation."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from openmm_cases import (
    app,
    context_of,
    energy_of,
    engine_results,
    forces_of,
    liquid,
    openmm,
    positions_of,
    simulated,
    unit,
    write_model,
)

openmmml = pytest.importorskip(
    "openmmml", reason="openmmml is not installed; pip install 'symmd-md[openmm]' brings it"
)
MLPotential = openmmml.MLPotential

CHAIN = "CCCC" + "H" * 4
"""One molecule, without all of its hydrogens; bonds of the carbons in turn, one hydrogen at each."""
BONDS = [(0, 1), (1, 2), (2, 3), (0, 4), (1, 5), (2, 6), (3, 7)]
LEARNED = [0, 1, 4, 5]
"""Up to the bond 1-2, which is cut."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path)


def solvated(periodic: bool) -> tuple[app.Topology, openmm.System, np.ndarray]:
    """The chain and two molecules of water under a small classical force field; positions in nm."""
    topology = app.Topology()
    chain = topology.addChain()
    residue = topology.addResidue("CHN", chain)
    atoms = [topology.addAtom(f"{s}{k}", app.Element.getBySymbol(s), residue) for k, s in enumerate(CHAIN)]
    for first, second in BONDS:
        topology.addBond(atoms[first], atoms[second])
    positions = [[0.13 * k, 0.08 * (k % 2), 0.01 * k] for k in range(4)]
    positions += [[x, y + (0.105 if k % 2 else -0.105), z] for k, (x, y, z) in enumerate(positions)]
    for k in range(2):
        residue = topology.addResidue("HOH", chain)
        oxygen = topology.addAtom("O", app.element.oxygen, residue)
        place = np.array([0.1 + 0.2 * k, 0.42, 0.1 * k])
        positions.append(place.tolist())
        for side in (1, -1):
            hydrogen = topology.addAtom("H", app.element.hydrogen, residue)
            topology.addBond(oxygen, hydrogen)
            positions.append((place + np.array([0.06 * side, 0.075, 0.01])).tolist())
    system = openmm.System()
    bonded, nonbonded = openmm.HarmonicBondForce(), openmm.NonbondedForce()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
        nonbonded.addParticle(0.1 * (-1) ** atom.index, 0.2, 0.3)
    pairs = [(bond.atom1.index, bond.atom2.index) for bond in topology.bonds()]
    for first, second in pairs:
        bonded.addBond(first, second, 0.12, 1e5)
    nonbonded.createExceptionsFromBonds(pairs, 0.8, 0.5)
    if periodic:
        topology.setPeriodicBoxVectors(np.diag([2.1, 2.0, 2.2]) * unit.nanometer)
        system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())
        nonbonded.setNonbondedMethod(openmm.NonbondedForce.PME)
        nonbonded.setCutoffDistance(0.9)
    system.addForce(bonded)
    system.addForce(nonbonded)
    return topology, system, np.array(positions)


def placed(system: openmm.System, positions: np.ndarray) -> openmm.Context:
    """A Context in which virtual sites are where they belong."""
    missing = system.getNumParticles() - len(positions)
    context = context_of(system, np.concatenate([positions, np.zeros((missing, 3))]))
    context.computeVirtualSites()
    return context


def test_whole_system(model: Path) -> None:
    topology, _, positions = simulated(liquid(), model)
    potential = MLPotential("symmd", modelPath=str(model))
    system = potential.createSystem(topology, precision="double", threads=1)
    nanometres = positions.value_in_unit(unit.nanometer)
    expected = engine_results(model, liquid().numbers, nanometres, liquid().cell.array / 10.0)
    context = context_of(system, positions)
    assert energy_of(context) == pytest.approx(expected[0], rel=1e-9)
    np.testing.assert_allclose(forces_of(context), expected[1], atol=1e-9 * np.abs(expected[1]).max())


@pytest.mark.parametrize("periodic", [False, True])
def test_part_of_a_system_with_a_link_atom(model: Path, periodic: bool) -> None:
    topology, classical, positions = solvated(periodic)
    potential = MLPotential("symmd", modelPath=model)
    mixed = potential.createMixedSystem(topology, classical, LEARNED, forceGroup=5, precision="double")
    assert mixed.getNumParticles() == classical.getNumParticles() + 1
    context = placed(mixed, positions)
    there = positions_of(context)
    box = np.diag([2.1, 2.0, 2.2]) if periodic else None
    # The cap lies on the bond that is cut.
    cap = len(positions)
    bond, towards = there[2] - there[1], there[cap] - there[1]
    assert np.linalg.norm(np.cross(bond, towards)) < 1e-6
    learned = [*LEARNED, cap]
    energy, forces = engine_results(model, [6, 6, 1, 1, 1], there[learned], box)
    assert energy_of(context, groups={5}) == pytest.approx(energy, rel=1e-9)
    # What pulls at the cap pulls at both ends of the bond.
    found = forces_of(context, groups={5})
    np.testing.assert_allclose(found[[0, 4, 5]], forces[[0, 2, 3]], atol=1e-6 * np.abs(forces).max())
    np.testing.assert_allclose(found[1] + found[2], forces[1] + forces[4], atol=1e-6 * np.abs(forces).max())
    for axis in range(3):
        energies = []
        for side in (1, -1):
            moved = positions.copy()
            moved[2, axis] += side * 1e-5
            energies.append(energy_of(placed(mixed, moved), groups={5}))
        difference = -(energies[0] - energies[1]) / 2e-5
        assert difference == pytest.approx(found[2, axis], rel=1e-5, abs=1e-3)

    context.setVelocitiesToTemperature(10.0, 1)
    context.getIntegrator().step(5)
    assert np.isfinite(energy_of(context))


@pytest.mark.parametrize("periodic", [False, True])
def test_interpolation(model: Path, periodic: bool) -> None:
    topology, classical, positions = solvated(periodic)
    potential = MLPotential("symmd", modelPath=model)
    settings = {"precision": "double", "threads": 1}
    mixed = potential.createMixedSystem(topology, classical, LEARNED, **settings)
    both = potential.createMixedSystem(topology, classical, LEARNED, interpolate=True, **settings)
    context = placed(both, positions)
    ends = {0.0: energy_of(placed(classical, positions)), 1.0: energy_of(placed(mixed, positions))}
    assert abs(ends[0.0] - ends[1.0]) > 1.0
    for scale in (0.0, 0.4, 1.0):
        context.setParameter("lambda_interpolate", scale)
        expected = (1.0 - scale) * ends[0.0] + scale * ends[1.0]
        assert energy_of(context) == pytest.approx(expected, rel=1e-6)

    for duplicate in (copy.deepcopy(both), pickle.loads(pickle.dumps(both))):
        again = placed(duplicate, positions)
        again.setParameter("lambda_interpolate", 0.4)
        context.setParameter("lambda_interpolate", 0.4)
        assert energy_of(again) == pytest.approx(energy_of(context), rel=1e-12)


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match=r'needs modelPath="model\.pt", what symmd export wrote'):
        MLPotential("symmd")
    with pytest.raises(TypeError, match="knows modelPath, found model, threads"):
        MLPotential("symmd", modelPath="model.pt", model="x", threads=1)


def test_misspelt_settings(model: Path) -> None:
    topology, classical, _ = solvated(False)
    potential = MLPotential("symmd", modelPath=model)
    message = "knows precision, device, threads and deterministic, found presicion, thread;"
    wrong = {"presicion": "double", "thread": 4}
    with pytest.raises(TypeError, match=message):
        potential.createSystem(topology, **wrong)
    with pytest.raises(TypeError, match=message):
        potential.createMixedSystem(topology, classical, LEARNED, **wrong)


def test_openmmml_is_usable_where_the_force_is_not(tmp_path: Path) -> None:
    """openmmml imports every potential when it is imported; the reason comes when "symmd" is used."""
    script = (
        "import symmd_md.openmm.library as library\n"
        "library.LIBRARY = 'absent.so'\n"
        "library.load_library.cache_clear()\n"
        "import openmm, openmm.app, openmmml\n"
        "potential = openmmml.MLPotential('symmd', modelPath='model.pt')\n"
        "potential.createSystem(openmm.app.Topology())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].startswith("ImportError: SymmdForce was not compiled")
