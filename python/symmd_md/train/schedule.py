"""The learning rate over a run, and what the validation loss decides: decay, best model, early stop."""

from __future__ import annotations

import math
from typing import Any

from symmd_md.train.config import TrainingConfig


class LearningRate:
    """Linear warm-up by steps times a decay by progress (cosine) or by validation (plateau)."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.plateau_scale = 1.0
        self.plateau_best = math.inf
        self.plateau_stalled = 0

    def at(self, step: int, progress: float) -> float:
        """Learning rate of a step (counted from 0) when the fraction ``progress`` of the run is over."""
        config = self.config
        top, floor = config.learning_rate, config.learning_rate_floor
        warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
        if config.schedule == "cosine":
            rate = floor + 0.5 * (top - floor) * (1.0 + math.cos(math.pi * min(1.0, max(0.0, progress))))
        elif config.schedule == "plateau":
            rate = max(floor, top * self.plateau_scale)
        else:
            rate = top
        return warm * rate

    def see_validation(self, loss: float) -> None:
        """Take note of the validation loss at the end of an epoch."""
        if self.config.plateau_factor is None or self.config.plateau_patience is None:
            return
        if loss < self.plateau_best:
            self.plateau_best, self.plateau_stalled = loss, 0
            return
        self.plateau_stalled += 1
        if self.plateau_stalled >= self.config.plateau_patience:
            self.plateau_scale *= self.config.plateau_factor
            self.plateau_stalled = 0

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"scale": self.plateau_scale, "best": self.plateau_best, "stalled": self.plateau_stalled}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        self.plateau_scale, self.plateau_best = state["scale"], state["best"]
        self.plateau_stalled = state["stalled"]


def run_progress(epochs: float, minutes: float, config: TrainingConfig) -> float:
    """Fraction of the run that is over, by epochs or by minutes, whichever is further."""
    parts = [0.0]
    if config.max_epochs is not None:
        parts.append(epochs / config.max_epochs)
    if config.max_minutes is not None:
        parts.append(minutes / config.max_minutes)
    return min(1.0, max(parts))


class BestEpoch:
    """The lowest validation loss so far and how long ago it was."""

    def __init__(self) -> None:
        self.loss = math.inf
        self.epoch = -1

    def improves(self, loss: float, epoch: int) -> bool:
        """Whether ``loss`` is the lowest so far; then it is kept."""
        if not loss < self.loss:
            return False
        self.loss, self.epoch = loss, epoch
        return True

    def exhausted(self, epoch: int, patience: int | None) -> bool:
        """Whether ``patience`` epochs have passed at the end of ``epoch`` without a better one."""
        return patience is not None and epoch - self.epoch >= patience
