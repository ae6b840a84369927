"""All parameters of a network in one vector, so that a step costs a handful of operations.

The parameters and their gradients become views of two flat tensors: clipping, the moving average, the
optimiser and the all-reduce between processes then each act on one vector and not on dozens of small ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLIP_EPSILON = 1e-12


class FlatParameters:
    """Flat views of the parameters (``values``) and gradients (``gradients``) of a network, both [P].

    ``bucket`` [P + extra] is the gradients and then ``tail``, numbers that travel with them.
    Matrices come first, so that weight decay acts on one contiguous part.
    """

    def __init__(self, network: nn.Module, extra: int = 0) -> None:
        named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        named.sort(key=lambda item: item[1].ndim < 2)
        self.names = [name for name, _ in named]
        self.shapes = [parameter.shape for _, parameter in named]
        first = named[0][1]
        count = sum(parameter.numel() for _, parameter in named)
        self.values = torch.empty(count, dtype=first.dtype, device=first.device)
        self.bucket = torch.zeros(count + extra, dtype=first.dtype, device=first.device)
        self.gradients, self.tail = self.bucket[:count], self.bucket[count:]
        self.matrix_count = sum(parameter.numel() for _, parameter in named if parameter.ndim >= 2)
        start = 0
        for _, parameter in named:
            part = slice(start, start + parameter.numel())
            self.values[part] = parameter.detach().reshape(-1)
            parameter.data = self.values[part].view(parameter.shape)
            parameter.grad = self.gradients[part].view(parameter.shape)
            start = part.stop

    def optimiser_parts(self) -> list[nn.Parameter]:
        """Matrices and the rest as one parameter each, sharing memory with the network's."""
        parts = []
        for part in (slice(0, self.matrix_count), slice(self.matrix_count, self.values.numel())):
            parameter = nn.Parameter(self.values[part])
            parameter.grad = self.gradients[part]
            parts.append(parameter)
        return parts

    def by_name(self, flat: Tensor) -> dict[str, Tensor]:
        """A vector [P] cut into copies with the names and shapes of the parameters."""
        sizes = [shape.numel() for shape in self.shapes]
        return {
            name: part.reshape(shape).clone()
            for name, shape, part in zip(self.names, self.shapes, flat.split(sizes), strict=True)
        }

    def flat(self, tensors: dict[str, Tensor]) -> Tensor:
        """The vector [P] of tensors given by name."""
        parts = [tensors[name].reshape(-1) for name in self.names]
        return torch.cat(parts).to(device=self.values.device, dtype=self.values.dtype)


def build_optimiser(
    parameters: FlatParameters, learning_rate: float, weight_decay: float, amsgrad: bool
) -> torch.optim.AdamW:
    """Fused AdamW that decays matrices only: vectors and scalars are offsets and scales, not couplings."""
    matrices, others = parameters.optimiser_parts()
    groups = [{"params": [matrices], "weight_decay": weight_decay}]
    if others.numel():
        groups.append({"params": [others], "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=learning_rate, amsgrad=amsgrad, fused=True)


def clip_gradient(gradients: Tensor, longest: float) -> None:
    """Scale the vector down to the length ``longest`` if it is longer."""
    length = torch.linalg.vector_norm(gradients)
    gradients.mul_((longest / (length + CLIP_EPSILON)).clamp(max=1.0))


class MovingAverage:
    """Exponential moving average of a vector; early steps use a smaller decay, so that no bias is left."""

    def __init__(self, values: Tensor, decay: float) -> None:
        self.values = values.clone()
        self.decay = decay
        self.updates = 0

    def decay_now(self) -> float:
        """Decay of the next update: min(decay, (1 + t) / (10 + t)) after t updates."""
        return min(self.decay, (1 + self.updates) / (10 + self.updates))

    @torch.no_grad()
    def update(self, values: Tensor) -> None:
        """Move towards ``values``."""
        self.values.lerp_(values, 1.0 - self.decay_now())
        self.updates += 1
