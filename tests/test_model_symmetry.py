"""Energies are invariant, and forces and stresses covariant, under every symmetry of space and labels."""

from __future__ import annotations

import ase
import numpy as np
import pytest
import torch

from conftest import RandomAtoms
from model_cases import (
    CONFIGS,
    SPECIES,
    assert_close,
    graph_of,
    make_config,
    make_network,
    predict,
    rotation_matrix,
    turned,
)
from symmd_md.model import SymmdNetwork


@pytest.fixture(params=CONFIGS, scope="module")
def network(request: pytest.FixtureRequest) -> SymmdNetwork:
    return make_network(CONFIGS[request.param])


@pytest.fixture
def structures(random_molecule: RandomAtoms, random_crystal: RandomAtoms) -> list[ase.Atoms]:
    """A molecule, and a triclinic crystal narrower than the cutoff."""
    crystal = random_crystal(atoms=4, elements=SPECIES, volume=9.0, least=1.2)
    assert crystal.cell.lengths().min() < 3.5
    return [random_molecule(atoms=7), crystal]


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "inversion"])
def test_rotation_and_inversion(
    network: SymmdNetwork, structures: list[ase.Atoms], rng: np.random.Generator, improper: bool
) -> None:
    matrix = rotation_matrix(rng, improper)
    before, after = predict(network, *structures), predict(network, *turned(structures, matrix))
    rotation = torch.from_numpy(matrix)
    assert_close(after.energy, before.energy)
    assert_close(after.atom_energy, before.atom_energy)
    assert_close(after.forces, before.forces @ rotation.T)
    assert_close(after.virial, rotation @ before.virial @ rotation.T)
    assert_close(after.stress, rotation @ before.stress @ rotation.T)


def test_translation(network: SymmdNetwork, structures: list[ase.Atoms]) -> None:
    before = predict(network, *structures)
    for atoms in structures:
        atoms.translate([11.3, -4.1, 0.7])
    after = predict(network, *structures)
    for name in ("energy", "atom_energy", "forces", "virial", "stress"):
        assert_close(getattr(after, name), getattr(before, name))


def test_translation_far_from_the_origin_in_single_precision(random_molecule: RandomAtoms) -> None:
    network = make_network(make_config())
    near = random_molecule(atoms=8)
    far = near.copy()
    far.translate([1e5, -3e4, 2e5])
    found = [
        network.float()(graph_of(atoms, network.config).to(dtype=torch.float32)).forces
        for atoms in (near, far)
    ]
    assert found[0].dtype == torch.float32
    assert float((found[1] - found[0]).abs().max()) < 1e-5 * float(found[0].abs().max())


def test_permutation(network: SymmdNetwork, structures: list[ase.Atoms], rng: np.random.Generator) -> None:
    for atoms in structures:
        order = rng.permutation(len(atoms))
        before, after = predict(network, atoms), predict(network, atoms[order])
        assert_close(after.energy, before.energy)
        assert_close(after.atom_energy, before.atom_energy[order])
        assert_close(after.forces, before.forces[order])
        assert_close(after.stress, before.stress)


def test_wrapping_and_whole_cells_change_nothing(
    network: SymmdNetwork, random_crystal: RandomAtoms, rng: np.random.Generator
) -> None:
    crystal = random_crystal(atoms=4, elements=SPECIES, volume=9.0, least=1.2)
    moved = crystal.copy()
    moved.positions += rng.integers(-4, 5, size=(4, 3)) @ crystal.cell.array
    before, after = predict(network, crystal), predict(network, moved)
    for name in ("energy", "forces", "stress"):
        assert_close(getattr(after, name), getattr(before, name))


def test_another_choice_of_lattice_vectors_changes_nothing(
    network: SymmdNetwork, random_crystal: RandomAtoms
) -> None:
    crystal = random_crystal(atoms=4, elements=SPECIES, volume=9.0, least=1.2)
    other = crystal.copy()
    other.set_cell(np.array([[1, 1, 0], [0, 1, -2], [0, 0, 1]]) @ crystal.cell.array)
    before, after = predict(network, crystal), predict(network, other)
    for name in ("energy", "forces", "stress"):
        assert_close(getattr(after, name), getattr(before, name))


def test_forces_of_a_structure_add_up_to_nothing(network: SymmdNetwork, structures: list[ase.Atoms]) -> None:
    for atoms in structures:
        found = predict(network, atoms)
        assert float(found.forces.sum(0).abs().max()) < 1e-10
        assert_close(found.virial, found.virial.mT)


def three_atoms(angle: float) -> ase.Atoms:
    """Two hydrogens 1.1 Å from an oxygen; ``angle`` (degrees) so wide that they do not see each other."""
    turn = np.radians(angle)
    return ase.Atoms("OHH", positions=[[0, 0, 0], [1.1, 0, 0], [1.1 * np.cos(turn), 1.1 * np.sin(turn), 0]])


@pytest.mark.parametrize("body_order", [1, 2, 3])
@pytest.mark.parametrize("aggregation", ["attention", "convolution"])
def test_degree_0_sees_no_angles(body_order: int, aggregation: str) -> None:
    settings = {"cutoff": 1.9, "body_order": body_order, "aggregation": aggregation, "hidden_degree": 0}
    network = make_network(make_config(max_degree=0, **settings))
    assert_close(predict(network, three_atoms(125)).energy, predict(network, three_atoms(175)).energy)


@pytest.mark.parametrize("max_degree", [1, 2, 3])
def test_higher_degrees_see_angles(max_degree: int) -> None:
    network = make_network(make_config(cutoff=1.9, max_degree=max_degree))
    energies = [float(predict(network, three_atoms(angle)).energy) for angle in (125, 175)]
    assert abs(energies[0] - energies[1]) > 1e-6  # degree 0 agrees to 1e-10


def test_elements_are_told_apart() -> None:
    network = make_network(make_config())
    energies = {
        symbol: float(
            predict(network, ase.Atoms(symbol + "H", positions=[[0, 0, 0], [1, 0, 0]])).atom_energy[1]
        )
        for symbol in SPECIES
    }
    assert len({round(energy, 5) for energy in energies.values()}) == 3
