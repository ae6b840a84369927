"""What was exported against the network that it was made of, before anybody relies on it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from ase.data import atomic_numbers, covalent_radii
from numpy.typing import NDArray

from symmd_md._engine import Engine
from symmd_md.data.frame import FloatArray, Frame, checked_frame
from symmd_md.data.graph import build_graph
from symmd_md.errors import ModelFileError
from symmd_md.export.model_file import Precision, TabulatedRadial
from symmd_md.model import AtomBatch, ModelConfig, Prediction, SymmdNetwork

SEED = 20260101
RELATIVE_TOLERANCE = 1e-10
"""Of energy, forces and virial in float64."""
FORCE_TOLERANCE = 2e-5
"""eV/Å, of a force component in float32 where forces are of the order of 1 eV/Å or less."""
ENERGY_TOLERANCE = 1e-6
"""eV per atom, of the energy in float32 where learned energies of atoms are of the order of 1 eV or less."""
ROUNDING = 10.0
"""How many times as far from fp64 as plain torch in float32 may be what is exported, where that is farther.

A trained network may meet in a random structure what it has never seen, and answer with sums of huge terms.
"""
REFERENCE_ENERGY_DIGITS = 1e-4
"""E0 may be a million times the learned energy: rounding of their sum is then no fault of the engine."""
LEAST_ATOMS = 10
DRAWS = 8
"""Random structures of which the one with the smallest forces, the least strange to the network, is used."""
BONDS = (1.2, 1.8)
"""Shortest and longest bond in sums of covalent radii; closer atoms have forces that say little."""
BOX_EDGE = 1.5
"""Edge of the periodic box in cutoffs: below two, so that atoms meet several images of one neighbour."""
BOX_SHEAR = 0.2
UNITS = {"energy": "eV/atom", "forces": "eV/Å"}


class Potential(Protocol):
    """Anything that computes what was exported."""

    def __call__(self, frame: Frame) -> dict[str, FloatArray]:
        """``atom_energy`` [N] eV, ``forces`` [N, 3] eV/Å and ``virial`` [3, 3] eV."""


@dataclass(frozen=True)
class Exported:
    """A potential to be checked."""

    name: str
    precision: Precision
    compute: Potential


@dataclass(frozen=True)
class Comparison:
    """One quantity of an exported potential beside the network's."""

    exported: str
    precision: Precision
    quantity: str
    """``energy``, ``forces`` or ``virial``."""
    structure: str
    error: float
    """Largest difference: in float64 relative, in float32 eV/atom or eV/Å."""
    allowed: float
    """Largest ``error`` that passes."""

    @property
    def passed(self) -> bool:
        return self.error <= self.allowed  # false for NaN

    @property
    def unit(self) -> str:
        return "relative" if self.precision == "float64" else UNITS[self.quantity]


def engines(content: bytes) -> list[Exported]:
    """The compiled engine on the content of a model file, in both precisions."""

    def potential(precision: Precision) -> Potential:
        engine = Engine.from_bytes(content, "of this network", precision=precision, threads=1)

        def compute(frame: Frame) -> dict[str, FloatArray]:
            kinds = engine.species_of(frame.numbers)
            return dict(engine.compute(kinds, frame.positions, frame.cell, frame.pbc.tolist(), virial=True))

        return compute

    precisions: tuple[Precision, ...] = ("float32", "float64")
    return [Exported("engine", precision, potential(precision)) for precision in precisions]


def script_module(name: str, module: torch.jit.ScriptModule, precision: Precision) -> Exported:
    """A TorchScript module of ``symmd_md.export.torchscript``, which computes in ``precision`` by default."""

    def compute(frame: Frame) -> dict[str, FloatArray]:
        cell = torch.from_numpy(frame.cell) if frame.pbc.any() else None
        numbers, positions = torch.from_numpy(frame.numbers), torch.from_numpy(frame.positions)
        found = module.compute(numbers, positions, cell, frame.pbc.tolist())
        return {key: value.numpy() for key, value in found.items()}

    return Exported(name, precision, compute)


def self_check(network: SymmdNetwork, exported: Sequence[Exported]) -> list[Comparison]:
    """Compare with ``network`` in fp64; a ``ModelFileError`` where something is not the same.

    The structures are random: an open molecule of every species, a triclinic periodic box smaller than two
    cutoffs, and each species alone. The network evaluates its radial functions from the spline tables of the
    file, which are rounded to its precision: no engine could agree to 1e-10 with others.
    """
    reference = _tabulated(network).double()
    rounded = copy.deepcopy(reference).float()
    comparisons: list[Comparison] = []
    for name, frame in check_structures(reference):
        graph = build_graph(frame, network.config.species, network.config.cutoff)
        expected = _Expected(graph, reference, rounded)
        for potential in exported:
            found = potential.compute(frame)
            judge = expected.relative if potential.precision == "float64" else expected.absolute
            comparisons += [
                Comparison(potential.name, potential.precision, quantity, name, error, allowed)
                for quantity, error, allowed in judge(found)
            ]
    _refuse_failed(comparisons)
    return comparisons


def worst_of_each(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Of each potential, precision and quantity the comparison that came nearest to failing."""
    worst: dict[tuple[str, str, str], Comparison] = {}
    for found in comparisons:
        key = (found.exported, found.precision, found.quantity)
        if key not in worst or _share(found) > _share(worst[key]):
            worst[key] = found
    return list(worst.values())


def _share(comparison: Comparison) -> float:
    return float(np.nan_to_num(comparison.error / comparison.allowed, nan=np.inf))


def _refuse_failed(comparisons: Sequence[Comparison]) -> None:
    failed = [comparison for comparison in comparisons if not comparison.passed]
    if failed:
        worst = max(failed, key=_share)
        raise ModelFileError(
            "what was exported does not compute what the network does, so nothing was written: "
            f"{len(failed)} of {len(comparisons)} comparisons differ, most of all the {worst.quantity} of "
            f"the {worst.structure} ({worst.exported}, {worst.precision}), by {worst.error:.1e} {worst.unit} "
            f"where {worst.allowed:.1e} is allowed; report this with the checkpoint, and export another one"
        )


Judged = list[tuple[str, float, float]]
"""Quantity, error and how much is allowed."""


class _Expected:
    """What the network says of one structure, and how far from it another answer may be."""

    def __init__(self, graph: AtomBatch, reference: SymmdNetwork, rounded: SymmdNetwork) -> None:
        self.atom_energy, self.forces, self.virial = _arrays(reference(graph, forces=True, stress=True))
        self.learned = self.atom_energy - reference.reference_energies[graph.species].numpy()
        self.scale = reference.energy_scale
        energies, forces, _ = _arrays(rounded(graph, forces=True, stress=True))
        # Errors of atoms may cancel by chance in one sum and not in another.
        self.energy_rounding = float(np.abs(energies - self.atom_energy).mean())
        self.force_rounding = _largest(forces - self.forces)

    def _energy_error(self, atom_energy: FloatArray) -> float:
        """eV per atom."""
        return abs(float((atom_energy - self.atom_energy).sum())) / len(self.atom_energy)

    def relative(self, found: dict[str, FloatArray]) -> Judged:
        size = max(_largest(self.learned), self.scale)
        energy_size = max(size, REFERENCE_ENERGY_DIGITS * _largest(self.atom_energy))
        errors = {
            "energy": _largest(found["atom_energy"] - self.atom_energy) / energy_size,
            "forces": _largest(found["forces"] - self.forces) / max(size, _largest(self.forces)),
            "virial": _largest(found["virial"] - self.virial) / max(size, _largest(self.virial)),
        }
        return [(quantity, error, RELATIVE_TOLERANCE) for quantity, error in errors.items()]

    def absolute(self, found: dict[str, FloatArray]) -> Judged:
        energy_allowed = ENERGY_TOLERANCE * max(1.0, _root_mean_square(self.learned))
        force_allowed = FORCE_TOLERANCE * max(1.0, _root_mean_square(self.forces))
        return [
            (
                "energy",
                self._energy_error(found["atom_energy"]),
                max(energy_allowed, ROUNDING * self.energy_rounding),
            ),
            (
                "forces",
                _largest(found["forces"] - self.forces),
                max(force_allowed, ROUNDING * self.force_rounding),
            ),
        ]


def _arrays(prediction: Prediction) -> tuple[FloatArray, FloatArray, FloatArray]:
    assert prediction.forces is not None
    assert prediction.virial is not None
    return (
        prediction.atom_energy.numpy(),
        prediction.forces.double().numpy(),
        prediction.virial[0].double().numpy(),
    )


def _tabulated(network: SymmdNetwork) -> SymmdNetwork:
    """A copy whose radial functions are the tables that are in the file."""
    copied = copy.deepcopy(network).cpu().requires_grad_(False)
    layers: Any = copied.layers
    for layer in layers:
        layer.radial = TabulatedRadial(layer.radial.double().table().to(copied.embedding.dtype))
    return copied


def check_structures(network: SymmdNetwork) -> Iterator[tuple[str, Frame]]:
    """Names and structures of the self-check, the same each time for the same network."""
    config, generator = network.config, np.random.default_rng(SEED)
    species = np.array([atomic_numbers[symbol] for symbol in config.species], dtype=np.int64)

    def molecule() -> Frame:
        numbers = generator.permutation(np.resize(species, max(LEAST_ATOMS, len(species))))
        return _frame(numbers, _cluster(numbers, config, generator), "molecule")

    def box() -> Frame:
        cell = BOX_EDGE * config.cutoff * (np.eye(3) + BOX_SHEAR * generator.uniform(-1.0, 1.0, (3, 3)))
        numbers = generator.permutation(np.resize(species, LEAST_ATOMS))
        return _frame(numbers, _cluster(numbers, config, generator, cell), "box", cell)

    for draw in (molecule, box):
        frame = min((draw() for _ in range(DRAWS)), key=lambda drawn: _strangeness(network, drawn))
        yield frame.source, frame
    for number, symbol in zip(species, config.species, strict=True):
        name = f"atom {symbol}"
        yield name, _frame(np.array([number]), generator.standard_normal((1, 3)), name)


def _strangeness(network: SymmdNetwork, frame: Frame) -> float:
    forces = network(build_graph(frame, network.config.species, network.config.cutoff)).forces
    assert forces is not None
    return float(np.nan_to_num(_root_mean_square(forces.numpy()), nan=np.inf))


def _frame(
    numbers: NDArray[np.int64], positions: FloatArray, name: str, cell: FloatArray | None = None
) -> Frame:
    return checked_frame(
        numbers=numbers, positions=positions, source=name, cell=cell, pbc=np.full(3, cell is not None)
    )


def _cluster(
    numbers: NDArray[np.int64],
    config: ModelConfig,
    generator: np.random.Generator,
    cell: FloatArray | None = None,
) -> FloatArray:
    """[N, 3] Å: each atom is bonded to one before it, and no two are closer than a bond may be."""
    shortest, longest = BONDS
    # Six radii below the cutoff: bonds are then shorter than it, and the box has room for its atoms.
    radii = np.minimum(covalent_radii[numbers], config.cutoff / 6.0)
    shifts = np.zeros((1, 3))
    if cell is not None:
        shifts = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3) @ cell
    positions = generator.standard_normal((1, 3))
    while len(positions) < len(numbers):
        place = len(positions)
        partner = int(generator.integers(place))
        direction = generator.standard_normal(3)
        bond = (radii[place] + radii[partner]) * generator.uniform(shortest, longest)
        candidate = positions[partner] + bond * direction / np.linalg.norm(direction)
        distance = np.linalg.norm(positions[:, None] + shifts - candidate, axis=-1).min(axis=1)
        # A bond of the shortest length must not fail by rounding.
        if (distance >= 0.999 * shortest * (radii[:place] + radii[place])).all():
            positions = np.vstack([positions, candidate])
    return positions


def _largest(values: FloatArray) -> float:
    return float(np.abs(values).max(initial=0.0))


def _root_mean_square(values: FloatArray) -> float:
    return float(np.sqrt(np.square(values).mean()))
