"""Counts of parameters and operations are those of the network."""

from __future__ import annotations

import ase
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model_cases import CONFIGS, STATISTICS, graph_of, make_config, make_network
from symmd_md.analysis.accounting import Row, account
from symmd_md.model import ModelConfig, SymmdNetwork

WIDE = {
    "production": ModelConfig(species=("H", "C", "N", "O")),
    "wide": make_config(channels=128, heads=16, radial_hidden=(64, 32, 16), max_degree=3, hidden_degree=2),
}


def row_of(rows: list[Row], layer: str, part: str) -> Row:
    (found,) = [row for row in rows if (row.layer, row.part) == (layer, part)]
    return found


@pytest.mark.parametrize("name", [*CONFIGS, *WIDE])
def test_parameters_are_all_there(name: str) -> None:
    config = {**CONFIGS, **WIDE}[name]
    network = SymmdNetwork(config, STATISTICS)
    rows = account(config, neighbours=20.0, species_count=len(config.species))
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_of_every_part(name: str) -> None:
    config = CONFIGS[name]
    network = SymmdNetwork(config, STATISTICS)
    rows = account(config, neighbours=20.0, species_count=len(config.species))

    def size(module: torch.nn.Module | None) -> int:
        return sum(p.numel() for p in module.parameters()) if module is not None else 0

    for index, layer in enumerate(network.layers):
        expected = {
            "projections": size(layer.values) + size(layer.queries),
            "radial network": size(layer.radial),
            "edge pass": 0,
            "attention": size(layer.edge_pass),
            "blend": size(layer.blend),
            "node products": size(layer.products),
            "mixing": size(layer.mix),
            "skip": size(layer.skip),
        }
        found = {row.part: row.parameters for row in rows if row.layer == str(index + 1)}
        assert {**dict.fromkeys(expected, 0), **found} == expected


@pytest.mark.parametrize("name", CONFIGS)
def test_operations_of_the_dense_parts_are_those_torch_counts(name: str) -> None:
    # One species: with more, plain torch also multiplies the zeros of the one-hot species.
    settings = {**vars(CONFIGS[name]), "species": ("C",)}
    config = ModelConfig(**settings)
    network, atoms = make_network(config), 3
    batch = graph_of(ase.Atoms("C3", positions=[[0, 0, 0], [1.2, 0, 0], [0, 1.3, 0]]), config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(batch, forces=False)
    counts = {module: sum(kinds.values()) / atoms for module, kinds in counter.get_flop_counts().items()}
    rows = account(config, neighbours=2.0, species_count=1)
    channels, powers = config.channels, config.body_order
    for layer in range(config.layers):

        def counted(part: str, layer: int = layer) -> float:
            return counts.get(f"SymmdNetwork.layers.{layer}.{part}", 0.0)

        number = str(layer + 1)
        outputs = (config.output_degree(layer) + 1) ** 2
        skipped = (min(config.input_degree(layer), config.output_degree(layer)) + 1) ** 2
        assert row_of(rows, number, "projections").flops_per_atom == counted("values") + counted("queries")
        if powers > 1:
            assert row_of(rows, number, "blend").flops_per_atom == counted("blend")
        mixed = sum(counted(f"mix.{power}") for power in range(powers))
        assert row_of(rows, number, "mixing").flops_per_atom == mixed + (powers - 1) * outputs * channels
        assert row_of(rows, number, "skip").flops_per_atom == counted("skip") + skipped * channels


def test_a_small_network_counted_by_hand() -> None:
    config = ModelConfig(
        species=("H",), layers=1, channels=16, heads=2, max_degree=1, hidden_degree=0, body_order=2,
        radial_hidden=(4,), readout_hidden=8,
    )  # fmt: skip
    rows = account(config, neighbours=10.0, species_count=1)
    found = {(row.layer, row.part): (row.parameters, row.flops_per_atom) for row in rows}
    # Paths (0, l, l), l = 0, 1: 1 + 3 terms; 4 output components; the score shares one.
    scalars = 40 + 3 + 2 * 4
    per_channel = 2 * 7 + 3 * 4 + 4
    per_head = 1 + 25 + 1 + 21 + 1 + 1
    assert found == {
        ("embedding", "embedding"): (16, 0),
        ("1", "projections"): (2 * 256, 2 * 2 * 256),
        ("1", "radial network"): (8 * 4 + 4 * 32, 0),
        ("1", "edge pass"): (0, 10 * (scalars + 16 * per_channel) + 4 * 16),
        ("1", "attention"): (2, 10 * (16 + 14 + 2 * per_head + 4 * 16) + 2 * 22),
        ("1", "blend"): (2 * 256, 4 * 2 * 256),
        # Paths (0, 0, 0) and (1, 1, 0), 1 + 3 terms.
        ("1", "node products"): (2 * 16, 4 * 4 * 16),
        ("1", "mixing"): (2 * 256, 2 * 2 * 256 + 16),
        ("1", "skip"): (256, 2 * 256 + 16),
        ("readout", "network, layer 1"): (16 * 8 + 8, 2 * 16 * 8 + 8 * 25 + 2 * 8 + 2),
    }


def test_operations_follow_the_neighbours_within_each_layers_cutoff() -> None:
    def edge_pass(neighbours: float, **settings: object) -> float:
        rows = account(make_config(layers=1, **settings), neighbours, species_count=3)
        return row_of(rows, "1", "edge pass").flops_per_atom

    none, ten, twenty = (edge_pass(count) for count in (0.0, 10.0, 20.0))
    assert twenty - none == pytest.approx(2 * (ten - none))
    shorter = edge_pass(16.0, layer_cutoffs=(1.75,))
    assert shorter - none == pytest.approx(edge_pass(2.0) - none + 14 * 6)


def test_the_species_of_others_cost_parameters_and_no_operations() -> None:
    few, many = (account(make_config(), 10.0, species_count=count) for count in (1, 5))
    assert [row.flops_per_atom for row in few] == [row.flops_per_atom for row in many]
    assert sum(row.parameters for row in many) > sum(row.parameters for row in few)


def test_forces_cost_nothing_in_the_first_layers_projections() -> None:
    rows = account(make_config(), 10.0, species_count=3)
    assert row_of(rows, "1", "projections").force_flops_per_atom == 0
    second = row_of(rows, "2", "projections")
    assert second.force_flops_per_atom == second.flops_per_atom > 0
    for row in rows:
        if row.part in ("edge pass", "attention", "node products"):
            assert 2 * row.flops_per_atom < row.force_flops_per_atom < 6 * row.flops_per_atom
