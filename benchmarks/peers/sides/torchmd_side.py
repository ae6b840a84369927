"""TensorNet and the equivariant transformer of torchmd-net as sides, by TorchScript as in OpenMM."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from serving import CUTOFF, Side, command_line, count_operations, serve
from torchmdnet.models import tensornet
from torchmdnet.models.model import create_model

COMMON = {
    "embedding_dimension": 128,
    "num_rbf": 32,
    "rbf_type": "expnorm",
    "trainable_rbf": False,
    "activation": "silu",
    "cutoff_lower": 0.0,
    "cutoff_upper": CUTOFF,
    "max_z": 100,
    "max_num_neighbors": 96,
    "precision": 32,
    "derivative": True,
    "atom_filter": -1,
    "prior_model": None,
    "output_model": "Scalar",
    "reduce_op": "add",
}
SIZES: dict[str, dict[str, Any]] = {
    "tensornet": {"model": "tensornet", "num_layers": 2, "equivariance_invariance_group": "O(3)"},
    "et": {
        "model": "equivariant-transformer",
        "num_layers": 6,
        "num_heads": 8,
        "attn_activation": "silu",
        "distance_influence": "both",
        "neighbor_embedding": True,
    },
}
PLAIN = ("compose_tensor", "decompose_tensor", "tensor_matmul_o3", "tensor_matmul_so3")
"""What TensorNet takes from compiled kernels, with plain torch beside it under a leading underscore."""


class TorchMDSide(Side):
    """Finds its neighbours in the step, by kernels of its own."""

    list_in_step = True

    def __init__(self, size: str) -> None:
        self.package = f"torchmd-net {version('torchmd-net')}"
        self.size = size
        self.eager = self._network()
        self.parameters = sum(parameter.numel() for parameter in self.eager.parameters())
        self.model = torch.jit.script(self.eager)

    def _network(self) -> torch.nn.Module:
        torch.manual_seed(0)
        model = create_model(COMMON | SIZES[self.size]).eval()
        for parameter in model.parameters():
            parameter.requires_grad = False
        return model

    def load(self, numbers: np.ndarray, cell: np.ndarray | None) -> None:
        self.numbers = torch.from_numpy(numbers).long()
        self.batch = torch.zeros(len(numbers), dtype=torch.int64)
        self.box = None if cell is None else torch.from_numpy(cell).float()

    def place(self, positions: np.ndarray) -> float | None:
        self.positions = torch.from_numpy(positions).float()
        # With each atom's pair with itself, which is not one of the others' pairs.
        edges, _, _ = self.eager.representation_model.distance(self.positions, self.batch, self.box)
        return float((edges[0] != edges[1]).sum())

    def step(self) -> tuple[float, np.ndarray]:
        return self._evaluate(self.model)

    def _evaluate(self, model: Any) -> tuple[float, np.ndarray]:
        energy, forces = model(self.numbers, self.positions.detach().clone(), self.batch, self.box)
        return energy.item(), forces.detach().numpy()

    def operations(self) -> dict[str, float]:
        # The compiled kernels cannot be counted; the same arithmetic in torch can.
        kernels = {name: getattr(tensornet, name) for name in (*PLAIN, "OPT")}
        try:
            for name in PLAIN:
                setattr(tensornet, name, getattr(tensornet, "_" + name))
            tensornet.OPT = False
            plain = self._network()
            return count_operations(lambda: self._evaluate(plain))
        finally:
            for name, kernel in kernels.items():
                setattr(tensornet, name, kernel)


def main() -> None:
    """What run.py starts."""
    asked = command_line(__doc__, SIZES)
    torch.set_num_threads(asked.threads)
    serve(lambda: TorchMDSide(asked.variant), asked.replies)


if __name__ == "__main__":
    main()
