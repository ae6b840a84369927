"""Networks whose weights reach every term, and structures as their input, for tests of model and kernels."""

from __future__ import annotations

from collections.abc import Sequence

import ase
import numpy as np
import torch
from torch import Tensor

from symmd_md.data import build_graph, collate
from symmd_md.data.frame import checked_frame
from symmd_md.model import AtomBatch, ModelConfig, ModelStatistics, Prediction, SymmdNetwork

SPECIES = ("H", "C", "O")
STATISTICS = ModelStatistics(
    reference_energies={"H": -0.7, "C": 1.1, "O": 0.4}, energy_scale=1.3, mean_neighbours=9.0
)
SMALL = {
    "species": SPECIES,
    "cutoff": 3.5,
    "channels": 16,
    "heads": 4,
    "radial_hidden": (8,),
    "readout_hidden": 8,
}


def make_config(**settings: object) -> ModelConfig:
    """A small network's configuration with some ``settings`` of its own."""
    return ModelConfig(**{**SMALL, **settings})  # type: ignore[arg-type]


# Every degree, depth, body order and way of summing occurs; names make a failing case easy to run again.
CONFIGS = {
    "default": make_config(),
    "invariant": make_config(max_degree=0, hidden_degree=0),
    "degree-1": make_config(max_degree=1, hidden_degree=1, heads=16),
    "scalars-between-layers": make_config(max_degree=2, hidden_degree=0, heads=1),
    "degree-2-throughout": make_config(max_degree=2, hidden_degree=2, layers=3),
    "degree-3": make_config(max_degree=3, hidden_degree=1, layers=1),
    "degree-3-throughout": make_config(max_degree=3, hidden_degree=3, body_order=2),
    "four-layers": make_config(layers=4, body_order=1, layer_cutoffs=(3.5, 3.0, 2.5, 2.2)),
    "convolution": make_config(aggregation="convolution", body_order=2),
    "convolution-linear": make_config(aggregation="convolution", body_order=1, max_degree=3, layers=3),
}


def make_network(
    config: ModelConfig, seed: int = 0, statistics: ModelStatistics = STATISTICS
) -> SymmdNetwork:
    """In float64, with noise on every parameter: fresh queries and products are too small to be noticed."""
    torch.manual_seed(seed)
    network = SymmdNetwork(config, statistics).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def graph_of(atoms: ase.Atoms, config: ModelConfig) -> AtomBatch:
    """One structure as input."""
    frame = checked_frame(
        numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, pbc=atoms.pbc, source="test"
    )
    return build_graph(frame, config.species, config.cutoff)


def batch_of(structures: Sequence[ase.Atoms], config: ModelConfig) -> AtomBatch:
    """Several structures as one input."""
    return collate([graph_of(atoms, config) for atoms in structures])


def predict(network: SymmdNetwork, *structures: ase.Atoms) -> Prediction:
    """Energies, forces, virials and stresses of structures in one batch."""
    return network(batch_of(structures, network.config), forces=True, stress=True)


def energy_of(network: SymmdNetwork, atoms: ase.Atoms) -> float:
    """Energy of one structure (eV), without derivatives."""
    with torch.no_grad():
        return float(network(graph_of(atoms, network.config), forces=False).energy)


def rotation_matrix(generator: np.random.Generator, improper: bool = False) -> np.ndarray:
    """[3, 3] random rotation, times inversion when ``improper``."""
    matrix, _ = np.linalg.qr(generator.standard_normal((3, 3)))
    return matrix * np.linalg.det(matrix) * (-1.0 if improper else 1.0)


def turned(structures: list[ase.Atoms], matrix: np.ndarray) -> list[ase.Atoms]:
    """Copies of which positions and cells are rotated by ``matrix`` [3, 3]."""
    copies = []
    for atoms in structures:
        copy = atoms.copy()
        copy.set_cell(atoms.cell.array @ matrix.T)
        copy.positions = atoms.positions @ matrix.T
        copies.append(copy)
    return copies


def assert_close(found: Tensor | None, expected: Tensor | None, tolerance: float = 1e-10) -> None:
    """Equal to ``tolerance`` of the largest expected component, or of 1 when all are small."""
    assert found is not None
    assert expected is not None
    found, expected = found.detach(), expected.detach()
    assert found.shape == expected.shape
    if expected.numel():
        scale = max(1.0, float(expected.abs().max()))
        assert float((found - expected).abs().max()) <= tolerance * scale


def assert_relative(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    """Equal to ``tolerance`` of the largest expected component, however small that is."""
    found, expected = found.detach(), expected.detach()
    assert found.shape == expected.shape
    if expected.numel():
        assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())
