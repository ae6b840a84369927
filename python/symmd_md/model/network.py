"""The potential and its derivatives (docs/theory.md, eq. 13, 23-27). Energies eV, lengths Å."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from symmd_md.errors import ConfigurationError
from symmd_md.model.batch import AtomBatch
from symmd_md.model.config import ModelConfig, ModelStatistics
from symmd_md.model.constants import ConstantModule
from symmd_md.model.layers import Edges, Layer
from symmd_md.model.radial import SILU_GAIN


@dataclass
class Prediction:
    """What the network says of a batch of B structures with N atoms."""

    energy: Tensor
    """[B] eV."""
    atom_energy: Tensor
    """[N] eV; sums to ``energy``."""
    forces: Tensor | None = None
    """[N, 3] eV/Å."""
    virial: Tensor | None = None
    """[B, 3, 3] eV: −dE/dε = Σ r ⊗ F over the pairs."""
    stress: Tensor | None = None
    """[B, 3, 3] eV/Å³: (1/V) dE/dε, ASE's sign; zero for a structure with no volume."""


class SymmdNetwork(ConstantModule):
    """Equivariant transformer potential; plain torch, any floating precision, differentiable to any order."""

    reference_energies: Tensor

    def __init__(self, config: ModelConfig, statistics: ModelStatistics) -> None:
        super().__init__()
        if not config.species:
            raise ConfigurationError("'model.species' is empty: name the elements that the network is for")
        self.config, self.statistics = config, statistics
        energies = [statistics.reference_energies.get(symbol, 0.0) for symbol in config.species]
        table = torch.tensor(energies, dtype=torch.float64)
        self.register_constant("reference_energies", table, always_double=True)
        self.energy_scale = statistics.energy_scale
        self.embedding = nn.Parameter(torch.randn(len(config.species), config.channels))
        self.layers = nn.ModuleList(
            Layer(config, layer, statistics.mean_neighbours) for layer in range(config.layers)
        )
        self.readouts = nn.ParameterList(
            nn.Parameter(torch.randn(config.channels) / config.channels) for _ in range(config.layers - 1)
        )
        hidden = config.readout_hidden
        self.readout_inner = nn.Parameter(torch.randn(config.channels, hidden) / math.sqrt(config.channels))
        self.readout_outer = nn.Parameter(torch.randn(hidden) / hidden)

    def learned_atom_energy(self, species: Tensor, edges: Edges) -> Tensor:
        """[N] energy of each atom beyond its E0, in units of the energy scale (eq. 13, 23)."""
        one_hot = torch.nn.functional.one_hot(species, len(self.config.species)).to(edges.vectors.dtype)
        features = (one_hot @ self.embedding).unsqueeze(1)
        total = edges.vectors.new_zeros(edges.atom_count)
        for index, layer in enumerate(self.layers):
            features = layer(features, edges, species, one_hot)
            scalars = features[:, 0]
            if index < len(self.readouts):
                total = total + scalars @ self.readouts[index]
        inner = SILU_GAIN * torch.nn.functional.silu(scalars @ self.readout_inner)
        return total + inner @ self.readout_outer

    def forward(
        self, batch: AtomBatch, forces: bool = True, stress: bool = False, create_graph: bool = False
    ) -> Prediction:
        """Energy of every structure and, if asked, its derivatives; ``create_graph`` for a loss on those."""
        vectors = edge_vectors(batch).to(self.embedding.dtype)
        derivatives = forces or stress
        if derivatives:
            vectors = vectors.detach().requires_grad_()
        edges = Edges(vectors, batch.edge_receiver, batch.edge_sender, batch.atom_count)
        with torch.set_grad_enabled(derivatives or torch.is_grad_enabled()):
            learned = self.energy_scale * self.learned_atom_energy(batch.species, edges)
            learned_total = learned.sum()
        atom_energy = learned.double() + self.reference_energies[batch.species]
        energy = atom_energy.new_zeros(batch.structure_count).index_add(0, batch.structure, atom_energy)
        if not derivatives:
            return Prediction(energy, atom_energy)
        (pull,) = torch.autograd.grad(learned_total, vectors, create_graph=create_graph)
        if not create_graph:
            energy, atom_energy = energy.detach(), atom_energy.detach()
        result = Prediction(energy, atom_energy)
        if forces:
            zero = pull.new_zeros(batch.atom_count, 3)
            result.forces = zero.index_add(0, batch.edge_receiver, pull)
            result.forces = result.forces.index_add(0, batch.edge_sender, -pull)
        if stress:
            result.virial = -_strain_derivative(pull, vectors.detach(), batch)
            volume = torch.linalg.det(batch.cells).abs()[:, None, None].to(pull.dtype)
            bounded = volume > 0
            result.stress = torch.where(
                bounded, -result.virial / torch.where(bounded, volume, torch.ones_like(volume)), 0.0
            )
        return result


def edge_vectors(batch: AtomBatch) -> Tensor:
    """[E, 3] displacement r_j − r_i of every edge, images included (Å, eq. 1)."""
    difference = batch.positions.index_select(0, batch.edge_sender) - batch.positions.index_select(
        0, batch.edge_receiver
    )
    cell = batch.cells[batch.structure[batch.edge_receiver]]
    return difference + torch.einsum("ea,eab->eb", batch.edge_shift, cell)


def _strain_derivative(pull: Tensor, vectors: Tensor, batch: AtomBatch) -> Tensor:
    """[B, 3, 3] dE/dε in eV, symmetric (eq. 26)."""
    outer = pull.unsqueeze(-1) * vectors.unsqueeze(-2)
    outer = 0.5 * (outer + outer.transpose(-1, -2))
    zero = outer.new_zeros(batch.structure_count, 3, 3)
    return zero.index_add(0, batch.structure[batch.edge_receiver], outer)
