"""The order of structures in an epoch and the batches made of them, as pure functions of seed and epoch.

Nothing is drawn while a run goes on: a resumed run, or one on several processes, sees the same batches.
"""

from __future__ import annotations

import hashlib

import torch

from symmd_md.data import GraphDataset, collate, random_rotation
from symmd_md.model import AtomBatch


def seeded_generator(*names: int | str) -> torch.Generator:
    """A generator that depends on all ``names`` (seed, purpose, epoch, ...) and on nothing else."""
    digest = hashlib.sha256(" ".join(map(str, names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The structures of each global batch of an epoch (counted from 0)."""
    order = torch.randperm(count, generator=seeded_generator("order", seed, epoch)).tolist()
    return consecutive_batches(order, batch_size)


def consecutive_batches(order: list[int], batch_size: int) -> list[list[int]]:
    """``order`` cut into pieces of ``batch_size``; the last may be shorter."""
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def in_precision(batch: AtomBatch, dtype: torch.dtype) -> AtomBatch:
    """The batch in ``dtype``, but for energy labels: a total energy of 10⁴ eV needs fp64 to hold a meV."""
    converted = batch.to(dtype=dtype)
    converted.energy = batch.energy
    return converted


class BatchSource:
    """Batches of a data set in the precision and on the device of the network."""

    def __init__(self, dataset: GraphDataset, dtype: torch.dtype, device: torch.device) -> None:
        self.dataset, self.dtype, self.device = dataset, dtype, device

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: list[int], rotation: torch.Generator | None = None) -> AtomBatch:
        """The structures ``indices`` together, each turned at random if a generator is given."""
        batch = collate([self.dataset[index] for index in indices])
        if rotation is not None:
            batch = random_rotation(batch, rotation)
        batch = in_precision(batch, self.dtype)
        return batch if self.device.type == "cpu" else batch.to(device=self.device)
