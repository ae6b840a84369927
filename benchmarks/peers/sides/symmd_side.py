"""SymMD's engine as a side, and the matrix product that everything is measured beside."""

from __future__ import annotations

import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from serving import CUTOFF, SPECIES, Side, atom_types, command_line, count_operations, serve

SIZES = {"default": 64, "small": 32}
"""Channels; two layers, L = 2 and hidden l ≤ 1 in both."""
MATRIX = 1024


class EngineSide(Side):
    """A network with random weights in the compiled engine, fp32, energy and forces."""

    def __init__(self, channels: int, folder: Path, threads: int) -> None:
        self.package = f"symmd-md {version('symmd-md')}"
        self.channels, self.threads = channels, threads
        self.path = folder / f"symmd_{channels}.safetensors"
        network = self._network()
        self.parameters = sum(parameter.numel() for parameter in network.parameters())

        from symmd_md.export import write_model_file

        write_model_file(network, self.path, {"weights": "random"})

    def _network(self):  # type: ignore[no-untyped-def]
        import torch

        from symmd_md.model import ModelConfig, ModelStatistics, SymmdNetwork

        torch.manual_seed(0)
        config = ModelConfig(SPECIES, CUTOFF, channels=self.channels)
        return SymmdNetwork(config, ModelStatistics(mean_neighbours=50.0)).float()

    def load(self, numbers: np.ndarray, cell: np.ndarray | None) -> None:
        from symmd_md._engine import Engine

        self.engine = Engine(self.path, threads=self.threads)
        self.species = atom_types(numbers).astype(np.int32)
        self.cell, self.periodic = cell, (cell is not None,) * 3
        self.calls = 0

    def place(self, positions: np.ndarray) -> float | None:
        from symmd_md.data.neighbours import neighbour_list

        self.positions = np.ascontiguousarray(positions)
        self.mirrored = -self.positions
        cell = np.zeros((3, 3)) if self.cell is None else self.cell
        return float(len(neighbour_list(positions, cell, np.array(self.periodic), CUTOFF)[0]))

    def step(self) -> tuple[float, np.ndarray]:
        found = self.engine.compute(self.species, self.positions, self.cell, self.periodic)
        return found["energy"], found["forces"]

    def fresh_step(self) -> float:
        # On the other side of the origin the atoms are elsewhere for the list, but the same structure.
        self.calls += 1
        place = self.mirrored if self.calls % 2 else self.positions
        started = time.perf_counter()
        self.engine.compute(self.species, place, self.cell, self.periodic)
        return time.perf_counter() - started

    def operations(self) -> dict[str, float]:
        from symmd_md.analysis.bench import batch_of
        from symmd_md.analysis.bench_structures import Structure

        numbers = np.array([1, 6, 7, 8], dtype=np.int32)[self.species]
        structure = Structure("", numbers, self.positions, self.cell)
        batch = batch_of(structure, self.species, CUTOFF)
        network = self._network()
        sys.path.append(str(Path(__file__).resolve().parents[2] / "accuracy"))
        from own_training import FixedTable

        # A model that runs has its radial functions as tables.
        for layer in network.layers:
            layer.radial = FixedTable(layer.radial)
        return count_operations(lambda: network(batch, forces=True))


class EquiformerSide(Side):
    """The Equiformer of benchmarks/baselines with random weights, eager torch."""

    def __init__(self) -> None:
        import torch

        sys.path.append(str(Path(__file__).resolve().parents[2] / "baselines"))
        from equiformer import Equiformer, EquiformerConfig

        from symmd_md.model import ModelConfig, ModelStatistics

        self.package = f"torch {torch.__version__}"
        torch.manual_seed(0)
        statistics = ModelStatistics(mean_neighbours=50.0)
        self.network = Equiformer(EquiformerConfig(), ModelConfig(SPECIES, CUTOFF), statistics).float()
        self.parameters = sum(parameter.numel() for parameter in self.network.parameters())

    def load(self, numbers: np.ndarray, cell: np.ndarray | None) -> None:
        self.numbers, self.cell = numbers.astype(np.int32), cell
        self.species = atom_types(numbers).astype(np.int32)

    def place(self, positions: np.ndarray) -> float | None:
        from symmd_md.analysis.bench import batch_of
        from symmd_md.analysis.bench_structures import Structure

        self.batch = batch_of(Structure("", self.numbers, positions, self.cell), self.species, CUTOFF)
        return float(len(self.batch.edge_receiver))

    def step(self) -> tuple[float, np.ndarray]:
        found = self.network(self.batch, forces=True)
        return found.energy.sum().item(), found.forces.numpy()

    def operations(self) -> dict[str, float]:
        return count_operations(lambda: self.network(self.batch, forces=True))


class MatrixProduct(Side):
    """torch.mm of two square matrices in fp32: what the machine can do at this moment."""

    def __init__(self) -> None:
        import torch

        self.package, self.parameters = f"torch {torch.__version__}", 0
        torch.manual_seed(0)
        self.a, self.b = torch.randn(MATRIX, MATRIX), torch.randn(MATRIX, MATRIX)
        self.multiply = torch.mm
        self.list_in_step = True

    def load(self, numbers: np.ndarray, cell: np.ndarray | None) -> None:
        self.nothing = np.zeros((len(numbers), 3))

    def place(self, positions: np.ndarray) -> float | None:
        return None

    def step(self) -> tuple[float, np.ndarray]:
        self.multiply(self.a, self.b)
        return 0.0, self.nothing


def main() -> None:
    """What run.py starts."""
    asked = command_line(__doc__, [*SIZES, "equiformer", "product"])
    others = {"equiformer": EquiformerSide, "product": MatrixProduct}
    if asked.variant in others:
        serve(others[asked.variant], asked.replies)
    else:
        serve(lambda: EngineSide(SIZES[asked.variant], asked.folder, asked.threads), asked.replies)


if __name__ == "__main__":
    main()
