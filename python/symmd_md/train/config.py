"""What a training run is: the sections ``model``, ``data`` and ``training`` of one YAML file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from symmd_md.configuration import from_mapping, read_yaml, to_mapping
from symmd_md.data import DataConfig
from symmd_md.errors import ConfigurationError
from symmd_md.files import write_atomically
from symmd_md.model import ModelConfig

DEFAULT_EPOCHS = 500
DEFAULT_HUBER_DELTA = 0.01
DEFAULT_PLATEAU_FACTOR = 0.5
DEFAULT_PLATEAU_PATIENCE = 20


@dataclass(frozen=True)
class TrainingConfig:
    """YAML section ``training``."""

    max_epochs: int | None = None
    """Passes over the training set; absent: 500, or no bound where ``max_minutes`` is given."""
    max_minutes: float | None = None
    """Wall time of the run (minutes); it ends after the epoch in which the time is up."""
    initial: Path | None = None
    """Checkpoint whose averaged weights and training-set constants begin the run; absent: random weights."""
    batch_size: int = 5
    """Structures in one step, over all processes together."""
    valid_batch_size: int | None = None
    """Structures evaluated together in validation; absent: four times ``batch_size``."""
    learning_rate: float = 5e-3
    """Highest step length of AdamW."""
    learning_rate_floor: float = 1e-5
    """Step length at the end of the decay."""
    warmup_steps: int = 200
    """Steps over which the learning rate rises linearly from zero."""
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    """Decay: cosine over the whole run, by a factor when validation stalls, or none."""
    plateau_factor: float | None = None
    """Factor on the learning rate when validation stalls; schedule plateau only (default 0.5)."""
    plateau_patience: int | None = None
    """Epochs without a better validation loss before the factor; schedule plateau only (default 20)."""
    weight_decay: float = 1e-6
    """Decoupled weight decay of AdamW, on matrices only."""
    amsgrad: bool = True
    """Whether AdamW keeps the largest second moment."""
    gradient_norm: float | None = 10.0
    """Longest gradient; a longer one is scaled down. Absent: no clipping."""
    ema_decay: float = 0.99
    """Decay of the moving average of the weights per step, which validation and the saved model use."""
    loss: Literal["mse", "huber"] = "mse"
    """Error measure: squared, or squared up to ``huber_delta`` and linear above."""
    huber_delta: float | None = None
    """Error at which Huber becomes linear, in the units of each label; loss huber only (default 0.01)."""
    energy_weight: float = 1.0
    """Weight of the squared error of the energy per atom, (eV/atom)²."""
    forces_weight: float = 1.0
    """Weight of the mean squared error of a force component, (eV/Å)²."""
    stress_weight: float = 100.0
    """Weight of the mean squared error of a stress component, (eV/Å³)²; used where labels exist."""
    patience: int | None = None
    """Epochs without a better validation loss after which the run stops; absent: never."""
    random_rotations: bool = False
    """Whether every structure is turned at random each time it is used."""
    precision: Literal["float32", "float64"] = "float32"
    """Arithmetic of the network."""
    seed: int = 0
    """Seed of the initial weights, the order of structures and the rotations."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs; auto takes a GPU that is there."""
    threads: int | None = None
    """Threads of torch on the CPU; absent: torch's own choice."""
    kernels: Literal["auto", "plain", "fused"] = "auto"
    """Plain torch operations or the compiled operators with the same results."""
    checkpoint_minutes: float = 0.0
    """Least time between two writes of last.ckpt (minutes); 0: after every epoch."""
    tensorboard: bool = True
    """Whether TensorBoard logs are written beside the CSV."""

    def __post_init__(self) -> None:
        if self.max_epochs is None and self.max_minutes is None:
            object.__setattr__(self, "max_epochs", DEFAULT_EPOCHS)
        if self.valid_batch_size is None:
            object.__setattr__(self, "valid_batch_size", 4 * self.batch_size)
        self._check_numbers()
        self._settle("huber_delta", "loss", "huber", DEFAULT_HUBER_DELTA)
        self._settle("plateau_factor", "schedule", "plateau", DEFAULT_PLATEAU_FACTOR)
        self._settle("plateau_patience", "schedule", "plateau", DEFAULT_PLATEAU_PATIENCE)
        if self.learning_rate_floor > self.learning_rate:
            raise ConfigurationError(
                f"'training.learning_rate_floor' = {self.learning_rate_floor} exceeds "
                f"'training.learning_rate' = {self.learning_rate}"
            )
        if self.energy_weight == self.forces_weight == self.stress_weight == 0:
            raise ConfigurationError(
                "one of 'training.energy_weight', 'training.forces_weight' and 'training.stress_weight' "
                "must be positive; all are 0"
            )
        if self.plateau_factor is not None and self.plateau_factor >= 1:
            raise ConfigurationError(
                f"'training.plateau_factor' must be below 1; found {self.plateau_factor}"
            )
        if self.ema_decay >= 1:
            raise ConfigurationError(f"'training.ema_decay' must be below 1; found {self.ema_decay}")

    def _check_numbers(self) -> None:
        positive = (
            *("max_epochs", "max_minutes", "batch_size", "valid_batch_size", "learning_rate", "threads"),
            *("gradient_norm", "huber_delta", "patience", "plateau_factor", "plateau_patience"),
        )
        not_negative = (
            *("learning_rate_floor", "warmup_steps", "weight_decay", "ema_decay", "energy_weight"),
            *("forces_weight", "stress_weight", "seed", "checkpoint_minutes"),
        )
        for name in positive:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigurationError(f"'training.{name}' must be positive; found {value}")
        for name in not_negative:
            value = getattr(self, name)
            if not value >= 0:
                raise ConfigurationError(f"'training.{name}' must not be negative; found {value}")

    def _settle(self, name: str, key: str, needed: str, default: float) -> None:
        """Fill the default of a key that belongs to one choice of another, or refuse it elsewhere."""
        value, choice = getattr(self, name), getattr(self, key)
        if choice == needed and value is None:
            object.__setattr__(self, name, default)
        if choice != needed and value is not None:
            raise ConfigurationError(
                f"'training.{name}' is given but 'training.{key}' is {choice}; remove it or set "
                f"'training.{key}: {needed}'"
            )


@dataclass(frozen=True)
class RunConfig:
    """One training run."""

    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


def read_run_config(path: Path) -> RunConfig:
    """The run that a YAML file describes; unknown and contradictory keys are refused by name."""
    return run_config(read_yaml(path))


def run_config(mapping: dict[str, Any]) -> RunConfig:
    """The run that a mapping with the sections model, data and training describes."""
    for section in ("model", "data", "training"):
        if mapping.get(section, {}) is None:
            mapping = {**mapping, section: {}}
    return from_mapping(RunConfig, mapping)


def write_run_config(config: RunConfig, path: Path) -> None:
    """Write the run as YAML that ``read_run_config`` turns back into the same run."""
    text = yaml.safe_dump(to_mapping(config), sort_keys=False, allow_unicode=True)
    write_atomically(path, text.encode("utf-8"))


MAY_CHANGE_ON_RESUME = frozenset(
    {
        "max_epochs",
        "max_minutes",
        "patience",
        "valid_batch_size",
        "threads",
        "device",
        "kernels",
        "checkpoint_minutes",
        "tensorboard",
    }
)
"""Keys of ``training`` that a resumed run may change.

With other threads, device or kernels it goes on up to rounding. With another ``max_epochs`` or
``max_minutes`` the cosine goes on from the new fraction of the run; the clock is in the checkpoint.
"""


DATA_FILES = ("train", "valid", "isolated_atoms")


def changed_keys(old: RunConfig, new: RunConfig, moved_data: bool = False) -> list[str]:
    """Names of the keys whose change would make a resumed run a different one, e.g. ``model.channels``.

    ``moved_data``: data files may have other paths, because their content is compared with split.json.
    """
    changed = []
    for section in ("model", "data", "training"):
        before, after = getattr(old, section), getattr(new, section)
        for item in dataclasses.fields(before):
            if section == "training" and item.name in MAY_CHANGE_ON_RESUME:
                continue
            if section == "data" and item.name in DATA_FILES and moved_data:
                # Digests of train and valid follow each other, so that their numbers must stay.
                if _file_count(getattr(before, item.name)) != _file_count(getattr(after, item.name)):
                    changed.append(f"{section}.{item.name}")
                continue
            if getattr(before, item.name) != getattr(after, item.name):
                changed.append(f"{section}.{item.name}")
    return changed


def _file_count(paths: Path | tuple[Path, ...] | None) -> int:
    if paths is None:
        return 0
    return len(paths) if isinstance(paths, (tuple, list)) else 1
