"""What the tests of the operators and of the TorchScript modules share."""

from __future__ import annotations

import itertools

import ase
import numpy as np
import torch
from torch import Tensor

from conftest import separated_points
from model_cases import batch_of, predict
from symmd_md.export import model_file_bytes
from symmd_md.model import SymmdNetwork

NAMES = ("energy", "atom_energy", "forces", "virial")
SCRIPT_ERRORS = (RuntimeError, torch.jit.Error)
NM, KJ_PER_MOL = 10.0, 0.010364269656262174
"""Å and eV."""


def model_tensor(network: SymmdNetwork) -> Tensor:
    """The model file as operators take it."""
    return torch.frombuffer(bytearray(model_file_bytes(network, {})), dtype=torch.uint8)


def arguments(atoms: ase.Atoms, gradients: bool = False) -> tuple[Tensor, Tensor, Tensor | None, list[bool]]:
    """Atomic numbers, positions, cell and periodic axes."""
    periodic = [bool(axis) for axis in atoms.pbc]
    positions = torch.tensor(atoms.positions, requires_grad=gradients)
    cell = torch.tensor(atoms.cell.array, requires_grad=gradients) if any(periodic) else None
    return torch.tensor(atoms.numbers), positions, cell, periodic


def expected(network: SymmdNetwork, atoms: ase.Atoms) -> dict[str, Tensor]:
    """What the plain network says of one structure."""
    found = predict(network, atoms)
    assert found.virial is not None
    assert found.forces is not None
    return dict(zip(NAMES, (found.energy[0], found.atom_energy, found.forces, found.virial[0]), strict=True))


def plain_gradients(network: SymmdNetwork, atoms: ase.Atoms) -> tuple[Tensor, Tensor]:
    """dE/dr [N, 3] and dE/dh [3, 3] by autograd through the plain network."""
    batch = batch_of([atoms], network.config)
    batch.positions = batch.positions.clone().requires_grad_()
    batch.cells = batch.cells.clone().requires_grad_()
    energy = network(batch, forces=False).energy.sum()
    of_positions, of_cells = torch.autograd.grad(energy, (batch.positions, batch.cells))
    return of_positions, of_cells[0]


def random_crystals(count: int) -> list[ase.Atoms]:
    """Triclinic cells narrower than the cutoff, every set of periodic axes, atoms far outside of the cell."""
    generator = np.random.default_rng(11)
    made = []
    for _, periodic in zip(
        range(count), itertools.cycle(itertools.product((True, False), repeat=3)), strict=False
    ):
        cell = np.diag(generator.uniform(2.6, 4.2, 3)) + 0.4 * generator.standard_normal((3, 3))
        points = separated_points(generator, 3, cell, True, 1.1)
        points += generator.integers(-3, 4, (3, 3)) * np.array(periodic) @ cell
        made.append(ase.Atoms("CHO", positions=points, cell=cell, pbc=periodic))
    return made
