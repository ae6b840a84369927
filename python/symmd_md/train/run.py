"""A training run from its configuration to its checkpoints: start or resume, loop, end."""

from __future__ import annotations

import dataclasses
import math
import platform
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import symmd_md
from symmd_md.configuration import to_mapping
from symmd_md.data import PreparedData, prepare
from symmd_md.data.prepare import SPLIT_FILE
from symmd_md.errors import CheckpointError, ConfigurationError
from symmd_md.model import ModelStatistics, SymmdNetwork
from symmd_md.train.checkpoint import read_checkpoint, write_checkpoint
from symmd_md.train.config import RunConfig, changed_keys, run_config, write_run_config
from symmd_md.train.distributed import Processes, end_processes, start_processes
from symmd_md.train.folder import BEST, LAST, run_folder
from symmd_md.train.kernels import choose_kernels
from symmd_md.train.labels import refuse_missing_labels
from symmd_md.train.load import checkpoint_statistics, initial_network, statistics_mapping
from symmd_md.train.logs import RunLog, log_row
from symmd_md.train.loss import Errors
from symmd_md.train.progress import RunDisplay, count_of, duration, make_display
from symmd_md.train.trainer import Trainer

STATISTICS_TOLERANCE = 1e-6
"""Relative; least squares and sums may differ in their last digits between machines, not more."""


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended."""

    reason: str
    """Why it ended: ``epochs``, ``minutes``, ``patience`` or ``interrupted``."""
    epochs: int
    """Finished epochs, those before a resume included."""
    best_epoch: int
    """Epoch (counted from 1) of the weights in best.ckpt."""
    best_loss: float
    """Validation loss of those weights."""
    minutes: float
    """Wall time, that before a resume included (minutes)."""


def train(config: RunConfig, output: Path, resume: bool = False) -> TrainingResult:
    """Train as ``config`` says and leave its files in ``output``; ``resume`` goes on from last.ckpt.

    Under torchrun every process calls this; batches are shared and the first process writes.
    """
    output = Path(output)
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    processes = start_processes(config.training.device)
    try:
        with ExitStack() as stack:
            processes.together(
                (lambda: stack.enter_context(run_folder(output, resume))) if processes.first else None
            )
            return _Run(config, output, resume, processes).loop()
    finally:
        end_processes()


class _Run:
    """Files, logs and display around a ``Trainer``."""

    def __init__(self, config: RunConfig, output: Path, resume: bool, processes: Processes) -> None:
        self.output, self.processes = output, processes
        content = processes.together(
            (lambda: _resumed_content(config, output, processes.count)) if resume else None
        )
        if content is not None and not config.model.species:
            species = tuple(content["config"]["model"]["species"])
            config = dataclasses.replace(config, model=dataclasses.replace(config.model, species=species))
        data = _prepare(config, output, processes)
        self.data = data
        model = dataclasses.replace(config.model, species=data.species)
        self.config = dataclasses.replace(config, model=model)
        self.statistics: ModelStatistics = data.statistics
        if content is not None:
            self.statistics = checkpoint_statistics(content)
            _refuse_other_data(content, data, output)
        torch.manual_seed(config.training.seed)
        if content is None and config.training.initial is not None:
            network = initial_network(config.training.initial, model)
            self.statistics = network.statistics
        else:
            network = SymmdNetwork(model, self.statistics)
        self.trainer = Trainer(network, data.train, data.valid, config.training, processes)
        self.kernels = choose_kernels(network, config.training.kernels, processes.device)
        self.valid_errors: dict[str, float] | None = None
        if content is not None:
            self.valid_errors = content["provenance"]["valid_errors"]
            self.trainer.load_state(content["state"], content["averaged"])
        self.log: RunLog | None = None
        if processes.first:
            write_run_config(self.config, output / "config.yaml")
            self.log = RunLog(output, self.trainer.epoch, config.training.tensorboard)
            self._write_last()
        self.last_write = time.monotonic()

    def loop(self) -> TrainingResult:
        """Epochs until one of the reasons to stop."""
        trainer, training = self.trainer, self.config.training
        display = make_display(training.max_epochs, trainer.progress, self.processes.first)
        self._greet(display)
        try:
            with _stop_signals(trainer):
                reason = self._reason()
                while reason is None:
                    reason = self._epoch(display)
        finally:
            display.close()
        trainer.refuse_divergence()
        if self.log is not None:
            self._write_last()
            self.log.close()
        self.processes.wait()
        result = TrainingResult(
            reason, trainer.epoch, trainer.best.epoch + 1, trainer.best.loss, trainer.minutes
        )
        if self.processes.first:
            print(_farewell(result, self.output), flush=True)
        return result

    def _epoch(self, display: RunDisplay) -> str | None:
        trainer = self.trainer
        batches = trainer.batches_left()
        done_before = trainer.batch
        display.begin_epoch(trainer.epoch + 1, done_before + len(batches))
        for indices in batches:
            trainer.train_step(indices)
            if display.due():
                display.show_batch(trainer.batch, trainer.progress, trainer.learning_rate, trainer.errors)
            if trainer.must_stop():
                return "interrupted"
            if self._write_is_due():
                self._write_last()
        train, valid = trainer.finish_epoch()
        improved = trainer.best.improves(trainer.criterion(train, valid), trainer.epoch - 1)
        if self.processes.first:
            self._record(train, valid, improved)
        display.show_epoch(trainer.epoch, trainer.progress, trainer.learning_rate, train, valid)
        return self._reason()

    def _reason(self) -> str | None:
        trainer, training = self.trainer, self.config.training
        if training.max_epochs is not None and trainer.epoch >= training.max_epochs:
            return "epochs"
        if trainer.progress >= 1.0 and trainer.batch == 0:
            return "minutes"
        if trainer.best.exhausted(trainer.epoch - 1, training.patience):
            return "patience"
        return None

    def _record(self, train: Errors, valid: Errors, improved: bool) -> None:
        trainer = self.trainer
        self.valid_errors = valid.as_mapping()
        row = log_row(trainer.epoch, trainer.step, trainer.minutes, trainer.learning_rate, train, valid)
        assert self.log is not None
        self.log.add(row)
        if improved:
            write_checkpoint(self.output / BEST, self._content("best"))
        if self.config.training.checkpoint_minutes == 0 or self._write_is_due():
            self._write_last()

    def _write_is_due(self) -> bool:
        interval = self.config.training.checkpoint_minutes
        return self.processes.first and 0 < 60 * interval <= time.monotonic() - self.last_write

    def _write_last(self) -> None:
        self.trainer.refuse_divergence()
        content = self._content("last")
        content["state"] = self.trainer.state()
        write_checkpoint(self.output / LAST, content)
        self.last_write = time.monotonic()

    def _content(self, kind: str) -> dict[str, Any]:
        return {
            "kind": kind,
            "config": to_mapping(self.config),
            "statistics": statistics_mapping(self.statistics),
            "averaged": self.trainer.averaged_state(),
            "structures": {"train": len(self.data.train), "valid": len(self.data.valid)},
            "provenance": self._provenance(),
        }

    def _provenance(self) -> dict[str, Any]:
        trainer = self.trainer
        return {
            "symmd_version": symmd_md.__version__,
            "torch_version": str(torch.__version__),
            "python_version": platform.python_version(),
            "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "device": str(self.processes.device),
            "processes": self.processes.count,
            "threads": torch.get_num_threads(),
            "kernels": self.kernels,
            "epoch": trainer.epoch,
            "step": trainer.step,
            "minutes": trainer.minutes,
            "structures_train": len(self.data.train),
            "structures_valid": len(self.data.valid),
            "valid_errors": self.valid_errors,
        }

    def _greet(self, display: RunDisplay) -> None:
        trainer = self.trainer
        start = f", resumed after epoch {trainer.epoch}" if trainer.step else ""
        found = self.data.summary.train
        display.say(
            f"training on {count_of(found.frames, 'structure')} with {found.energy_labels} energies, "
            f"{found.force_labels} forces, {found.stress_labels} stresses, "
            f"validating on {len(self.data.valid)}: "
            f"{', '.join(self.data.species)}; {trainer.parameters.values.numel()} parameters, "
            f"{self.config.training.precision}, {self.kernels} kernels, {self.processes.device}, "
            f"{count_of(self.processes.count, 'process')}{start}"
        )
        if not trainer.step:
            display.say(_origin_of_energies(self.data))


def _prepare(config: RunConfig, output: Path, processes: Processes) -> PreparedData:
    """The first process writes the split; the others then read it and find the same."""

    def work() -> PreparedData:
        data = prepare(config.data, config.model, output)
        refuse_missing_labels(config, data)
        return data

    first = processes.together(work if processes.first else None)
    others = processes.together(None if processes.first else work)
    data = first or others
    assert data is not None
    return data


def _resumed_content(config: RunConfig, output: Path, processes: int) -> dict[str, Any]:
    """The checkpoint to go on from; a run that would become a different one is refused by name."""
    path = output / LAST
    content = read_checkpoint(path)
    if "state" not in content:
        raise CheckpointError(f"{path} holds no optimiser state; resume from a {LAST} that symmd train wrote")
    old = run_config(content["config"])
    if not config.model.species:
        config = dataclasses.replace(
            config, model=dataclasses.replace(config.model, species=old.model.species)
        )
    before = content["provenance"]["processes"]
    if before != processes:
        raise ConfigurationError(
            f"{path} was trained by {count_of(before, 'process')}, found {processes}; resume with as many, "
            "or start a new run in another folder"
        )
    changed = changed_keys(old, config, moved_data=(output / SPLIT_FILE).exists())
    if changed:
        raise ConfigurationError(
            f"{path} was trained with another {' and '.join(repr(name) for name in changed)}; "
            "restore the old value or start a new run in another folder"
        )
    return content


def _refuse_other_data(content: dict[str, Any], data: PreparedData, output: Path) -> None:
    """A resumed run must see the structures that it saw before."""
    before, now = content["structures"], {"train": len(data.train), "valid": len(data.valid)}
    if before != now:
        raise CheckpointError(
            f"{output}/{LAST} was trained on {before['train']} structures, validated on {before['valid']}, "
            f"the data now have {now['train']} and {now['valid']}; restore the data or start a new run"
        )
    if content["config"]["training"].get("initial") is not None:
        return  # its constants are those of the run that it began with
    old, new = checkpoint_statistics(content), data.statistics
    close = math.isclose(old.energy_scale, new.energy_scale, rel_tol=STATISTICS_TOLERANCE) and math.isclose(
        old.mean_neighbours, new.mean_neighbours, rel_tol=STATISTICS_TOLERANCE
    )
    if not close:
        raise CheckpointError(
            f"{output}/{LAST} was trained on data with a force scale of {old.energy_scale:.9g} eV/Å and "
            f"{old.mean_neighbours:.9g} neighbours, the data now have {new.energy_scale:.9g} and "
            f"{new.mean_neighbours:.9g}; restore the data or start a new run"
        )


def _origin_of_energies(data: PreparedData) -> str:
    """A line on E0, which decides whether the model knows other compositions than those it has seen."""
    origin = data.summary.reference_energies_from
    if origin.startswith("least squares"):
        origin = (
            f"{origin}; such a model knows only the compositions it was trained on, give isolated atoms or "
            "'data.reference_energies' for others"
        )
    return f"reference energies: {origin}"


@contextmanager
def _stop_signals(trainer: Trainer) -> Iterator[None]:
    """Ctrl-C or SIGTERM ends the run after the present step; a second Ctrl-C at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def wish(number: int, frame: FrameType | None) -> None:
        if trainer.stop_wanted and number == signal.SIGINT:
            raise KeyboardInterrupt
        trainer.stop_wanted = True

    before = {number: signal.signal(number, wish) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _farewell(result: TrainingResult, output: Path) -> str:
    why = {
        "epochs": "all epochs are done",
        "minutes": "the time is up",
        "patience": "validation stopped improving",
        "interrupted": "stopped on request; go on with --resume",
    }[result.reason]
    best = f", best epoch {result.best_epoch}" if result.best_epoch else ""
    return (
        f"{why}: {count_of(result.epochs, 'epoch')} in {duration(60 * result.minutes)}{best}; "
        f"the model is {output / BEST}"
    )
