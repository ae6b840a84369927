"""What a run leaves behind beside its checkpoints: CSV, TensorBoard and the learning curve."""

from __future__ import annotations

import csv
import io
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symmd_md.errors import ConfigurationError
from symmd_md.files import write_atomically
from symmd_md.train.loss import Errors

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

UNITS = {
    "loss": "loss",
    "energy_mae": "energy_mae_meV_per_atom",
    "energy_rmse": "energy_rmse_meV_per_atom",
    "forces_mae": "forces_mae_meV_per_A",
    "forces_rmse": "forces_rmse_meV_per_A",
    "stress_mae": "stress_mae_meV_per_A3",
    "stress_rmse": "stress_rmse_meV_per_A3",
}
COLUMNS = [
    "epoch",
    "step",
    "minutes",
    "learning_rate",
    *(f"{part}_{name}" for part in ("train", "valid") for name in UNITS.values()),
]
PLOT_SHARE = 0.02
"""Largest share of the wall time that drawing the learning curve may take."""


def log_row(
    epoch: int, step: int, minutes: float, learning_rate: float, train: Errors, valid: Errors
) -> dict[str, float]:
    """One line of the log, by column."""
    row: dict[str, float] = {"epoch": epoch, "step": step, "minutes": minutes, "learning_rate": learning_rate}
    for part, errors in (("train", train), ("valid", valid)):
        for name, value in errors.as_mapping().items():
            row[f"{part}_{UNITS[name]}"] = value
    return row


class CsvLog:
    """``log.csv``: one line for each finished epoch, units in the names of the columns."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def begin(self, epochs: int) -> list[dict[str, float]]:
        """Keep the lines of the first ``epochs`` epochs, those a checkpoint stands for, and return them."""
        rows = [row for row in read_log(self.path) if row["epoch"] <= epochs] if epochs else []
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(_text(row) for row in rows)
        write_atomically(self.path, text.getvalue().encode("utf-8"))
        return rows

    def add(self, row: dict[str, float]) -> None:
        """Append one line and bring it to the disk."""
        with self.path.open("a", encoding="utf-8", newline="") as stream:
            csv.DictWriter(stream, COLUMNS, lineterminator="\n").writerow(_text(row))
            stream.flush()
            os.fsync(stream.fileno())


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a ``log.csv``; a last line that was cut short is left out."""
    if not path.exists():
        return []
    rows = []
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if None in row or any(row.get(column) is None for column in COLUMNS):
                continue
            rows.append({column: float(row[column] or "nan") for column in COLUMNS})
    return rows


def _text(row: dict[str, float]) -> dict[str, str]:
    return {
        column: str(int(row[column])) if column in ("epoch", "step") else
        "" if math.isnan(row[column]) else f"{row[column]:.6g}"
        for column in COLUMNS
    }  # fmt: skip


class RunLog:
    """All logs of one run; only the first process of a run has one."""

    def __init__(self, output: Path, epochs_done: int, tensorboard: bool) -> None:
        self.csv = CsvLog(output / "log.csv")
        self.rows = self.csv.begin(epochs_done)
        self.figure = output / "learning_curve.png"
        self.writer = _tensorboard_writer(output / "tensorboard", epochs_done) if tensorboard else None
        self.next_plot = time.monotonic() + 30.0

    def add(self, row: dict[str, float]) -> None:
        """Log one epoch."""
        self.rows.append(row)
        self.csv.add(row)
        if self.writer is not None:
            for column in COLUMNS[2:]:
                if not math.isnan(row[column]):
                    part, _, quantity = column.partition("_")
                    tag = f"{part}/{quantity}" if part in ("train", "valid") else column
                    self.writer.add_scalar(tag, row[column], int(row["epoch"]))
        if time.monotonic() >= self.next_plot:
            started = time.monotonic()
            self.draw()
            ended = time.monotonic()
            self.next_plot = ended + max(60.0, (ended - started) / PLOT_SHARE)

    def draw(self) -> None:
        """Draw the learning curve of all epochs so far."""
        from symmd_md.analysis.plots import draw_learning_curve

        if self.rows:
            draw_learning_curve(self.rows, self.figure)

    def close(self) -> None:
        """Draw for the last time and close."""
        self.draw()
        if self.writer is not None:
            self.writer.close()


def _tensorboard_writer(folder: Path, epochs_done: int) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigurationError(
            "'training.tensorboard' needs the package tensorboard, which is not installed; run "
            "'pip install tensorboard' or set 'training.tensorboard: false'"
        ) from None
    arguments: dict[str, Any] = {"purge_step": epochs_done + 1} if epochs_done else {}
    return SummaryWriter(log_dir=str(folder), **arguments)
