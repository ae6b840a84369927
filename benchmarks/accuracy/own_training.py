"""SymMD's network and the Equiformer of benchmarks/baselines, trained by SymMD's loop for a given CPU time.

``peers.py`` runs this; the process has one thread, and its clock is the CPU time that it has used.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "baselines")]

from flop_counter import count  # noqa: E402

from symmd_md.analysis.errors import evaluate  # noqa: E402
from symmd_md.data import DataConfig, PreparedData, prepare  # noqa: E402
from symmd_md.data.reading import read_frames  # noqa: E402
from symmd_md.kernels import use_fused  # noqa: E402
from symmd_md.model import AtomBatch, ModelConfig, SymmdNetwork  # noqa: E402
from symmd_md.train import TrainingConfig  # noqa: E402
from symmd_md.train.batches import BatchSource  # noqa: E402
from symmd_md.train.distributed import Processes  # noqa: E402
from symmd_md.train.loss import Loss  # noqa: E402
from symmd_md.train.trainer import Trainer  # noqa: E402


class CpuTrainer(Trainer):
    """A run whose clock, and so its learning rate and its end, is the CPU time of this process."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.cpu_started = time.process_time()

    @property
    def minutes(self) -> float:
        """CPU time since the run began (minutes)."""
        return (time.process_time() - self.cpu_started) / 60.0


@dataclass(frozen=True)
class OwnModel:
    """One of the two networks and how it is trained."""

    name: str
    make: Any
    """Function of (species, statistics) that gives the network in plain torch."""
    settings: dict[str, Any] = field(default_factory=dict)
    """``training`` settings beyond the common ones."""
    fused: bool = False
    """Whether training runs on the compiled operators."""


def train(model: OwnModel, files: dict[str, Path], minutes: float, output: Path) -> dict[str, Any]:
    """Train for ``minutes`` of CPU time, test once, and write result.json into ``output``."""
    torch.set_num_threads(1)
    data = DataConfig(train=(files["train"],), valid=files["valid"], reference_energies="least_squares")
    prepared = prepare(data, ModelConfig())
    config = TrainingConfig(max_minutes=minutes, batch_size=5, seed=0, threads=1, **model.settings)
    torch.manual_seed(config.seed)
    network = model.make(prepared.species, prepared.statistics)
    operations = count_operations(network, prepared, config)
    if model.fused:
        use_fused(network)
    trainer = CpuTrainer(
        network, prepared.train, prepared.valid, config, Processes(0, 1, torch.device("cpu"))
    )
    curve = []
    best = trainer.averaged_state()
    while trainer.progress < 1.0:
        for batch in trainer.batches_left():
            trainer.train_step(batch)
        train_errors, valid = trainer.finish_epoch()
        if trainer.best.improves(trainer.criterion(train_errors, valid), trainer.epoch - 1):
            best = trainer.averaged_state()
        curve.append(
            {
                "cpu_minutes": round(trainer.minutes, 4),
                "step": trainer.step,
                "train_force_rmse": round(train_errors.forces_rmse, 3),
                "valid_force_rmse": round(valid.forces_rmse, 3),
                "valid_energy_rmse": round(valid.energy_rmse, 4),
            }
        )
        print(curve[-1], flush=True)
    spent = trainer.minutes
    network.load_state_dict(best)
    torch.save(best, output / "best.pt")
    network.requires_grad_(False)
    result = {
        "model": model.name,
        "package": "symmd-md",
        "parameters": trainer.parameters.values.numel(),
        "cpu_minutes": round(spent, 2),
        "steps": trainer.step,
        "best_epoch": trainer.best.epoch + 1,
        "batch_size": config.batch_size,
        "precision": config.precision,
        **operations,
        "tests": [test_errors(network, name, path) for name, path in files.items() if "test" in name],
        "curve": curve,
    }
    (output / "result.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return result


def test_errors(network: SymmdNetwork, name: str, path: Path) -> dict[str, Any]:
    """Errors on one test file: meV/atom and meV/Å."""
    found = evaluate(network, read_frames(path))
    return {
        "test": name.removeprefix("test "),
        "frames": found.structures,
        "energy_rmse": found.energy_per_atom.rmse,
        "energy_mae": found.energy_per_atom.mae,
        "force_rmse": found.forces.rmse,
        "force_mae": found.forces.mae,
    }


def count_operations(
    network: SymmdNetwork, prepared: PreparedData, config: TrainingConfig
) -> dict[str, float]:
    """Operations of energy and forces for each atom, and those of one step of training."""
    dtype, place = torch.get_default_dtype(), torch.device("cpu")
    molecule = BatchSource(prepared.valid, dtype, place).batch([0])
    inference = count(lambda: network(molecule))
    batch = BatchSource(prepared.train, dtype, place).batch(list(range(config.batch_size)))
    step = count(lambda: step_gradient(network, batch, config))
    network.zero_grad()
    return {
        "step_flops_per_atom": inference.total / molecule.atom_count,
        "step_matrix_flops_per_atom": inference.matrix / molecule.atom_count,
        "flops_per_training_step": step.total,
        "matrix_flops_per_training_step": step.matrix,
    }


def step_gradient(network: SymmdNetwork, batch: AtomBatch, config: TrainingConfig) -> None:
    """The gradient of the loss of one batch, as a step of training takes it."""
    prediction = network(batch, forces=True, create_graph=True)
    loss, _ = Loss(config)(prediction, batch, batch.structure_count)
    torch.autograd.backward(loss, inputs=[p for p in network.parameters() if p.requires_grad])
