"""The network of a checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from symmd_md.configuration import from_mapping
from symmd_md.errors import CheckpointError
from symmd_md.model import ModelConfig, ModelStatistics, SymmdNetwork
from symmd_md.train.checkpoint import read_checkpoint


def load_network(path: Path) -> SymmdNetwork:
    """The network of a checkpoint (best or last) with averaged weights, on the CPU, in evaluation mode."""
    return network_of(read_checkpoint(path), Path(path))


def network_of(content: dict[str, Any], path: Path) -> SymmdNetwork:
    """The network of a checkpoint that was read from ``path``."""
    try:
        config = from_mapping(ModelConfig, content["config"]["model"], "model")
        statistics = from_mapping(ModelStatistics, content["statistics"], "statistics")
        weights = content["averaged"]
    except KeyError as error:
        raise CheckpointError(
            f"{path} lacks the entry {error}; use a checkpoint that symmd train wrote"
        ) from None
    network = SymmdNetwork(config, statistics)
    network.to(precision_of(content))
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not fit the network of its own configuration: {reason}") from None
    network.requires_grad_(False)
    return network.eval()


def initial_network(path: Path, model: ModelConfig) -> SymmdNetwork:
    """A network to train further: averaged weights and training-set constants of a checkpoint.

    ``model``: what the run says, which must be what the checkpoint has.
    """
    content = read_checkpoint(path)
    found = network_of(content, path)
    for item in dataclasses.fields(ModelConfig):
        expected, there = getattr(model, item.name), getattr(found.config, item.name)
        if expected != there:
            raise CheckpointError(
                f"{path}, named by 'training.initial', has 'model.{item.name}' = {there}, this run "
                f"{expected}; give both the same"
            )
    network = SymmdNetwork(model, found.statistics)
    network.load_state_dict(found.state_dict())
    return network


def precision_of(content: dict[str, Any]) -> torch.dtype:
    """Arithmetic that the network of a checkpoint was trained in."""
    return torch.float64 if content["config"]["training"]["precision"] == "float64" else torch.float32


def checkpoint_statistics(content: dict[str, Any]) -> ModelStatistics:
    """The training-set constants of a checkpoint."""
    return from_mapping(ModelStatistics, content["statistics"], "statistics")


def statistics_mapping(statistics: ModelStatistics) -> dict[str, Any]:
    """The training-set constants as plain values."""
    return dataclasses.asdict(statistics)
