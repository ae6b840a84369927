"""``symmd eval``: a checkpoint on a file of labelled structures, as numbers and as a picture."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from symmd_md.analysis.errors import Evaluation, evaluate
from symmd_md.analysis.plots import draw_parity
from symmd_md.data import FrameCollection, LabelKeys
from symmd_md.errors import ConfigurationError
from symmd_md.train.checkpoint import read_checkpoint
from symmd_md.train.files import write_atomically
from symmd_md.train.kernels import choose_kernels
from symmd_md.train.load import network_of
from symmd_md.train.progress import counting_bar


def evaluate_checkpoint(
    model: Path,
    data: Path,
    batch_size: int = 16,
    device: str = "auto",
    keys: dict[str, str | None] | None = None,
) -> Evaluation:
    """Errors of a checkpoint on a file; ``keys`` (energy_key, …) default to those of its training."""
    content = read_checkpoint(model)
    place = _device(device)
    network = network_of(content, model).to(place)
    choose_kernels(network, "auto", place)
    trained = content["config"]["data"]
    given = keys or {}
    names = {name: given.get(name) or trained[name] for name in ("energy_key", "forces_key", "stress_key")}
    frames = FrameCollection([data], LabelKeys(names["energy_key"], names["forces_key"], names["stress_key"]))
    with counting_bar("evaluating") as bar:
        task = bar.add_task("", total=len(frames))
        return evaluate(network, frames, batch_size, lambda done: bar.update(task, completed=done))


def write_report(evaluation: Evaluation, model: Path, data: Path, output: Path) -> list[Path]:
    """Write errors.json and parity.png into ``output``; returns their paths."""
    numbers, picture = output / "errors.json", output / "parity.png"
    content = {"model": str(model), "data": str(data), **evaluation.as_mapping()}
    write_atomically(numbers, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode("utf-8"))
    if not any(pairs.count for pairs in (evaluation.energy, evaluation.forces, evaluation.stress)):
        return [numbers]
    draw_parity(evaluation, picture)
    return [numbers, picture]


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigurationError(f"the device must be auto, cpu or cuda; found {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("the device is cuda but torch finds no GPU; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
