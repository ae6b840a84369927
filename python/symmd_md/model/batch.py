"""The input of the network: several structures as one set of atoms and directed edges."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

LABELS = ("energy", "forces", "stress")


@dataclass
class AtomBatch:
    """Structures laid end to end. Lengths in Å, energies in eV. N atoms, E edges, B structures.

    Edges are directed and complete (both j→i and i→j are present), sorted by receiver. The displacement of an
    edge is ``positions[sender] − positions[receiver] + shift @ cell[structure]``.
    """

    positions: Tensor
    """[N, 3] Å, float64."""
    species: Tensor
    """[N] int64, index into ModelConfig.species."""
    structure: Tensor
    """[N] int64, which structure the atom belongs to, ascending."""
    cells: Tensor
    """[B, 3, 3] Å, float64, rows are the lattice vectors; zeros for an open structure."""
    edge_receiver: Tensor
    """[E] int64, i, ascending."""
    edge_sender: Tensor
    """[E] int64, j."""
    edge_shift: Tensor
    """[E, 3] float64, whole numbers of lattice vectors."""
    energy: Tensor | None = None
    """[B] eV; NaN where a structure has no energy label."""
    forces: Tensor | None = None
    """[N, 3] eV/Å; NaN where a structure has no force labels."""
    stress: Tensor | None = None
    """[B, 3, 3] eV/Å³, σ = (1/V) dE/dε; NaN where a structure has no stress label."""

    @property
    def atom_count(self) -> int:
        return int(self.positions.shape[0])

    @property
    def structure_count(self) -> int:
        return int(self.cells.shape[0])

    @property
    def atoms_per_structure(self) -> Tensor:
        """[B] int64."""
        return torch.bincount(self.structure, minlength=self.structure_count)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> AtomBatch:
        """A copy on ``device`` whose labels have ``dtype``; what says where the atoms are stays as it is.

        Displacements are differences of fp64 coordinates at every precision of the network: far from the
        origin, rounded coordinates would lose them.
        """
        moved = {}
        for item in dataclasses.fields(self):
            tensor = getattr(self, item.name)
            if tensor is not None:
                kind = dtype if item.name in LABELS else None
                tensor = tensor.to(device=device, dtype=kind)
            moved[item.name] = tensor
        return AtomBatch(**moved)
