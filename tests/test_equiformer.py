"""The baseline of the benchmarks is what it claims to be: a symmetric potential with exact forces."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import ase
import numpy as np
import pytest
import torch

from conftest import RandomAtoms
from model_cases import (
    SPECIES,
    STATISTICS,
    assert_close,
    batch_of,
    energy_of,
    make_config,
    make_network,
    predict,
    rotation_matrix,
    turned,
)
from symmd_md.model import SymmdNetwork

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
STEP, TOLERANCE = 1e-5, 1e-6


def load(path: Path) -> ModuleType:
    """A benchmark's script as a module."""
    if not path.exists():
        pytest.skip("benchmarks are not part of a source distribution")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=[(8, 4), (8, 4, 4)], ids=["degree-1", "degree-2"])
def network(request: pytest.FixtureRequest) -> SymmdNetwork:
    module = load(BENCHMARKS / "baselines" / "equiformer.py")
    shape = module.EquiformerConfig(channels=request.param, score_channels=4, radial_hidden=(8,), blocks=3)
    torch.manual_seed(0)
    made: SymmdNetwork = module.Equiformer(shape, make_config(), STATISTICS).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


@pytest.fixture
def structures(random_molecule: RandomAtoms, random_crystal: RandomAtoms) -> list[ase.Atoms]:
    """A molecule, and a triclinic crystal narrower than the cutoff."""
    return [
        random_molecule(atoms=6),
        random_crystal(atoms=3, elements=SPECIES, volume=9.0, least=1.2),
    ]


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "inversion"])
def test_rotation_and_inversion(
    network: SymmdNetwork, structures: list[ase.Atoms], rng: np.random.Generator, improper: bool
) -> None:
    matrix = rotation_matrix(rng, improper)
    before, after = predict(network, *structures), predict(network, *turned(structures, matrix))
    rotation = torch.from_numpy(matrix)
    assert_close(after.atom_energy, before.atom_energy)
    assert_close(after.forces, before.forces @ rotation.T)
    assert_close(after.stress, rotation @ before.stress @ rotation.T)
    # A network that says nothing is symmetric too.
    assert float(before.forces.abs().max()) > 1e-2


def test_permutation(network: SymmdNetwork, structures: list[ase.Atoms], rng: np.random.Generator) -> None:
    for atoms in structures:
        order = rng.permutation(len(atoms))
        before, after = predict(network, atoms), predict(network, atoms[order])
        assert_close(after.atom_energy, before.atom_energy[order])
        assert_close(after.forces, before.forces[order])


def test_forces_are_minus_the_gradient(
    network: SymmdNetwork, structures: list[ase.Atoms], rng: np.random.Generator
) -> None:
    for atoms in structures:
        forces = predict(network, atoms).forces.numpy()
        direction = rng.standard_normal(atoms.positions.shape)

        def energy(amount: float, atoms: ase.Atoms = atoms, direction: np.ndarray = direction) -> float:
            copy = atoms.copy()
            copy.positions += amount * direction
            return energy_of(network, copy)

        near, far = (energy(h) - energy(-h) for h in (STEP, 2 * STEP))
        expected = -(8 * near - far) / (12 * STEP)
        assert (forces * direction).sum() == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)


def test_energy_is_continuous_where_a_neighbour_leaves(network: SymmdNetwork) -> None:
    def energy(distance: float) -> float:
        return energy_of(network, ase.Atoms("OH", positions=[[0, 0, 0], [distance, 0, 0]]))

    cutoff = network.config.cutoff
    assert energy(cutoff - 1e-4) == pytest.approx(energy(cutoff + 1e-4), abs=1e-6)
    assert abs(energy(1.2) - energy(cutoff + 1e-4)) > 1e-3


def test_angles_matter(network: SymmdNetwork) -> None:
    def energy(angle: float) -> float:
        turn = np.radians(angle)
        hydrogen = [1.9 * np.cos(turn), 1.9 * np.sin(turn), 0]
        return energy_of(network, ase.Atoms("OHH", positions=[[0, 0, 0], [1.9, 0, 0], hydrogen]))

    # 3.5 Å and more between the two hydrogens: beyond the cutoff of 3.5 Å.
    assert abs(energy(140) - energy(175)) > 1e-6


def test_gradient_of_a_force_loss_reaches_every_parameter(
    network: SymmdNetwork, structures: list[ase.Atoms]
) -> None:
    batch = batch_of(structures, network.config)
    found = network(batch, forces=True, create_graph=True)
    loss = found.energy.square().sum() + found.forces.square().sum()
    gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    unused = [
        name
        for (name, _), gradient in zip(network.named_parameters(), gradients, strict=True)
        if gradient is None or not bool(gradient.any())
    ]
    assert unused == []


def test_operations_of_a_product_and_of_its_gradient_are_counted() -> None:
    counter = load(BENCHMARKS / "flop_counter.py")
    weight, x = torch.randn(5, 7, requires_grad=True), torch.randn(11, 5)

    def one_step() -> None:
        (torch.nn.functional.silu(x @ weight)[:, :3].sum()).backward()

    found = counter.count(one_step)
    # Forward 2·11·5·7; its gradient with respect to the weight as many, x has none.
    assert found.matrix == 2 * 2 * 11 * 5 * 7
    # silu 77, sum 33; backward: silu 77; the expanded and padded ones are free.
    assert found.pointwise == 77 + 33 + 77


def test_counted_operations_agree_with_the_equations_for_channel_mixing() -> None:
    counter = load(BENCHMARKS / "flop_counter.py")
    network = make_network(make_config())
    mixing = network.layers[0].mix[0]
    features = torch.randn(3, 4, 16, dtype=torch.float64)
    assert counter.count(lambda: mixing(features)).matrix == 3 * 4 * 2 * 16 * 16


def test_counting_without_zeros_leaves_the_network_as_it_is(structures: list[ase.Atoms]) -> None:
    sparse, counter = (load(BENCHMARKS / path) for path in ("accuracy/sparse_network.py", "flop_counter.py"))
    network = make_network(make_config(hidden_degree=2))
    lean = sparse.without_zeros(network)
    before, after = predict(network, *structures), predict(lean, *structures)
    assert_close(after.atom_energy, before.atom_energy)
    assert_close(after.forces, before.forces)
    batch = batch_of(structures, network.config)
    operations = [counter.count(lambda made=made: made(batch)).total for made in (network, lean)]
    assert operations[1] < operations[0]
