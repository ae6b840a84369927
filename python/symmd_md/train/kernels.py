"""Which operations a network runs with: plain torch, or the compiled operators with the same results."""

from __future__ import annotations

import torch

from symmd_md import kernels
from symmd_md.errors import ConfigurationError
from symmd_md.model import SymmdNetwork


def choose_kernels(network: SymmdNetwork, choice: str, device: torch.device) -> str:
    """Give ``network`` the operations of ``training.kernels``; returns which, plain or fused."""
    if choice == "fused" and device.type != "cpu":
        raise ConfigurationError(
            f"training.kernels: fused computes on the CPU alone, found the device {device}; take plain or "
            "auto there, or training.device: cpu"
        )
    if choice == "plain" or (choice == "auto" and (device.type != "cpu" or not kernels.available())):
        return "plain"
    kernels.use_fused(network)
    return "fused"
