"""Frames as graphs, graphs as batches, and random rotations of batches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from ase.data import atomic_numbers
from numpy.typing import NDArray
from torch import Tensor

from symmd_md.data.frame import HEAVIEST_ELEMENT, Frame, formula_symbols
from symmd_md.data.neighbours import neighbour_list
from symmd_md.errors import DataError
from symmd_md.model.batch import AtomBatch

SMALLEST_DISTANCE = 0.1
"""Å; no two nuclei of a real structure come closer, and the network has no direction for coinciding atoms."""


@functools.lru_cache(maxsize=16)
def _species_index(species: tuple[str, ...]) -> NDArray[np.int64]:
    """Index into ``species`` by atomic number; −1 where the model does not know the element."""
    index = np.full(HEAVIEST_ELEMENT + 1, -1, dtype=np.int64)
    for position, symbol in enumerate(species):
        index[atomic_numbers[symbol]] = position
    return index


def build_graph(frame: Frame, species: tuple[str, ...], cutoff: float) -> AtomBatch:
    """One structure as a batch of B = 1 in float64, with every edge shorter than ``cutoff`` (Å)."""
    kinds = _species_index(tuple(species))[frame.numbers]
    if (kinds < 0).any():
        unknown = [symbol for symbol in formula_symbols(frame.numbers) if symbol not in species]
        raise DataError(
            f"{frame.source}: expected only the elements of the model ({', '.join(species)}), found "
            f"{', '.join(unknown)}; add it to 'model.species' or remove the frame"
        )
    receiver, sender, shift = neighbour_list(frame.positions, frame.cell, frame.pbc, cutoff)
    _check_distances(frame, receiver, sender, shift)
    count = frame.atom_count
    return AtomBatch(
        positions=torch.from_numpy(frame.positions),
        species=torch.from_numpy(kinds),
        structure=torch.zeros(count, dtype=torch.int64),
        cells=torch.from_numpy(frame.cell)[None],
        edge_receiver=torch.from_numpy(receiver),
        edge_sender=torch.from_numpy(sender),
        edge_shift=torch.from_numpy(shift.astype(np.float64)),
        energy=None if frame.energy is None else torch.tensor([frame.energy], dtype=torch.float64),
        forces=None if frame.forces is None else torch.from_numpy(frame.forces),
        stress=None if frame.stress is None else torch.from_numpy(frame.stress)[None],
    )


def _check_distances(
    frame: Frame,
    receiver: NDArray[np.int64],
    sender: NDArray[np.int64],
    shift: NDArray[np.int64],
) -> None:
    if not len(receiver):
        return
    displacement = frame.positions[sender] - frame.positions[receiver] + shift @ frame.cell
    squared = np.einsum("ex,ex->e", displacement, displacement)
    closest = int(np.argmin(squared))
    if squared[closest] < SMALLEST_DISTANCE**2:
        raise DataError(
            f"{frame.source}: expected atoms at least {SMALLEST_DISTANCE} Å apart, found atoms "
            f"{receiver[closest]} and "
            f"{sender[closest]} at {np.sqrt(squared[closest]):.3g} Å, coinciding; remove one of them or the "
            "frame"
        )


def collate(items: Sequence[AtomBatch]) -> AtomBatch:
    """Lay batches end to end. A label that only some have is NaN for the others, and None if none has it."""
    atom_counts = [item.positions.shape[0] for item in items]
    atom_offsets = np.cumsum([0, *atom_counts[:-1]]).tolist()
    structure_counts = [item.cells.shape[0] for item in items]
    structure_offsets = np.cumsum([0, *structure_counts[:-1]]).tolist()

    def shifted(pick: Callable[[AtomBatch], Tensor], offsets: list[int]) -> Tensor:
        return torch.cat([pick(item) + offset for item, offset in zip(items, offsets, strict=True)])

    def labels(
        pick: Callable[[AtomBatch], Tensor | None], counts: list[int], tail: tuple[int, ...]
    ) -> Tensor | None:
        found = [pick(item) for item in items]
        present = next((label for label in found if label is not None), None)
        if present is None:
            return None
        absent = present.new_full((1, *tail), float("nan"))
        return torch.cat(
            [
                absent.expand(count, *tail) if label is None else label
                for label, count in zip(found, counts, strict=True)
            ]
        )

    return AtomBatch(
        positions=torch.cat([item.positions for item in items]),
        species=torch.cat([item.species for item in items]),
        structure=shifted(lambda item: item.structure, structure_offsets),
        cells=torch.cat([item.cells for item in items]),
        edge_receiver=shifted(lambda item: item.edge_receiver, atom_offsets),
        edge_sender=shifted(lambda item: item.edge_sender, atom_offsets),
        edge_shift=torch.cat([item.edge_shift for item in items]),
        energy=labels(lambda item: item.energy, structure_counts, ()),
        forces=labels(lambda item: item.forces, atom_counts, (3,)),
        stress=labels(lambda item: item.stress, structure_counts, (3, 3)),
    )


def random_rotation(batch: AtomBatch, generator: torch.Generator) -> AtomBatch:
    """The batch with each structure turned by its own rotation, uniform over SO(3), from ``generator``.

    Positions, cells, forces and stress turn; edges and energies stay. ``generator`` is one of the CPU.
    """
    rotations = _rotation_matrices(batch.structure_count, generator).to(batch.positions.device)
    per_atom = rotations[batch.structure]

    def turned(vectors: Tensor) -> Tensor:
        return torch.bmm(per_atom.to(vectors.dtype), vectors[:, :, None])[:, :, 0]

    def turned_matrices(matrices: Tensor) -> Tensor:
        by = rotations.to(matrices.dtype)
        return by @ matrices @ by.mT

    return AtomBatch(
        positions=turned(batch.positions),
        species=batch.species,
        structure=batch.structure,
        cells=batch.cells @ rotations.to(batch.cells.dtype).mT,
        edge_receiver=batch.edge_receiver,
        edge_sender=batch.edge_sender,
        edge_shift=batch.edge_shift,
        energy=batch.energy,
        forces=None if batch.forces is None else turned(batch.forces),
        stress=None if batch.stress is None else turned_matrices(batch.stress),
    )


def _rotation_matrices(count: int, generator: torch.Generator) -> Tensor:
    """[count, 3, 3] float64; a normalised Gaussian 4-vector is a uniform unit quaternion."""
    quaternion = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    w, x, y, z = (quaternion / quaternion.norm(dim=1, keepdim=True)).unbind(1)
    return torch.stack(
        [
            *(1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
            *(2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
            *(2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
        ],
        dim=1,
    ).reshape(count, 3, 3)
