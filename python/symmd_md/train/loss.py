"""The training loss and the error sums of a batch, with missing labels left out."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from symmd_md.model import AtomBatch, Prediction
from symmd_md.train.config import TrainingConfig

SUMS = 11
"""Length of the vector of error sums: structures, loss, and (count, |error|, error²) of three labels."""

_FIRST = {"energy": 2, "forces": 5, "stress": 8}


class Loss:
    """Weighted errors of energy per atom, force components and stress components.

    Every structure has a loss of its own, w_E·p(ΔE/n) + w_F·mean p(ΔF) + w_S·mean p(Δσ), with a term left out
    where its label is missing. The loss of a batch is their sum divided by its number of structures, so that
    each label weighs the same whichever batch it falls into.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config

    def penalty(self, error: Tensor) -> Tensor:
        """Error², or Huber's: error² up to δ and δ·(2·|error| − δ) above."""
        if self.config.huber_delta is None:
            return error.square()
        delta, size = self.config.huber_delta, error.abs()
        return torch.where(size <= delta, error.square(), delta * (2.0 * size - delta))

    def needs(self, batch: AtomBatch) -> tuple[bool, bool]:
        """Whether forces and whether stress must be predicted for this batch."""
        return (
            self.config.forces_weight > 0 and batch.forces is not None,
            self.config.stress_weight > 0 and batch.stress is not None,
        )

    def __call__(self, prediction: Prediction, batch: AtomBatch, structures: int) -> tuple[Tensor, Tensor]:
        """Loss (divided by ``structures``) and error sums [11] of what was predicted and has labels."""
        atoms = batch.atoms_per_structure.to(prediction.energy.dtype)
        loss = prediction.energy.new_zeros(())
        sums = prediction.energy.new_zeros(SUMS)
        if batch.energy is not None:
            known = torch.isfinite(batch.energy)
            error = torch.where(known, (prediction.energy - batch.energy) / atoms, 0.0)
            loss = loss + self.config.energy_weight * self.penalty(error).sum()
            _add(sums, "energy", error, known)
        if batch.forces is not None and prediction.forces is not None:
            known = torch.isfinite(batch.forces)
            error = torch.where(known, prediction.forces - batch.forces, 0.0)
            share = (1.0 / (3.0 * atoms))[batch.structure]
            loss = loss + self.config.forces_weight * (self.penalty(error).sum(-1) * share).sum()
            _add(sums, "forces", error, known)
        if batch.stress is not None and prediction.stress is not None:
            known = torch.isfinite(batch.stress)
            error = torch.where(known, prediction.stress - batch.stress, 0.0)
            loss = loss + self.config.stress_weight * (self.penalty(error).sum() / 9.0)
            _add(sums, "stress", error, known)
        sums[0] = batch.structure_count
        sums[1] = loss.detach()
        return loss / structures, sums


def _add(sums: Tensor, label: str, error: Tensor, known: Tensor) -> None:
    error, first = error.detach(), _FIRST[label]
    sums[first] = known.sum()
    sums[first + 1] = error.abs().sum()
    sums[first + 2] = error.square().sum()


@dataclass(frozen=True)
class Errors:
    """Mean errors over many structures; NaN where no label was seen."""

    loss: float
    """Mean loss of a structure."""
    energy_mae: float
    """meV/atom."""
    energy_rmse: float
    """meV/atom."""
    forces_mae: float
    """meV/Å."""
    forces_rmse: float
    """meV/Å."""
    stress_mae: float
    """meV/Å³."""
    stress_rmse: float
    """meV/Å³."""

    @classmethod
    def from_sums(cls, sums: Tensor) -> Errors:
        """Errors from the added sums [11] of many batches."""
        values = sums.tolist()
        means = {}
        for label, first in _FIRST.items():
            count, absolute, square = values[first : first + 3]
            means[f"{label}_mae"] = 1e3 * absolute / count if count else math.nan
            means[f"{label}_rmse"] = 1e3 * math.sqrt(square / count) if count else math.nan
        labels = sum(values[first] for first in _FIRST.values())
        return cls(loss=values[1] / values[0] if labels else math.nan, **means)

    def as_mapping(self) -> dict[str, float]:
        """The fields by name."""
        return asdict(self)
