"""The loss: its value, the labels it leaves out, and the errors it reports."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from symmd_md.model import AtomBatch, Prediction
from symmd_md.train import TrainingConfig
from symmd_md.train.loss import SUMS, Errors, Loss

ATOMS = [2, 3, 1]
STRUCTURE = np.repeat(np.arange(3), ATOMS)


def labels(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "energy": torch.randn(3, generator=generator, dtype=torch.float64),
        "forces": torch.randn(6, 3, generator=generator, dtype=torch.float64),
        "stress": 0.1 * torch.randn(3, 3, 3, generator=generator, dtype=torch.float64),
    }


def batch_of(parts: dict[str, torch.Tensor | None]) -> AtomBatch:
    nothing = torch.zeros(0, dtype=torch.int64)
    return AtomBatch(
        positions=torch.zeros(6, 3, dtype=torch.float64),
        species=torch.zeros(6, dtype=torch.int64),
        structure=torch.from_numpy(STRUCTURE),
        cells=torch.zeros(3, 3, 3, dtype=torch.float64),
        edge_receiver=nothing,
        edge_sender=nothing,
        edge_shift=torch.zeros(0, 3, dtype=torch.float64),
        **parts,
    )


def predicted(requires_grad: bool = False) -> Prediction:
    parts = {name: value.requires_grad_(requires_grad) for name, value in labels(7).items()}
    return Prediction(atom_energy=torch.zeros(6, dtype=torch.float64), **parts)


def reference_loss(label: dict[str, np.ndarray], config: TrainingConfig, structures: int) -> float:
    """The same loss with a loop over structures and components."""
    guess = {name: value.numpy() for name, value in labels(7).items()}

    def penalty(error: float) -> float:
        size, delta = abs(error), config.huber_delta
        return error**2 if delta is None or size <= delta else delta * (2 * size - delta)

    total = 0.0
    for index, atoms in enumerate(ATOMS):
        error = (guess["energy"][index] - label["energy"][index]) / atoms
        if not math.isnan(error):
            total += config.energy_weight * penalty(error)
        mine = index == STRUCTURE
        errors = (guess["forces"][mine] - label["forces"][mine]).ravel()
        if not np.isnan(errors).any():
            total += config.forces_weight * float(np.mean([penalty(error) for error in errors]))
        errors = (guess["stress"][index] - label["stress"][index]).ravel()
        if not np.isnan(errors).any():
            total += config.stress_weight * float(np.mean([penalty(error) for error in errors]))
    return total / structures


def with_missing() -> dict[str, torch.Tensor]:
    """Each label is missing in another structure."""
    parts = labels(3)
    parts["energy"][0] = math.nan
    parts["forces"][torch.from_numpy(STRUCTURE) == 1] = math.nan
    parts["stress"][2] = math.nan
    return parts


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_loss_equals_a_loop_over_structures(loss: str, missing: bool) -> None:
    config = TrainingConfig(loss=loss, energy_weight=2.0, forces_weight=3.0, stress_weight=5.0)  # type: ignore[arg-type]
    if loss == "huber":
        config = TrainingConfig(
            loss="huber", huber_delta=0.5, energy_weight=2.0, forces_weight=3.0, stress_weight=5.0
        )
    parts = with_missing() if missing else labels(3)
    value, _ = Loss(config)(predicted(), batch_of(parts), 3)
    expected = reference_loss({name: part.numpy() for name, part in parts.items()}, config, 3)
    assert float(value) == pytest.approx(expected, rel=1e-12)


def test_missing_labels_pull_at_nothing() -> None:
    prediction = predicted(requires_grad=True)
    value, _ = Loss(TrainingConfig())(prediction, batch_of(with_missing()), 3)
    value.backward()
    gradients = {name: getattr(prediction, name).grad for name in ("energy", "forces", "stress")}
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    assert gradients["energy"][0] == 0
    assert gradients["energy"][1] != 0
    assert (gradients["forces"][2:5] == 0).all()
    assert (gradients["forces"][:2] != 0).all()
    assert (gradients["stress"][2] == 0).all()


def test_a_missing_label_leaves_the_weight_of_the_others() -> None:
    gradients = []
    for parts in (labels(3), with_missing()):
        prediction = predicted(requires_grad=True)
        Loss(TrainingConfig())(prediction, batch_of(parts), 3)[0].backward()
        gradients.append(prediction.forces.grad[:2])  # type: ignore[union-attr, index]
    assert torch.equal(*gradients)


def test_a_batch_without_any_label_of_a_kind() -> None:
    batch = batch_of({"energy": labels(3)["energy"]})
    loss = Loss(TrainingConfig())
    assert loss.needs(batch) == (False, False)
    value, sums = loss(predicted(), batch, 3)
    assert math.isfinite(float(value))
    errors = Errors.from_sums(sums)
    assert math.isnan(errors.forces_mae)
    assert math.isnan(errors.stress_rmse)


def test_weights_of_zero_ask_for_nothing() -> None:
    loss = Loss(TrainingConfig(forces_weight=0.0, stress_weight=0.0))
    assert loss.needs(batch_of(labels(3))) == (False, False)
    assert Loss(TrainingConfig()).needs(batch_of(labels(3))) == (True, True)


def test_errors_are_those_of_the_known_labels() -> None:
    parts = with_missing()
    _, sums = Loss(TrainingConfig())(predicted(), batch_of(parts), 3)
    assert sums.shape == (SUMS,)
    errors = Errors.from_sums(2.0 * sums)
    guess = labels(7)
    energy = ((guess["energy"] - parts["energy"]) / torch.tensor(ATOMS)).numpy()[1:]
    forces = (guess["forces"] - parts["forces"]).numpy()
    forces = forces[~np.isnan(forces)]
    assert errors.energy_mae == pytest.approx(1e3 * np.abs(energy).mean(), rel=1e-12)
    assert errors.energy_rmse == pytest.approx(1e3 * np.sqrt((energy**2).mean()), rel=1e-12)
    assert errors.forces_mae == pytest.approx(1e3 * np.abs(forces).mean(), rel=1e-12)
    assert errors.forces_rmse == pytest.approx(1e3 * np.sqrt((forces**2).mean()), rel=1e-12)
