"""One training run in memory: its state, one step, one epoch, one validation."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from symmd_md.data import GraphDataset
from symmd_md.errors import SymmdError
from symmd_md.model import AtomBatch, SymmdNetwork
from symmd_md.train.batches import BatchSource, consecutive_batches, epoch_batches, seeded_generator
from symmd_md.train.config import TrainingConfig
from symmd_md.train.distributed import Processes
from symmd_md.train.loss import SUMS, Errors, Loss
from symmd_md.train.parameters import FlatParameters, MovingAverage, build_optimiser, clip_gradient
from symmd_md.train.schedule import BestEpoch, LearningRate, run_progress

MINUTES, STOP = SUMS, SUMS + 1
TAIL = SUMS + 2
"""Numbers that travel with the gradients: error sums, the first process's clock, and a wish to stop."""
GPU_STOP_INTERVAL = 16
"""Steps between two looks at the wish to stop, which on a GPU waits for all work before it."""


class Trainer:
    """State of a run and what moves it on.

    ``epoch`` counts finished epochs, ``batch`` the finished batches of the next one, ``step`` all batches.
    """

    def __init__(
        self,
        network: SymmdNetwork,
        train: GraphDataset,
        valid: GraphDataset,
        config: TrainingConfig,
        processes: Processes,
    ) -> None:
        self.network, self.config, self.processes = network, config, processes
        dtype = torch.float64 if config.precision == "float64" else torch.float32
        network.to(device=processes.device, dtype=dtype)
        self.parameters = FlatParameters(network, TAIL)
        self.inputs = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimiser = build_optimiser(
            self.parameters, config.learning_rate, config.weight_decay, config.amsgrad
        )
        self.average = MovingAverage(self.parameters.values, config.ema_decay)
        self.loss, self.rate, self.best = Loss(config), LearningRate(config), BestEpoch()
        self.train_source = BatchSource(train, dtype, processes.device)
        self.valid_source = BatchSource(valid, dtype, processes.device)
        self.epoch = self.batch = self.step = 0
        self.totals = torch.zeros(SUMS, dtype=torch.float64, device=processes.device)
        self.minutes_before, self.started = 0.0, time.perf_counter()
        self.shared_minutes = 0.0
        self.learning_rate = 0.0
        self.stop_wanted = False

    @property
    def batches_per_epoch(self) -> int:
        return -(-len(self.train_source) // self.config.batch_size)

    @property
    def minutes(self) -> float:
        """Wall time of the run so far, earlier parts included (minutes)."""
        return self.minutes_before + (time.perf_counter() - self.started) / 60.0

    @property
    def progress(self) -> float:
        """Fraction of the run that is over; the same in all processes."""
        minutes = 0.0
        if self.config.max_minutes is not None:
            minutes = self.minutes if self.processes.count == 1 else self.shared_minutes
        return run_progress(self.epoch + self.batch / self.batches_per_epoch, minutes, self.config)

    @property
    def errors(self) -> Errors:
        """Training errors of the present epoch so far, at the weights of each step."""
        return Errors.from_sums(self.totals)

    def batches_left(self) -> list[list[int]]:
        """The batches of the present epoch that are still to come."""
        batches = epoch_batches(len(self.train_source), self.config.batch_size, self.config.seed, self.epoch)
        return batches[self.batch :]

    def train_step(self, indices: list[int]) -> None:
        """One step of the optimiser on the structures ``indices``, shared among the processes."""
        config, parameters = self.config, self.parameters
        parameters.bucket.zero_()
        share = self.processes.share(indices)
        if share:
            self._add_gradient(share, len(indices))
        if self.processes.count > 1:
            if self.processes.first:
                parameters.tail[MINUTES] = self.minutes
            parameters.tail[STOP] = float(self.stop_wanted)
            self.processes.add_up(parameters.bucket)
            if config.max_minutes is not None:
                self.shared_minutes = float(parameters.tail[MINUTES])
        self.totals += parameters.tail[:SUMS]
        if config.gradient_norm is not None:
            clip_gradient(parameters.gradients, config.gradient_norm)
        self.learning_rate = self.rate.at(self.step, self.progress)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate
        self.optimiser.step()
        self.average.update(parameters.values)
        self.step += 1
        self.batch += 1

    def _add_gradient(self, share: list[int], structures: int) -> None:
        rotation = None
        if self.config.random_rotations:
            rotation = seeded_generator(
                "rotation", self.config.seed, self.epoch, self.batch, self.processes.rank
            )
        batch = self.train_source.batch(share, rotation)
        forces, stress = self.loss.needs(batch)
        prediction = self.network(batch, forces=forces, stress=stress, create_graph=True)
        loss, sums = self.loss(prediction, batch, structures)
        # Naming the inputs keeps autograd from also differentiating with respect to the edges.
        if loss.requires_grad:
            torch.autograd.backward(loss, inputs=self.inputs)
        self.parameters.tail[:SUMS] = sums

    def must_stop(self) -> bool:
        """Whether any process was asked to stop; the same in all processes after each step."""
        if self.processes.count == 1:
            return self.stop_wanted
        if self.processes.device.type == "cuda" and self.step % GPU_STOP_INTERVAL:
            return False
        return float(self.parameters.tail[STOP]) > 0

    def finish_epoch(self) -> tuple[Errors, Errors]:
        """Validate and count the epoch; returns training errors and validation errors (averaged weights)."""
        train = self.errors
        if not math.isfinite(train.loss):
            raise self._divergence(f"the loss is {train.loss}")
        self.refuse_divergence()
        valid = self.validate()
        self.rate.see_validation(self.criterion(train, valid))
        self.epoch, self.batch = self.epoch + 1, 0
        self.totals.zero_()
        self._share_clock()
        return train, valid

    def refuse_divergence(self) -> None:
        """Raise where a weight is no longer a number, before it is written or validated."""
        if not bool(torch.isfinite(self.parameters.values).all() & torch.isfinite(self.average.values).all()):
            raise self._divergence("a weight is not finite")

    def _divergence(self, what: str) -> SymmdError:
        return SymmdError(
            f"training diverged in epoch {self.epoch + 1}: {what}; lower "
            "'training.learning_rate' or 'training.gradient_norm' and start again"
        )

    def criterion(self, train: Errors, valid: Errors) -> float:
        """The loss that decides which weights are best: validation's, or else training's."""
        return train.loss if math.isnan(valid.loss) else valid.loss

    def validate(self) -> Errors:
        """Errors of the averaged weights on the validation set."""
        totals = torch.zeros_like(self.totals)
        values = self.parameters.values
        trained = values.clone()
        values.copy_(self.average.values)
        try:
            for batch in self._valid_batches():
                prediction = self.network(
                    batch,
                    forces=batch.forces is not None,
                    stress=batch.stress is not None and self.config.stress_weight > 0,
                )
                with torch.no_grad():
                    totals += self.loss(prediction, batch, batch.structure_count)[1]
        finally:
            values.copy_(trained)
        self.processes.add_up(totals)
        if not bool(torch.isfinite(totals).all()):
            raise self._divergence("a validation error is not finite")
        return Errors.from_sums(totals)

    def _valid_batches(self) -> Iterator[AtomBatch]:
        assert self.config.valid_batch_size is not None
        indices = list(range(len(self.valid_source)))
        for group in consecutive_batches(indices, self.config.valid_batch_size):
            share = self.processes.share(group)
            if share:
                yield self.valid_source.batch(share)

    def _share_clock(self) -> None:
        """Tell every process the first one's clock, so that all agree on the time left."""
        if self.config.max_minutes is not None and self.processes.count > 1:
            clock = self.totals.new_zeros(1)
            if self.processes.first:
                clock[0] = self.minutes
            self.processes.add_up(clock)
            self.shared_minutes = float(clock)

    def averaged_state(self) -> dict[str, Tensor]:
        """The state of the network with the averaged weights, on the CPU."""
        state = {name: tensor.detach().clone().cpu() for name, tensor in self.network.state_dict().items()}
        for name, tensor in self.parameters.by_name(self.average.values).items():
            state[name] = tensor.cpu()
        return state

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs beside the averaged weights and its configuration."""
        random = {"cpu": torch.get_rng_state()}
        if self.processes.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state()
        return {
            "parameters": self.parameters.by_name(self.parameters.values),
            "optimiser": self.optimiser.state_dict(),
            "average_updates": self.average.updates,
            "rate": self.rate.state(),
            "best": {"loss": self.best.loss, "epoch": self.best.epoch},
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "totals": self.totals.cpu(),
            "minutes": self.minutes,
            "random": random,
        }

    def load_state(self, state: dict[str, Any], averaged: dict[str, Tensor]) -> None:
        """Go on exactly where ``state`` was taken."""
        self.parameters.values.copy_(self.parameters.flat(state["parameters"]))
        self.average.values.copy_(self.parameters.flat(averaged))
        self.average.updates = state["average_updates"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.rate.load_state(state["rate"])
        self.best.loss, self.best.epoch = state["best"]["loss"], state["best"]["epoch"]
        self.epoch, self.batch, self.step = state["epoch"], state["batch"], state["step"]
        self.totals.copy_(state["totals"])
        self.minutes_before, self.started = state["minutes"], time.perf_counter()
        self.shared_minutes = state["minutes"]
        torch.set_rng_state(state["random"]["cpu"])
        if self.processes.device.type == "cuda" and "cuda" in state["random"]:
            torch.cuda.set_rng_state(state["random"]["cuda"])
