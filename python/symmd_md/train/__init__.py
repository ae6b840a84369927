"""Training: the run a YAML file describes, its checkpoints, and the network that comes out."""

from symmd_md.train.config import RunConfig, TrainingConfig, read_run_config, run_config
from symmd_md.train.load import load_network
from symmd_md.train.run import TrainingResult, train

__all__ = [
    "RunConfig",
    "TrainingConfig",
    "TrainingResult",
    "load_network",
    "read_run_config",
    "run_config",
    "train",
]
