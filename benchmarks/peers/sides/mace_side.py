"""MACE of mace-torch as a side: as its authors size it, by TorchScript and by torch.compile."""

from __future__ import annotations

import copy
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from mace import data, modules
from mace.tools.compile import configure_autograd_for_compile, prepare
from serving import CUTOFF, NUMBERS, Side, atom_types, command_line, count_operations, serve

SIZES = {
    **{"small": "128x0e", "medium": "128x0e + 128x1o"},
    **{"l0": "256x0e", "l1": "256x0e + 256x1o", "l2": "256x0e + 256x1o + 256x2e"},
}
"""Features of an atom between the layers; two layers, correlation 3, harmonics up to l = 3. The second line
has the models whose errors its first paper published (arXiv 2206.07697)."""


def network(size: str) -> torch.nn.Module:
    """With random weights, fp32."""
    # mace makes the e3nn that it needs loadable for this torch, so it comes first.
    from e3nn import o3

    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    return modules.ScaleShiftMACE(
        r_max=CUTOFF,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
        num_interactions=2,
        num_elements=len(NUMBERS),
        hidden_irreps=o3.Irreps(SIZES[size]),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(NUMBERS)),
        avg_num_neighbors=50.0,
        atomic_numbers=list(NUMBERS),
        correlation=3,
        gate=torch.nn.functional.silu,
        radial_MLP=[64, 64, 64],
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )


def scripted(eager: torch.nn.Module) -> Any:
    """As mace makes its file for LAMMPS."""
    from e3nn.util import jit

    return jit.compile(copy.deepcopy(eager))


def compiled(eager: torch.nn.Module) -> Any:
    """As mace's own ASE calculator does, for one number of atoms and pairs at a time.

    Code for any number takes minutes to compile and was five times slower than code for one.
    """
    from mace.tools.scripts_utils import extract_model

    configure_autograd_for_compile(allow_autograd=True)
    model = torch.compile(
        prepare(extract_model)(model=eager, map_location="cpu"), dynamic=False, fullgraph=True
    )
    for parameter in model.parameters():
        parameter.requires_grad = False
    return model


class MaceSide(Side):
    """Given its list by matscipy, as mace's own data pipeline makes it."""

    def __init__(self, size: str, route: str) -> None:
        self.package = f"mace-torch {version('mace-torch')}"
        self.eager = network(size)
        self.parameters = sum(parameter.numel() for parameter in self.eager.parameters())
        self.traced = route == "compiled"
        self.model = compiled(self.eager) if self.traced else scripted(self.eager)

    def load(self, numbers: np.ndarray, cell: np.ndarray | None) -> None:
        types = torch.from_numpy(atom_types(numbers))
        self.cell, self.periodic = cell, (cell is not None,) * 3
        self.fixed = {
            "node_attrs": torch.nn.functional.one_hot(types, len(NUMBERS)).float(),
            "batch": torch.zeros(len(numbers), dtype=torch.int64),
            "ptr": torch.tensor([0, len(numbers)]),
            "head": torch.zeros(1, dtype=torch.int64),
        }

    def place(self, positions: np.ndarray) -> float | None:
        cell = None if self.cell is None else self.cell.copy()
        edges, shifts, unit_shifts, cell = data.get_neighborhood(positions, CUTOFF, self.periodic, cell)
        self.batch = self.fixed | {
            "positions": torch.from_numpy(positions).float(),
            "cell": torch.from_numpy(np.asarray(cell)).float(),
            "edge_index": torch.from_numpy(edges).long(),
            "shifts": torch.from_numpy(shifts).float(),
            "unit_shifts": torch.from_numpy(unit_shifts).float(),
        }
        return float(edges.shape[1])

    def step(self) -> tuple[float, np.ndarray]:
        return self._evaluate(self.model, self.traced)

    def _evaluate(self, model: Any, traced: bool) -> tuple[float, np.ndarray]:
        # The model marks positions as a variable, so each step has its own. torch.compile finds the forces
        # only in training mode and with variables from the start: so mace's own calculator calls it.
        variables = ("positions", "node_attrs") if traced else ("positions",)
        batch = self.batch | {name: self.batch[name].clone().requires_grad_() for name in variables}
        found = model(batch, training=traced, compute_force=True)
        return found["energy"].item(), found["forces"].detach().numpy()

    def operations(self) -> dict[str, float]:
        return count_operations(lambda: self._evaluate(self.eager, False))


def main() -> None:
    """What run.py starts."""
    asked = command_line(__doc__, [f"{size}-{route}" for size in SIZES for route in ("script", "compiled")])
    torch.set_num_threads(asked.threads)
    size, _, route = asked.variant.partition("-")
    serve(lambda: MaceSide(size, route), asked.replies)


if __name__ == "__main__":
    main()
