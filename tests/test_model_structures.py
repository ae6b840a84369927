"""Isolated atoms, far-apart molecules, supercells, and batches: energies are what their parts say."""

from __future__ import annotations

import ase
import numpy as np
import pytest
import torch

from conftest import RandomAtoms
from model_cases import (
    CONFIGS,
    SPECIES,
    STATISTICS,
    assert_close,
    batch_of,
    graph_of,
    make_config,
    make_network,
    predict,
)
from symmd_md.data import collate
from symmd_md.errors import ConfigurationError
from symmd_md.model import ModelConfig, ModelStatistics, SymmdNetwork
from symmd_md.model.radial import SILU_GAIN


@pytest.fixture(params=CONFIGS, scope="module")
def network(request: pytest.FixtureRequest) -> SymmdNetwork:
    return make_network(CONFIGS[request.param])


@pytest.fixture
def crystal(random_crystal: RandomAtoms) -> ase.Atoms:
    return random_crystal(atoms=3, elements=SPECIES, volume=9.0, least=1.2)


def own_energy(network: SymmdNetwork, symbol: str) -> float:
    """E0 and the readouts of an atom whose features come from the skip connections alone."""
    species = network.config.species.index(symbol)
    features, total = network.embedding[species], 0.0
    for index, layer in enumerate(network.layers):
        features = features @ layer.skip.weight[0, species]
        if index < len(network.readouts):
            total = total + features @ network.readouts[index]
    inner = SILU_GAIN * torch.nn.functional.silu(features @ network.readout_inner)
    learned = float((total + inner @ network.readout_outer).detach())
    return network.statistics.reference_energies[symbol] + network.energy_scale * learned


@pytest.mark.parametrize("symbol", SPECIES)
def test_an_isolated_atom_is_its_reference_energy_and_its_own_readout(
    network: SymmdNetwork, symbol: str
) -> None:
    atom = ase.Atoms(symbol, positions=[[0.3, -2.0, 5.0]])
    boxed = [ase.Atoms(symbol, cell=np.eye(3) * edge, pbc=True) for edge in (3.6, 50.0)]
    expected = own_energy(network, symbol)
    for found in (predict(network, atom), *(predict(network, box) for box in boxed)):
        assert float(found.energy) == pytest.approx(expected, rel=1e-12)
        assert torch.equal(found.forces, torch.zeros(1, 3, dtype=torch.float64))
        assert torch.equal(found.stress, torch.zeros(1, 3, 3, dtype=torch.float64))


def test_an_atom_without_neighbours_in_a_batch_changes_nothing(
    network: SymmdNetwork, random_molecule: RandomAtoms
) -> None:
    molecule = random_molecule(atoms=5)
    lone = ase.Atoms("C")
    together = predict(network, lone, molecule, lone)
    assert_close(together.energy[1:2], predict(network, molecule).energy)
    assert float(together.energy[0].detach()) == pytest.approx(own_energy(network, "C"), rel=1e-12)
    assert float(together.forces[[0, -1]].abs().max()) == 0


def test_far_apart_molecules_add_up(network: SymmdNetwork, random_molecule: RandomAtoms) -> None:
    first, second = random_molecule(atoms=5), random_molecule(atoms=4)
    second.translate([40.0, 3.0, -7.0])
    both, one, other = predict(network, first + second), predict(network, first), predict(network, second)
    assert_close(both.energy, one.energy + other.energy)
    assert_close(both.forces, torch.cat((one.forces, other.forces)))
    assert_close(both.virial, one.virial + other.virial)


@pytest.mark.parametrize("repeats", [(2, 1, 1), (1, 3, 1), (2, 2, 2)])
def test_a_supercell_is_a_multiple(
    network: SymmdNetwork, crystal: ase.Atoms, repeats: tuple[int, int, int]
) -> None:
    count = int(np.prod(repeats))
    one, many = predict(network, crystal), predict(network, crystal.repeat(repeats))
    assert_close(many.energy, count * one.energy)
    assert_close(many.atom_energy, one.atom_energy.repeat(count))
    assert_close(many.forces, one.forces.repeat(count, 1))
    assert_close(many.stress, one.stress)


def test_a_large_box_is_open_space(network: SymmdNetwork, random_molecule: RandomAtoms) -> None:
    molecule = random_molecule(atoms=6)
    boxed = molecule.copy()
    boxed.set_cell([[30, 0, 0], [5, 31, 0], [-3, 2, 29]])
    boxed.pbc = True
    free, periodic = predict(network, molecule), predict(network, boxed)
    assert_close(periodic.energy, free.energy)
    assert_close(periodic.forces, free.forces)
    assert_close(periodic.virial, free.virial)
    assert_close(periodic.stress, -free.virial / boxed.get_volume())


def test_a_batch_is_its_structures(
    network: SymmdNetwork, random_molecule: RandomAtoms, random_crystal: RandomAtoms
) -> None:
    structures = [
        random_molecule(atoms=7),
        random_crystal(atoms=2, elements=SPECIES, volume=9.0, least=1.2),
        ase.Atoms("O"),
        random_crystal(atoms=6, elements=SPECIES, volume=12.0, least=1.3),
        random_molecule(atoms=2),
    ]
    together, singles = predict(network, *structures), [predict(network, atoms) for atoms in structures]
    for name in ("energy", "atom_energy", "forces", "virial", "stress"):
        assert_close(getattr(together, name), torch.cat([getattr(single, name) for single in singles]))
    assert_close(together.energy, torch.stack([single.atom_energy.sum() for single in singles]))


def test_structures_without_any_edge(network: SymmdNetwork) -> None:
    atoms = ase.Atoms("OHC", positions=np.eye(3) * 30.0)
    batch = batch_of([atoms, ase.Atoms("H")], network.config)
    assert batch.edge_receiver.numel() == 0
    found = network(batch, forces=True, stress=True, create_graph=True)
    assert_close(
        found.energy[0], sum(torch.tensor(own_energy(network, s), dtype=torch.float64) for s in "OHC")
    )
    assert float(found.forces.detach().abs().max()) == 0
    gradients = torch.autograd.grad(found.energy.sum(), list(network.parameters()), allow_unused=True)
    assert all(torch.isfinite(gradient).all() for gradient in gradients if gradient is not None)


def test_reference_energies_are_added_in_full_precision() -> None:
    config = make_config()
    statistics = ModelStatistics({"H": -13.60569, "C": -1027.59247, "O": -2041.83962}, 1.0, 9.0)
    zeros = ModelStatistics({}, 1.0, 9.0)
    with_references, without = (
        make_network(config, 0, statistics).float(),
        make_network(config, 0, zeros).float(),
    )
    molecule = ase.Atoms("OHC", positions=[[0, 0, 0], [1, 0, 0], [0, 1.2, 0]])
    batch = graph_of(molecule, config).to(dtype=torch.float32)
    found, bare = with_references(batch), without(batch)
    assert found.energy.dtype == torch.float64
    shift = found.atom_energy - bare.atom_energy
    assert shift.tolist() == pytest.approx([-2041.83962, -13.60569, -1027.59247], abs=1e-12)
    assert torch.equal(found.forces, bare.forces)


def test_the_learned_part_is_in_units_of_the_energy_scale(random_molecule: RandomAtoms) -> None:
    config, molecule = make_config(), random_molecule(atoms=5)
    one = make_network(config, 0, ModelStatistics({}, 1.0, 9.0))
    three = make_network(config, 0, ModelStatistics({}, 3.0, 9.0))
    assert_close(predict(three, molecule).energy, 3.0 * predict(one, molecule).energy)
    assert_close(predict(three, molecule).forces, 3.0 * predict(one, molecule).forces)


def test_a_network_gives_back_what_it_was_made_from() -> None:
    config = make_config()
    network = SymmdNetwork(config, STATISTICS)
    assert network.config is config
    assert network.statistics is STATISTICS


def test_a_network_needs_species() -> None:
    with pytest.raises(ConfigurationError, match=r"'model\.species' is empty: name the elements"):
        SymmdNetwork(ModelConfig(), ModelStatistics())


def test_edges_in_any_order_within_a_receiver(random_molecule: RandomAtoms) -> None:
    network = make_network(make_config())
    molecule = random_molecule(atoms=6)
    batch = graph_of(molecule, network.config)
    order = torch.sort(batch.edge_receiver * 1000 + torch.randint(0, 1000, batch.edge_receiver.shape)).indices
    for name in ("edge_receiver", "edge_sender", "edge_shift"):
        setattr(batch, name, getattr(batch, name)[order])
    assert_close(network(batch).forces, predict(network, molecule).forces)


def test_edges_beyond_the_cutoff_do_nothing(random_molecule: RandomAtoms) -> None:
    network, wide = make_network(make_config()), make_config(cutoff=6.0)
    molecule = random_molecule(atoms=12)
    assert_close(network(collate([graph_of(molecule, wide)])).forces, predict(network, molecule).forces)
