"""The compiled operators against the plain network, and what they must refuse.

``python -m kernel_cases compare`` and ``… refusals`` run in a child process: the instruction set is chosen
once for a process, and an operator that reads foreign memory ends it.
"""

from __future__ import annotations

import copy
import json
import sys

import ase
import numpy as np
import torch
from torch import Tensor

from conftest import separated_points
from model_cases import SPECIES, assert_relative, batch_of, make_config, make_network
from symmd_md import kernels
from symmd_md.model import AtomBatch, ModelConfig, SymmdNetwork

# Widths of a head that fill a part of a pack of lanes, several packs, or no power of two; one head, and one
# for each channel; every degree and depth.
CASES = {
    "L0": make_config(max_degree=0, hidden_degree=0),
    "L1-h0": make_config(max_degree=1, hidden_degree=0, channels=32, heads=32),
    "L1-h1": make_config(max_degree=1, hidden_degree=1, channels=48, heads=3),
    "L2-h0": make_config(max_degree=2, hidden_degree=0, channels=64, heads=8),
    "L2-h1": make_config(max_degree=2, hidden_degree=1, channels=64, heads=8),
    "L2-h2": make_config(max_degree=2, hidden_degree=2, channels=32, heads=1),
    "L3-h0": make_config(max_degree=3, hidden_degree=0, channels=16, heads=16),
    "L3-h1": make_config(max_degree=3, hidden_degree=1, channels=48, heads=6),
    "L3-h2": make_config(max_degree=3, hidden_degree=2, channels=16, heads=2),
    "L3-h3": make_config(max_degree=3, hidden_degree=3, channels=32, heads=4),
    "48-channels-48-heads": make_config(channels=48, heads=48),
    "48-channels-24-heads": make_config(channels=48, heads=24),
    "48-channels-one-head": make_config(channels=48, heads=1),
    "64-channels-64-heads": make_config(channels=64, heads=64),
    "64-channels-2-heads": make_config(channels=64, heads=2),
    "80-channels-5-heads": make_config(channels=80, heads=5),
    "linear-L1": make_config(max_degree=1, hidden_degree=1, body_order=1),
    "linear-L2-h1": make_config(hidden_degree=1, body_order=1, channels=32, heads=8),
    "linear-L2-h2": make_config(hidden_degree=2, body_order=1, layers=3),
    "square-L2": make_config(body_order=2, channels=32, heads=8),
    "square-L3": make_config(max_degree=3, hidden_degree=3, body_order=2),
    "convolution": make_config(aggregation="convolution", channels=48, heads=1),
    "convolution-square": make_config(aggregation="convolution", body_order=2, max_degree=3, hidden_degree=2),
    "convolution-linear": make_config(aggregation="convolution", body_order=1, layers=3),
    "convolution-L0": make_config(aggregation="convolution", max_degree=0, hidden_degree=0),
    "one-layer": make_config(layers=1, channels=32),
    "layer-cutoffs": make_config(layers=4, layer_cutoffs=(3.5, 2.0, 3.0, 1.4)),
}


def structures(seed: int = 7, atoms: int = 9) -> list[ase.Atoms]:
    """A molecule, an atom without neighbours, and a triclinic crystal narrower than the cutoff."""
    generator = np.random.default_rng(seed)
    edge = 1.7 * atoms ** (1 / 3)
    cell = np.array([[3.1, 0, 0], [0.5, 3.3, 0], [-0.4, 0.6, 3.4]])

    def symbols(count: int) -> list[str]:
        return [str(generator.choice(SPECIES)) for _ in range(count)]

    molecule = separated_points(generator, atoms, np.eye(3) * edge, False, 1.0)
    crystal = separated_points(generator, 4, cell, True, 1.2)
    return [
        ase.Atoms(symbols(atoms), positions=molecule),
        ase.Atoms("C"),
        ase.Atoms(symbols(4), positions=crystal, cell=cell, pbc=True),
    ]


def twins(config: ModelConfig) -> tuple[SymmdNetwork, SymmdNetwork]:
    """The same network in plain torch and with compiled operators, float64."""
    plain = make_network(config)
    return plain, kernels.use_fused(copy.deepcopy(plain))


def observables(network: SymmdNetwork, batch: AtomBatch) -> dict[str, Tensor]:
    """Energies and derivatives."""
    found = network(batch, forces=True, stress=True)
    return {name: getattr(found, name) for name in ("energy", "atom_energy", "forces", "virial", "stress")}


def loss_gradients(network: SymmdNetwork, batch: AtomBatch) -> dict[str, Tensor]:
    """Gradient of a loss on energies, forces and virials, by parameter; zero where it does not reach."""
    found = network(batch, forces=True, stress=True, create_graph=True)
    loss = found.energy.square().sum() + found.forces.square().sum() + found.virial.square().sum()
    parameters = dict(network.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
    }


def hessian_product(network: SymmdNetwork, batch: AtomBatch) -> Tensor:
    """[N, 3] second derivative of the energy along one direction, through the positions."""
    batch = copy.copy(batch)
    batch.positions = batch.positions.clone().requires_grad_()
    direction = (
        torch.sin(torch.arange(batch.positions.numel())).reshape(batch.positions.shape).to(batch.positions)
    )
    (first,) = torch.autograd.grad(
        network(batch, forces=False).energy.sum(), batch.positions, create_graph=True
    )
    (second,) = torch.autograd.grad((first * direction).sum(), batch.positions)
    return second


def everything(network: SymmdNetwork, batch: AtomBatch) -> dict[str, Tensor]:
    """All that is compared, by name."""
    gradients = {f"gradient of {name}": value for name, value in loss_gradients(network, batch).items()}
    return {**observables(network, batch), **gradients, "hessian": hessian_product(network, batch)}


def compare(config: ModelConfig, tolerance: float = 1e-10) -> None:
    """Both networks agree on all that a training run or a simulation asks for."""
    plain, fused = twins(config)
    batch = batch_of(structures(), config)
    expected, found = everything(plain, batch), everything(fused, batch)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        try:
            assert_relative(found[name], value, tolerance)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


def compare_in_single_precision(config: ModelConfig, tolerance: float) -> None:
    """float32 operators against the float64 plain network."""
    plain, fused = twins(config)
    batch = batch_of(structures(), config)
    exact = {**observables(plain, batch), **loss_gradients(plain, batch)}
    single = fused.float()
    rough_batch = batch.to(dtype=torch.float32)
    rough = {**observables(single, rough_batch), **loss_gradients(single, rough_batch)}
    for name, value in exact.items():
        assert_relative(rough[name].double(), value, tolerance)


def edge_arguments(**changed: object) -> dict[str, object]:
    """Arguments of ``symmd::attention`` for 4 atoms, 6 edges, degrees (1, 2) -> 2, with some ``changed``."""
    arguments: dict[str, object] = {
        "row_start": torch.tensor([0, 2, 3, 5, 6]),
        "sender": torch.tensor([1, 2, 0, 3, 1, 0]),
        "vectors": torch.ones(6, 3).double(),
        "values": torch.ones(4, 4, 16).double(),
        "queries": torch.ones(4, 4, 16).double(),
        "table": torch.ones(66, 7 * 16).double(),
        "sink": torch.zeros(4).double(),
        "cutoff": 3.5,
        "gain": 1.0,
        "harmonic_degree": 2,
        "message_degree": 2,
    }
    assert changed.keys() <= arguments.keys()
    return {**arguments, **changed}


def product_arguments(**changed: object) -> dict[str, object]:
    """Arguments of ``symmd::node_products`` for 4 atoms of 3 species, degrees 2 -> 2, some ``changed``."""
    arguments: dict[str, object] = {
        "species": torch.tensor([0, 1, 2, 0]),
        "aggregated": torch.ones(4, 9, 16).double(),
        "square_weight": torch.ones(3, 8, 16).double(),
        "cube_weight": torch.ones(3, 11, 16).double(),
        "output_degree": 2,
    }
    assert changed.keys() <= arguments.keys()
    return {**arguments, **changed}


def ones(*sizes: int) -> Tensor:
    return torch.ones(sizes, dtype=torch.float64)


FAR = 10**9
# What each operator must refuse, and a part of what it says. Some of these once read foreign memory.
REFUSED_EDGES: dict[str, tuple[dict[str, object], str]] = {
    "sender too large": ({"sender": torch.tensor([1, 2, 0, 3, 1, FAR])}, "sender must lie between 0 and 3"),
    "sender just too large": ({"sender": torch.tensor([1, 2, 0, 4, 1, 0])}, "found 4 at position 3"),
    "sender negative": ({"sender": torch.tensor([-1, 2, 0, 3, 1, 0])}, "sender must lie between 0 and 3"),
    "sender of two axes": ({"sender": torch.zeros(6, 1).long()}, "sender must be [edges]"),
    "sender of int32": ({"sender": torch.zeros(6).int()}, "sender has type Int, expected Long"),
    "rows past the end": ({"row_start": torch.tensor([0, 2, 3, 5, FAR])}, "row_start must ascend from 0"),
    "rows before the start": ({"row_start": torch.tensor([-1, 2, 3, 5, 6])}, "row_start must ascend from 0"),
    "rows that descend": ({"row_start": torch.tensor([0, 2, 1, 5, 6])}, "row_start must ascend from 0"),
    "rows that leave edges": ({"row_start": torch.tensor([0, 2, 3, 5, 5])}, "number of edges, 6"),
    "too few rows": ({"row_start": torch.tensor([0, 2, 3, 6])}, "row_start must have sizes [5], found [4]"),
    "rows of int32": ({"row_start": torch.zeros(5).int()}, "row_start has type Int, expected Long"),
    "table of other paths": ({"table": ones(66, 6 * 16)}, "table must have sizes [66, 112], found [66, 96]"),
    "table of one axis": ({"table": ones(66)}, "table needs two rows for each of at least two knots"),
    "table of half a knot": ({"table": ones(65, 112)}, "table needs two rows for each of at least two knots"),
    "table of one knot": ({"table": ones(2, 112)}, "table needs two rows for each of at least two knots"),
    "three components": ({"values": ones(4, 3, 16)}, "values must have 1, 4, 9 or 16 components, found 3"),
    "no components": ({"values": ones(4, 0, 16)}, "values must have 1, 4, 9 or 16 components, found 0"),
    "values of two axes": ({"values": ones(4, 16)}, "values must be [atoms, components, channels]"),
    "8 channels": ({"values": ones(4, 4, 8)}, "channels a multiple of 16, found [4, 4, 8]"),
    "no channels": ({"values": ones(4, 4, 0)}, "channels a multiple of 16, found [4, 4, 0]"),
    "fewer atoms": ({"values": ones(3, 4, 16)}, "row_start must have sizes [4], found [5]"),
    "other queries": ({"queries": ones(4, 1, 16)}, "queries must have sizes [4, 4, 16], found [4, 1, 16]"),
    "queries without sink": ({"sink": None}, "queries and sink must be given together"),
    "sink without queries": ({"queries": None}, "queries and sink must be given together"),
    "no heads": ({"sink": ones(0)}, "a number of heads that divides 16 channels, found [0]"),
    "heads that do not divide": ({"sink": ones(5)}, "a number of heads that divides 16 channels, found [5]"),
    "sink of two axes": ({"sink": ones(2, 2)}, "sink must be [heads]"),
    "sink of no axis": ({"sink": ones()}, "sink must be [heads]"),
    "vectors of two": ({"vectors": ones(6, 2)}, "vectors must have sizes [6, 3], found [6, 2]"),
    "fewer vectors": ({"vectors": ones(5, 3)}, "vectors must have sizes [6, 3], found [5, 3]"),
    "other precision": ({"vectors": torch.ones(6, 3)}, "vectors has type Float, expected Double"),
    "half precision": (
        {"values": torch.ones(4, 4, 16).half()},
        "values must be float32 or float64, found Half",
    ),
    "degree 9": ({"harmonic_degree": 9}, "no kernel for degrees 1, 9 -> 2"),
    "degree -1": ({"message_degree": -1}, "no kernel for degrees 1, 2 -> -1"),
    "cutoff 0": ({"cutoff": 0.0}, "cutoff must be positive, found 0"),
    "cutoff NaN": ({"cutoff": float("nan")}, "cutoff must be positive, found nan"),
}
REFUSED_PRODUCTS: dict[str, tuple[dict[str, object], str]] = {
    "species too large": ({"species": torch.tensor([0, 1, FAR, 0])}, "species must lie between 0 and 2"),
    "species negative": ({"species": torch.tensor([0, 1, -1, 0])}, "found -1 at position 2"),
    "species of fewer atoms": ({"species": torch.tensor([0])}, "species must have sizes [4], found [1]"),
    "species of int32": ({"species": torch.zeros(4).int()}, "species has type Int, expected Long"),
    "other square paths": ({"square_weight": ones(3, 7, 16)}, "square_weight must have sizes [3, 8, 16]"),
    "square of one axis": ({"square_weight": ones(3)}, "square_weight must be [species, paths, channels]"),
    "other cube paths": ({"cube_weight": ones(3, 1, 16)}, "cube_weight must have sizes [3, 11, 16]"),
    "cube of fewer species": ({"cube_weight": ones(2, 11, 16)}, "cube_weight must have sizes [3, 11, 16]"),
    "cube of nothing": ({"cube_weight": ones(0)}, "cube_weight must have sizes [3, 11, 16], found [0]"),
    "cube of float32": (
        {"cube_weight": torch.ones(3, 11, 16)},
        "cube_weight has type Float, expected Double",
    ),
    "8 components": (
        {"aggregated": ones(4, 8, 16)},
        "aggregated must have 1, 4, 9 or 16 components, found 8",
    ),
    "20 channels": ({"aggregated": ones(4, 9, 20)}, "channels a multiple of 16, found [4, 9, 20]"),
    "output degree 3": ({"output_degree": 3}, "no kernel for degrees 2 -> 3"),
    "output degree -1": ({"output_degree": -1}, "no kernel for degrees 2 -> -1"),
    "integers": (
        {"aggregated": torch.ones(4, 9, 16).long()},
        "aggregated must be float32 or float64, found Long",
    ),
}


def main_refusals() -> None:
    """Give the operators what they must refuse; print a line of JSON, [name, message], for each."""
    assert kernels.available()
    operators = torch.ops.symmd
    for cases, operator, arguments in (
        (REFUSED_EDGES, operators.attention, edge_arguments),
        (REFUSED_PRODUCTS, operators.node_products, product_arguments),
    ):
        for name, (changed, _) in cases.items():
            message = "nothing was refused"
            try:
                operator(*arguments(**changed).values())
            except RuntimeError as error:
                message = str(error)
            print(json.dumps([name, message]), flush=True)


def main_compare() -> None:
    """Compare a few networks and print the instruction set that was used."""
    for name in ("L2-h1", "L3-h2", "48-channels-24-heads", "convolution"):
        compare(CASES[name])
    compare_in_single_precision(CASES["L2-h1"], 2e-3)
    print(kernels.instruction_set())


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"compare": main_compare, "refusals": main_refusals}[sys.argv[1]]()
