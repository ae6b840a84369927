"""SymMD's network and the Equiformer of benchmarks/baselines, trained by SymMD's loop for a given CPU time.

``peers.py`` starts it: ``python own_training.py MODEL MINUTES FOLDER``, where FOLDER has the files that
``peers.write_files`` wrote. The process has one thread, and its clock is the CPU time that it has used.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "baselines"), str(HERE.parent / "engine")]

from equiformer import Equiformer, EquiformerConfig, Radial  # noqa: E402
from flop_counter import count  # noqa: E402
from flops import step_flops  # noqa: E402
from sparse_network import without_zeros  # noqa: E402

from symmd_md.analysis.errors import evaluate  # noqa: E402
from symmd_md.data import DataConfig, PreparedData, prepare  # noqa: E402
from symmd_md.data.reading import read_frames  # noqa: E402
from symmd_md.files import write_atomically  # noqa: E402
from symmd_md.kernels import use_fused  # noqa: E402
from symmd_md.model import AtomBatch, ModelConfig, ModelStatistics, SymmdNetwork  # noqa: E402
from symmd_md.model.radial import RadialNetwork  # noqa: E402
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
    """One of the networks and how it is trained."""

    name: str
    about: str
    """Its size."""
    make: Callable[[tuple[str, ...], ModelStatistics], SymmdNetwork]
    """The network in plain torch."""
    learning_rate: float
    """SymMD's default for both; what was tried is in benchmarks/README.md."""
    fused: bool = False
    """Whether training runs on the compiled operators."""


def make_symmd(species: tuple[str, ...], statistics: ModelStatistics) -> SymmdNetwork:
    """The default network."""
    return SymmdNetwork(ModelConfig(species=species), statistics)


def make_equiformer(species: tuple[str, ...], statistics: ModelStatistics) -> SymmdNetwork:
    """The baseline in its default size."""
    return Equiformer(EquiformerConfig(), ModelConfig(species=species), statistics)


SETTINGS: dict[str, Any] = {"energy_weight": 10.0, "ema_decay": 0.995}
"""``training`` of both, as in 3bpa.yaml; beyond these and the learning rate, SymMD's defaults."""
OWN_MODELS = {
    "ours": OwnModel(
        name="SymMD",
        about="C = 64, L = 2, hidden l ≤ 1, 2 layers, 8 heads",
        make=make_symmd,
        learning_rate=0.005,
        fused=True,
    ),
    "equiformer": OwnModel(
        name="Equiformer",
        about="52x0e + 28x1o + 12x2e, 2 blocks, 4 heads",
        make=make_equiformer,
        learning_rate=0.005,
    ),
}


def prepared_data(folder: Path) -> PreparedData:
    """The training and validation frames, with E0 by least squares as for all models."""
    data = DataConfig(
        train=(folder / "train.xyz",), valid=folder / "valid.xyz", reference_energies="least_squares"
    )
    return prepare(data, ModelConfig())


def train(model: OwnModel, folder: Path, **length: Any) -> dict[str, Any]:
    """Train on FOLDER/train.xyz, and test the best weights once.

    ``length``: ``max_minutes`` of CPU time, or ``max_epochs``.
    """
    torch.set_num_threads(1)
    prepared = prepared_data(folder)
    config = TrainingConfig(
        learning_rate=model.learning_rate, batch_size=5, seed=0, threads=1, **SETTINGS, **length
    )
    torch.manual_seed(config.seed)
    network = model.make(prepared.species, prepared.statistics)
    if model.fused:
        use_fused(network)
    trainer = CpuTrainer(
        network, prepared.train, prepared.valid, config, Processes(0, 1, torch.device("cpu"))
    )
    curve: list[dict[str, float]] = []
    best = trainer.averaged_state()
    while trainer.progress < 1.0:
        for batch in trainer.batches_left():
            trainer.train_step(batch)
            # A slow network has few epochs: its last one ends with the time.
            if trainer.progress >= 1.0:
                break
        train_errors, valid = trainer.finish_epoch()
        if trainer.best.improves(trainer.criterion(train_errors, valid), trainer.epoch - 1):
            best = trainer.averaged_state()
        curve.append(
            {
                "cpu_minutes": round(trainer.minutes, 4),
                "step": trainer.step,
                "valid_force_rmse": round(valid.forces_rmse, 3),
                "valid_energy_rmse": round(valid.energy_rmse, 4),
            }
        )
        print(curve[-1], flush=True)
    network.load_state_dict(best)
    network.requires_grad_(False)
    return {
        "model": model.name,
        "package": f"symmd-md {version('symmd-md')}",
        "settings": f"{model.about}; AdamW (amsgrad) {model.learning_rate}, EMA {config.ema_decay}, "
        f"E : F = {config.energy_weight:g} : {config.forces_weight:g}",
        "parameters": trainer.parameters.values.numel(),
        "cpu_minutes": curve[-1]["cpu_minutes"],
        "steps": trainer.step,
        "best_epoch": trainer.best.epoch + 1,
        "batch_size": config.batch_size,
        "precision": config.precision,
        "tests": [test_errors(network, path) for path in sorted(folder.glob("test_*.xyz"))],
        "curve": curve,
    }


def test_errors(network: SymmdNetwork, path: Path) -> dict[str, Any]:
    """Errors on one test file: meV/atom and meV/Å."""
    found = evaluate(network, read_frames(path))
    return {
        "test": path.stem.removeprefix("test_"),
        "frames": found.structures,
        "energy_rmse": found.energy_per_atom.rmse,
        "energy_mae": found.energy_per_atom.mae,
        "force_rmse": found.forces.rmse,
        "force_mae": found.forces.mae,
    }


class FixedTable(nn.Module):
    """A radial network that is known already: its spline, as a model file keeps it."""

    def __init__(self, network: RadialNetwork) -> None:
        super().__init__()
        self.values = network.table().detach()

    def table(self) -> Tensor:
        """[2 (knots + 1), outputs]."""
        return self.values


class FixedRadial(nn.Module):
    """In place of the Equiformer's radial network: the same weights for every edge but for the envelope."""

    def __init__(self, network: Radial) -> None:
        super().__init__()
        self.weights = network.weights[-1][0]

    def forward(self, radial: Tensor, fade: Tensor) -> Tensor:
        """[E, radial functions], [E, 1] → [E, outputs]."""
        return fade * self.weights


def count_operations(name: str, folder: Path) -> dict[str, float]:
    """Operations of energy and forces for each atom, and those of one step of training, in plain torch.

    SymMD reads its radial functions from a table: a constant in a simulation, made anew in each step of
    training. The Equiformer works its own out on each edge, and that share is counted by leaving it out.
    SymMD in plain torch multiplies by zeros (sparse_network.py), and that share is counted likewise.
    """
    prepared = prepared_data(folder)
    config = TrainingConfig(max_minutes=1.0, **SETTINGS)
    torch.manual_seed(config.seed)
    network = OWN_MODELS[name].make(prepared.species, prepared.statistics)
    place = torch.device("cpu")
    molecule = BatchSource(prepared.valid, torch.float32, place).batch([0])
    batch = BatchSource(prepared.train, torch.float32, place).batch(list(range(config.batch_size)))
    one_step = count(lambda: step_gradient(network, batch, config))
    found = {
        "flops_per_training_step": one_step.total,
        "matrix_flops_per_training_step": one_step.matrix,
    }
    fixed = copy.deepcopy(network)
    if isinstance(network, Equiformer):
        for part in (fixed, *(block.attention for block in fixed.blocks)):
            key = "degree_radial" if part is fixed else "radial"
            setattr(part, key, FixedRadial(getattr(part, key)))
        without = count(lambda: step_gradient(fixed, batch, config))
        found["flops_per_training_step_without_radial"] = without.total
        inference = count(lambda: network(molecule))
        found["step_flops_per_atom_without_radial"] = (
            count(lambda: fixed(molecule)).total / molecule.atom_count
        )
    else:
        for layer in fixed.layers:
            layer.radial = FixedTable(layer.radial)
        inference = count(lambda: fixed(molecule))
        lean = without_zeros(network)
        found["flops_per_training_step_without_zeros"] = count(
            lambda: step_gradient(lean, batch, config)
        ).total
        found["step_flops_per_atom_without_zeros"] = count(
            lambda: without_zeros(fixed)(molecule)
        ).total / len(molecule.species)
        engine = step_flops(network.config, prepared.statistics.mean_neighbours, len(prepared.species))
        found["step_flops_per_atom_by_the_equations"] = sum(engine.values())
    found["step_flops_per_atom"] = inference.total / molecule.atom_count
    found["step_matrix_flops_per_atom"] = inference.matrix / molecule.atom_count
    return found


def step_gradient(network: SymmdNetwork, batch: AtomBatch, config: TrainingConfig) -> None:
    """The gradient of the loss of one batch, as a step of training takes it."""
    prediction = network(batch, forces=True, create_graph=True)
    loss, _ = Loss(config)(prediction, batch, batch.structure_count)
    torch.autograd.backward(loss, inputs=[p for p in network.parameters() if p.requires_grad])


def main() -> None:
    """Command line: model, CPU-minutes, folder."""
    name, minutes, folder = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])
    write_result(train(OWN_MODELS[name], folder, max_minutes=minutes), folder / name / "result.json")


def write_result(result: dict[str, Any], path: Path) -> None:
    """As JSON."""
    write_atomically(path, (json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    main()
