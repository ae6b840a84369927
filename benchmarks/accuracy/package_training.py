"""MACE or NequIP from its package, trained on 3BPA for a given CPU time; runs in the package's environment.

``peers.py`` starts it: ``python package_training.py MODEL MINUTES FOLDER``, where FOLDER has the files that
``peers.write_files`` wrote. It needs no SymMD. Model, loss, optimiser and its settings, and the averaging of
weights are the package's own (package_models.py); batches of 5, the clock and the cosine are the same as for
SymMD, so that every learning rate comes to its end when the time is up.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from flop_counter import count  # noqa: E402
from package_models import PACKAGE_MODELS, PackageModel  # noqa: E402

BATCH, VALID_BATCH = 5, 25
LEARNING_RATE_FLOOR = 1e-5


class Average:
    """Exponential moving average of the weights, which validation and tests use."""

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.values = [parameter.detach().clone() for parameter in self.parameters]
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the weights; early steps use a smaller decay, so that no bias is left."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for value, parameter in zip(self.values, self.parameters, strict=True):
            value.lerp_(parameter, 1.0 - decay)
        self.updates += 1

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange averaged and trained weights."""
        for value, parameter in zip(self.values, self.parameters, strict=True):
            kept = parameter.clone()
            parameter.copy_(value)
            value.copy_(kept)


def errors(model: PackageModel, graphs: list[Any]) -> dict[str, float]:
    """RMSE and MAE in meV/atom and meV/Å."""
    energy, forces = [], []
    for start in range(0, len(graphs), VALID_BATCH):
        off_energy, off_forces = model.errors(graphs[start : start + VALID_BATCH])
        energy.append(off_energy.double().ravel())
        forces.append(off_forces.double().ravel())
    found = {}
    for name, values in (("energy", torch.cat(energy)), ("force", torch.cat(forces))):
        found[f"{name}_rmse"] = 1e3 * math.sqrt(float(values.square().mean()))
        found[f"{name}_mae"] = 1e3 * float(values.abs().mean())
    return found


def train(model: PackageModel, sets: dict[str, list[Any]], minutes: float) -> dict[str, Any]:
    """Train for ``minutes`` of CPU time; the module then has the averaged weights of the best epoch."""
    parameters = [parameter for parameter in model.module.parameters() if parameter.requires_grad]
    average = Average(model.module, model.ema_decay)
    tops = [group["lr"] for group in model.optimiser.param_groups]
    generator = np.random.default_rng(0)
    best_loss, best, curve = math.inf, [], []
    step = epoch = best_epoch = 0
    started = time.process_time()

    def progress() -> float:
        return (time.process_time() - started) / (60.0 * minutes)

    while progress() < 1.0:
        order = generator.permutation(len(sets["train"]))
        epoch += 1
        for start in range(0, len(order), BATCH):
            cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress())))
            for group, top in zip(model.optimiser.param_groups, tops, strict=True):
                group["lr"] = LEARNING_RATE_FLOOR + (top - LEARNING_RATE_FLOOR) * cosine
            model.optimiser.zero_grad()
            model.loss([sets["train"][i] for i in order[start : start + BATCH]]).backward()
            if model.gradient_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, model.gradient_norm)
            model.optimiser.step()
            average.update()
            step += 1
            # A slow model has few epochs: its last one ends with the time.
            if progress() >= 1.0:
                break
        average.swap()
        valid = errors(model, sets["valid"])
        loss = (
            model.energy_weight * valid["energy_rmse"] ** 2 + model.forces_weight * valid["force_rmse"] ** 2
        )
        if loss < best_loss:
            best_loss, best_epoch = loss, epoch
            best = [parameter.detach().clone() for parameter in parameters]
        average.swap()
        curve.append(
            {
                "cpu_minutes": round((time.process_time() - started) / 60.0, 4),
                "step": step,
                "valid_force_rmse": round(valid["force_rmse"], 3),
                "valid_energy_rmse": round(valid["energy_rmse"], 4),
            }
        )
        print(curve[-1], flush=True)
    with torch.no_grad():
        for parameter, value in zip(parameters, best, strict=True):
            parameter.copy_(value)
    return {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "cpu_minutes": curve[-1]["cpu_minutes"],
        "steps": step,
        "best_epoch": best_epoch,
        "batch_size": BATCH,
        "precision": "float32",
        "curve": curve,
    }


def main() -> None:
    """Command line: model, CPU-minutes, folder."""
    name, minutes, folder = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    frames = {path.stem: ase.io.read(path, ":") for path in sorted(folder.glob("*.xyz"))}
    model = PACKAGE_MODELS[name](frames["train"])
    sets = {key: [model.graph(atoms) for atoms in part] for key, part in frames.items()}
    inference = count(lambda: model.errors(sets["valid"][:1]))
    one_step = count(lambda: model.loss(sets["train"][:BATCH]).backward())
    model.optimiser.zero_grad()
    atoms = len(frames["valid"][0])
    result = {"model": model.name, "package": model.package, **train(model, sets, minutes)}
    result |= {
        "settings": model.settings,
        "step_flops_per_atom": inference.total / atoms,
        "step_matrix_flops_per_atom": inference.matrix / atoms,
        "flops_per_training_step": one_step.total,
        "matrix_flops_per_training_step": one_step.matrix,
        "tests": [
            {"test": key.removeprefix("test_"), "frames": len(graphs), **errors(model, graphs)}
            for key, graphs in sets.items()
            if key.startswith("test_")
        ],
    }
    (folder / name / "result.json").write_text(
        json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8"
    )


if __name__ == "__main__":
    main()
