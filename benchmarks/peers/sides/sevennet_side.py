"""SevenNet-0, the model that sevenn ships, as a side: deployed to TorchScript as for LAMMPS."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import sevenn._keys as keys
import torch
from ase import Atoms
from serving import CUTOFF, Side, command_line, count_operations, serve
from sevenn.scripts.deploy import deploy
from sevenn.train.dataload import unlabeled_atoms_to_graph
from sevenn.util import load_checkpoint, pretrained_name_to_path

NAME = "7net-0"
ENERGY = keys.PRED_TOTAL_ENERGY


class SevenNetSide(Side):
    """Given its list by matscipy, as sevenn's own data pipeline makes it."""

    def __init__(self, folder: Path) -> None:
        self.package = f"sevenn {version('sevenn')}"
        self.checkpoint = pretrained_name_to_path(NAME)
        read = load_checkpoint(self.checkpoint)
        self.eager = read.build_model()
        self.types = {int(number): index for number, index in read.config[keys.TYPE_MAP].items()}
        self.parameters = sum(parameter.numel() for parameter in self.eager.parameters())
        path = folder / f"sevennet_{version('sevenn')}_{torch.__version__}.pt"
        if not path.exists():
            partial = path.with_name("partial_" + path.name)
            deploy(self.checkpoint, str(partial))
            partial.rename(path)
        self.model = torch.jit.load(str(path))
        self.eager.delete_module_by_key("force_output")
        self.eager.eval_type_map = False
        self.eager.set_is_batch_data(False)
        self.eager.eval()

    def load(self, numbers: np.ndarray, cell: np.ndarray | None) -> None:
        self.atoms = Atoms(numbers=numbers, cell=cell, pbc=cell is not None)
        self.atoms.positions = 0.0
        self.kinds = torch.tensor([self.types[int(number)] for number in numbers])

    def place(self, positions: np.ndarray) -> float | None:
        self.atoms.positions = positions
        graph = unlabeled_atoms_to_graph(self.atoms, CUTOFF)
        self.vectors = torch.from_numpy(np.asarray(graph[keys.EDGE_VEC])).float()
        self.data = {
            keys.NODE_FEATURE: self.kinds,
            keys.ATOMIC_NUMBERS: torch.from_numpy(self.atoms.numbers).long(),
            keys.NUM_ATOMS: torch.tensor(len(self.atoms)),
            keys.EDGE_IDX: torch.from_numpy(graph[keys.EDGE_IDX]).long(),
        }
        return float(len(self.vectors))

    def step(self) -> tuple[float, np.ndarray]:
        return self._evaluate(self.model)

    def _evaluate(self, model: Any) -> tuple[float, np.ndarray]:
        """Forces from the slopes by the pairs' vectors, as its pair style for LAMMPS takes them."""
        vectors = self.vectors.detach().requires_grad_()
        energy = model(self.data | {keys.EDGE_VEC: vectors})[ENERGY]
        (pull,) = torch.autograd.grad([energy.sum()], [vectors])
        first, second = self.data[keys.EDGE_IDX]
        forces = torch.zeros(len(self.atoms), 3)
        return energy.item(), forces.index_add_(0, first, pull).index_add_(0, second, -pull).numpy()

    def operations(self) -> dict[str, float]:
        return count_operations(lambda: self._evaluate(self.eager))


def main() -> None:
    """What run.py starts."""
    asked = command_line(__doc__, ["sevennet-0"])
    torch.set_num_threads(asked.threads)
    serve(lambda: SevenNetSide(asked.folder), asked.replies)


if __name__ == "__main__":
    main()
