"""Forces, virial, stress and the gradient of a loss on them are derivatives, also at the cutoff."""

from __future__ import annotations

from collections.abc import Callable

import ase
import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import RandomAtoms
from model_cases import (
    CONFIGS,
    SPECIES,
    assert_close,
    batch_of,
    energy_of,
    graph_of,
    make_config,
    make_network,
    predict,
)
from symmd_md.model import AtomBatch, SymmdNetwork

STEP = 1e-5
TOLERANCE = 1e-6


@pytest.fixture(params=CONFIGS, scope="module")
def network(request: pytest.FixtureRequest) -> SymmdNetwork:
    return make_network(CONFIGS[request.param])


def slope(function: Callable[[float], float], step: float = STEP) -> float:
    """Derivative at 0, with an error of fourth order in the step."""
    near, far = (function(h) - function(-h) for h in (step, 2 * step))
    return (8 * near - far) / (12 * step)


def moved(atoms: ase.Atoms, direction: np.ndarray, amount: float) -> ase.Atoms:
    """A copy with its atoms displaced."""
    copy = atoms.copy()
    copy.positions += amount * direction
    return copy


def strained(atoms: ase.Atoms, strain: np.ndarray, amount: float) -> ase.Atoms:
    """A copy with its atoms and its cell deformed by 1 + ``amount`` × ``strain``."""
    copy = atoms.copy()
    deformation = np.eye(3) + amount * strain
    copy.set_cell(atoms.cell.array @ deformation.T)
    copy.positions = atoms.positions @ deformation.T
    return copy


@pytest.mark.parametrize("periodic", [False, True], ids=["molecule", "crystal"])
def test_forces_are_minus_the_gradient(
    network: SymmdNetwork,
    random_molecule: RandomAtoms,
    random_crystal: RandomAtoms,
    rng: np.random.Generator,
    periodic: bool,
) -> None:
    atoms = (
        random_crystal(atoms=3, elements=SPECIES, volume=9.0, least=1.2)
        if periodic
        else random_molecule(atoms=6)
    )
    forces = predict(network, atoms).forces.numpy()
    for _ in range(3):
        direction = rng.standard_normal(atoms.positions.shape)
        expected = -slope(lambda h, d=direction: energy_of(network, moved(atoms, d, h)))
        assert (forces * direction).sum() == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)


@pytest.mark.parametrize("volume", [9.0, 40.0], ids=["narrower-than-cutoff", "wider-than-cutoff"])
def test_stress_and_virial_are_strain_derivatives(
    network: SymmdNetwork, random_crystal: RandomAtoms, rng: np.random.Generator, volume: float
) -> None:
    crystal = random_crystal(atoms=3, elements=SPECIES, volume=volume, least=1.2)
    assert (crystal.cell.lengths().min() < network.config.cutoff) == (volume < 20)
    found = predict(network, crystal)
    for _ in range(2):
        strain = rng.standard_normal((3, 3))
        strain = 0.5 * (strain + strain.T)
        expected = slope(lambda h, e=strain: energy_of(network, strained(crystal, e, h)))
        virial, stress = found.virial[0].numpy(), found.stress[0].numpy()
        assert -(virial * strain).sum() == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)
        assert (stress * strain).sum() * crystal.get_volume() == pytest.approx(
            expected, rel=TOLERANCE, abs=TOLERANCE
        )


def test_a_tiny_cell_reaches_images_beyond_the_first(random_crystal: RandomAtoms) -> None:
    network = make_network(make_config(cutoff=5.0))
    crystal = random_crystal(atoms=1, elements=("C",), volume=6.0)
    assert float(graph_of(crystal, network.config).edge_shift.abs().max()) >= 3
    stress = predict(network, crystal).stress[0]
    for row, column in ((0, 0), (1, 2)):
        strain = np.zeros((3, 3))
        strain[row, column] = strain[column, row] = 1.0
        expected = (
            slope(lambda h, e=strain: energy_of(network, strained(crystal, e, h))) / crystal.get_volume()
        )
        found = float((stress * torch.from_numpy(strain)).sum())
        assert found == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)


def test_an_open_structure_has_a_virial_and_no_stress(
    network: SymmdNetwork, random_molecule: RandomAtoms, rng: np.random.Generator
) -> None:
    molecule = random_molecule(atoms=5)
    found = predict(network, molecule)
    assert torch.equal(found.stress, torch.zeros(1, 3, 3, dtype=torch.float64))
    outer = torch.einsum("na,nb->ab", torch.from_numpy(molecule.positions), found.forces)
    assert_close(found.virial[0], 0.5 * (outer + outer.T))


def test_a_slab_has_no_stress_but_forces(random_crystal: RandomAtoms) -> None:
    network = make_network(make_config())
    slab = random_crystal(atoms=4, elements=SPECIES)
    slab.pbc = (True, True, False)
    cell = slab.cell.array
    cell[2] = 0
    slab.set_cell(cell)
    found = predict(network, slab)
    assert torch.equal(found.stress, torch.zeros(1, 3, 3, dtype=torch.float64))
    assert float(found.forces.abs().max()) > 0.1


def pushed(graph: AtomBatch, positions: Tensor) -> AtomBatch:
    """The graph with other positions: every edge stays, whether shorter or longer than the cutoff."""
    return AtomBatch(
        positions,
        graph.species,
        graph.structure,
        graph.cells,
        graph.edge_receiver,
        graph.edge_sender,
        graph.edge_shift,
    )


def along_the_line(network: SymmdNetwork, atoms: ase.Atoms, distance: float) -> Tensor:
    """Energy (eV) and its first two derivatives with the last atom at x = ``distance`` from the first."""
    x = torch.tensor(distance, dtype=torch.float64, requires_grad=True)
    copy = atoms.copy()
    copy.positions[-1] = [distance, 0, 0]
    graph = graph_of(copy, network.config)
    positions = graph.positions.clone()
    positions[-1, 0] = x
    energy = network(pushed(graph, positions), forces=False).energy.sum()
    (first,) = torch.autograd.grad(energy, x, create_graph=True, allow_unused=True)
    if first is None or not first.requires_grad:
        return torch.stack((energy.detach(), torch.zeros(()).double(), torch.zeros(()).double()))
    (second,) = torch.autograd.grad(first, x)
    return torch.stack((energy, first, second)).detach()


CROWD = ase.Atoms("OHCH", positions=[[0, 0, 0], [0.3, 1.1, 0.4], [-0.9, -0.2, 0.8], [2.0, 0, 0]])
PAIR = ase.Atoms("OH", positions=[[0, 0, 0], [2.0, 0, 0]])


@pytest.mark.parametrize("atoms", [CROWD, PAIR], ids=["one-of-several", "last-neighbour"])
def test_energy_forces_and_their_derivative_are_continuous_at_the_cutoff(
    network: SymmdNetwork, atoms: ase.Atoms
) -> None:
    config, gap = network.config, 1e-6
    for cutoff in sorted({config.cutoff_of_layer(layer) for layer in range(config.layers)}):
        before = along_the_line(network, atoms, cutoff - gap)
        after = along_the_line(network, atoms, cutoff + gap)
        scale = max(1.0, float(along_the_line(network, atoms, 0.6 * cutoff)[2].abs()))
        # What is left of a step across the cutoff when the smooth change along the step is taken off.
        for order, largest in ((0, 1e-11), (1, 1e-8)):
            change = 0.5 * (before[order + 1] + after[order + 1]) * 2 * gap
            assert float((after[order] - before[order] - change).abs()) < largest * scale
        assert float((after[2] - before[2]).abs()) < 1e-3 * scale


@pytest.mark.parametrize("name", ["convolution", "convolution-linear"])
def test_the_second_derivative_vanishes_at_least_in_proportion_to_the_gap(name: str) -> None:
    network = make_network(CONFIGS[name])
    cutoff = network.config.cutoff
    far, near = (abs(float(along_the_line(network, PAIR, cutoff - gap)[2])) for gap in (1e-2, 1e-3))
    assert far > 1e-9
    assert near < 0.12 * far


def test_force_beyond_the_cutoff_is_zero(network: SymmdNetwork) -> None:
    apart = PAIR.copy()
    apart.positions[1, 0] = network.config.cutoff + 1e-9
    assert float(predict(network, apart).forces.abs().max()) == 0


def loss_of(network: SymmdNetwork, batch: AtomBatch) -> Tensor:
    """A loss on everything that is trained on."""
    found = network(batch, forces=True, stress=True, create_graph=True)
    return found.energy.square().sum() + found.forces.square().sum() + found.stress.square().sum() * 100.0


def test_the_gradient_of_a_loss_on_forces_and_stress(
    network: SymmdNetwork, random_molecule: RandomAtoms, random_crystal: RandomAtoms
) -> None:
    crystal = random_crystal(atoms=3, elements=SPECIES, volume=9.0, least=1.2)
    batch = batch_of([random_molecule(atoms=5), crystal], network.config)
    parameters = list(network.parameters())
    originals = [parameter.detach().clone() for parameter in parameters]
    gradients = torch.autograd.grad(loss_of(network, batch), parameters)
    directions = [torch.randn_like(parameter) for parameter in parameters]

    def loss_at(amount: float) -> float:
        with torch.no_grad():
            for parameter, original, direction in zip(parameters, originals, directions, strict=True):
                parameter.copy_(original + amount * direction)
        return float(loss_of(network, batch).detach())

    found = sum(
        float((gradient * direction).sum()) for gradient, direction in zip(gradients, directions, strict=True)
    )
    expected = slope(loss_at, 1e-5)
    loss_at(0.0)
    assert all(float(gradient.abs().max()) > 0 for gradient in gradients)
    assert found == pytest.approx(expected, rel=1e-5)


def test_derivatives_are_there_without_a_gradient_context(random_molecule: RandomAtoms) -> None:
    network = make_network(make_config())
    molecule = random_molecule(atoms=4)
    with torch.no_grad():
        found = predict(network, molecule)
    assert_close(found.forces, predict(network, molecule).forces, 0.0)
    assert not found.energy.requires_grad
    assert not found.forces.requires_grad


def test_only_what_is_asked_for_is_returned(random_molecule: RandomAtoms) -> None:
    network = make_network(make_config())
    batch = batch_of([random_molecule(atoms=4)], network.config)
    bare, forced, stressed = (
        network(batch, forces=False), network(batch), network(batch, forces=False, stress=True)
    )  # fmt: skip
    assert bare.forces is bare.virial is bare.stress is None
    assert forced.forces is not None
    assert forced.virial is forced.stress is None
    assert stressed.forces is None
    assert stressed.virial is not None
