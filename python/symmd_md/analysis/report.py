"""``symmd eval``: a checkpoint on a file of labelled structures, as numbers and as a picture."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from symmd_md.analysis.errors import Evaluation, evaluate
from symmd_md.analysis.plots import draw_parity
from symmd_md.data import FrameCollection, LabelKeys
from symmd_md.data.reading import COMPRESSED
from symmd_md.errors import ConfigurationError, DataError
from symmd_md.files import write_atomically
from symmd_md.train.checkpoint import read_checkpoint
from symmd_md.train.kernels import choose_kernels
from symmd_md.train.labels import no_label
from symmd_md.train.load import network_of
from symmd_md.train.progress import counting_bar

LABELS = ("energy", "forces", "stress")


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
    _refuse_missing_labels(frames, data, names, given)
    with counting_bar("evaluating") as bar:
        task = bar.add_task("", total=len(frames))
        return evaluate(network, frames, batch_size, lambda done: bar.update(task, completed=done))


def write_report(evaluation: Evaluation, model: Path, data: Path, output: Path) -> list[Path]:
    """Write errors.json and parity.png into ``output``; returns their paths."""
    numbers, picture = output / "errors.json", output / "parity.png"
    content = {"model": str(model), "data": str(data), **evaluation.as_mapping()}
    write_atomically(numbers, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode("utf-8"))
    draw_parity(evaluation, picture)
    return [numbers, picture]


def report_folder(model: Path, data: Path) -> Path:
    """Where the report on ``data`` goes unless the user says: a folder beside the checkpoint."""
    stem = Path(data.stem).stem if data.suffix.lower() in COMPRESSED else data.stem
    return model.parent / f"eval_{stem}"


def _refuse_missing_labels(
    frames: FrameCollection, data: Path, names: dict[str, str], given: dict[str, str | None]
) -> None:
    """Refuse a file without any label, and a key of the user's own that no frame has."""
    asked = [label for label in LABELS if given.get(f"{label}_key")]
    for label in asked or LABELS[:1]:
        wanted = [label] if asked else LABELS
        if all(getattr(frame, name) is None for frame in frames for name in wanted):
            raise DataError(
                f"{no_label([data], label, names[f'{label}_key'])}; name the label by --{label}-key"
            )


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigurationError(f"the device must be auto, cpu or cuda; found {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("the device is cuda but torch finds no GPU; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
