"""Engines on random networks, structures of every kind, and what the plain network says of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import ase
import numpy as np
import pytest
import torch

from conftest import separated_points
from model_cases import SPECIES, graph_of
from symmd_md import _engine
from symmd_md.export import model_file_bytes
from symmd_md.model import ModelConfig, SymmdNetwork
from symmd_md.model.layers import Edges
from symmd_md.model.network import edge_vectors

Results = Mapping[str, Any]
NARROW_CELL = np.array([[3.1, 0, 0], [0.5, 3.3, 0], [-0.4, 0.6, 3.4]])
"""Å; narrower than the cutoff of ``model_cases.make_config``, so that atoms see images of themselves."""


_devices = ["cpu"]
"""The last one is where engines compute that are made next."""

on_every_device = pytest.mark.usefixtures("device")
"""A test of engines that are made by ``engine_of``, once for the CPU and once for a GPU."""


@contextlib.contextmanager
def engines_on(device: str) -> Iterator[None]:
    """Engines of ``engine_of`` compute on ``device`` unless they are told otherwise."""
    _devices.append(device)
    try:
        yield
    finally:
        _devices.pop()


def engine_of(network: SymmdNetwork, **options: object) -> _engine.Engine:
    """An engine on this network, float64 and in one thread unless ``options`` say otherwise."""
    content = model_file_bytes(network, {"source": "a test"})
    settings = {"precision": "float64", "threads": 1, "device": _devices[-1], **options}
    return _engine.Engine.from_bytes(content, "test", **settings)


def compute(engine: _engine.Engine, atoms: ase.Atoms) -> Results:
    """Everything that the engine can say of a structure."""
    return engine.compute(
        engine.species_of(atoms.numbers),
        atoms.positions,
        atoms.cell.array,
        atoms.pbc.tolist(),
        virial=True,
        atom_virial=True,
    )


def reference(network: SymmdNetwork, atoms: ase.Atoms) -> Results:
    """The same from the network, fp64; of an edge's virial either atom has half."""
    batch = graph_of(atoms, network.config)
    found = network(batch, forces=True, stress=True)
    vectors = edge_vectors(batch).requires_grad_()
    edges = Edges(vectors, batch.edge_receiver, batch.edge_sender, batch.atom_count)
    learned = network.energy_scale * network.learned_atom_energy(batch.species, edges).sum()
    (pull,) = torch.autograd.grad(learned, vectors)
    outer = -pull.unsqueeze(2) * vectors.detach().unsqueeze(1)
    quarter = 0.25 * (outer + outer.mT)
    atom_virial = torch.zeros(batch.atom_count, 3, 3).double()
    atom_virial = atom_virial.index_add(0, batch.edge_receiver, quarter)
    atom_virial = atom_virial.index_add(0, batch.edge_sender, quarter)
    return {
        "energy": float(found.energy),
        "atom_energy": found.atom_energy.numpy(),
        "forces": found.forces.numpy(),
        "virial": found.virial[0].numpy(),
        "atom_virial": atom_virial.numpy(),
    }


def assert_same(found: Results, expected: Results, tolerance: float = 1e-10) -> None:
    """Equal to ``tolerance`` of each result's largest number; results that are all but zero, of 1e-3."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        value = np.asarray(value)
        assert np.shape(found[name]) == value.shape, name
        if value.size:
            error = np.abs(found[name] - value).max() / max(1e-3, np.abs(value).max())
            assert error <= tolerance, f"{name} is off by {error:.2g}"


def assert_identical(found: Results, expected: Results) -> None:
    """The same bits."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def random_symbols(generator: np.random.Generator, count: int) -> list[str]:
    """Of the species of ``model_cases``."""
    return [str(symbol) for symbol in generator.choice(SPECIES, count)]


def molecule_of(generator: np.random.Generator, count: int, least: float = 1.0) -> ase.Atoms:
    """An open structure of ``count`` atoms, of which some are neighbours at a cutoff of 3.5 Å."""
    positions = separated_points(generator, count, np.eye(3) * 1.7 * count ** (1 / 3), False, least)
    return ase.Atoms(random_symbols(generator, count), positions=positions)


def crystal_of(
    generator: np.random.Generator,
    count: int,
    cell: np.ndarray = NARROW_CELL,
    pbc: tuple[bool, bool, bool] = (True, True, True),
    least: float = 1.2,
) -> ase.Atoms:
    """A structure in a cell, with atoms also some cells away from it along periodic axes."""
    positions = separated_points(generator, count, cell, True, least)
    away = generator.integers(-3, 4, (count, 3)) * np.array(pbc)
    return ase.Atoms(random_symbols(generator, count), positions=positions + away @ cell, cell=cell, pbc=pbc)


def large_crystal(generator: np.random.Generator, size: int = 9, spacing: float = 1.9) -> ase.Atoms:
    """size³ atoms in any order that have moved a little from a simple cubic crystal in a triclinic cell.

    From 513 atoms on the engine sorts them in space.
    """
    sites = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), -1).reshape(-1, 3)
    vectors = spacing * np.array([[1, 0, 0], [0.1, 1, 0], [-0.05, 0.15, 1]])
    positions = (sites + generator.uniform(-0.12, 0.12, sites.shape)) @ vectors
    positions = generator.permutation(positions)
    return ase.Atoms(
        random_symbols(generator, len(sites)), positions=positions, cell=vectors * size, pbc=True
    )


def structures_of_every_kind(generator: np.random.Generator) -> dict[str, ase.Atoms]:
    """One, two and several atoms; open, periodic along some axes or along all, narrower than the cutoff."""
    return {
        "molecule": molecule_of(generator, 9),
        "one atom": ase.Atoms("C", positions=[[1.0, -2.0, 30.0]]),
        "pair": ase.Atoms("OH", positions=[[0.1, 0.2, 0.3], [0.9, -0.3, 0.6]]),
        "pair without neighbours": ase.Atoms("CC", positions=[[0, 0, 0], [0, 3.6, 0]]),
        "crystal": crystal_of(generator, 4),
        "crystal of one atom": ase.Atoms("O", positions=[[7, 8, -9]], cell=NARROW_CELL * 0.7, pbc=True),
        "slab": crystal_of(generator, 5, NARROW_CELL, (True, False, True)),
        "wire": crystal_of(generator, 3, NARROW_CELL, (False, True, False)),
    }


def random_config(generator: np.random.Generator) -> ModelConfig:
    """Any hyperparameters that a network can have, as long as it is small."""
    max_degree = int(generator.integers(0, 4))
    layers = int(generator.integers(1, 5))
    channels = 16 * int(generator.integers(1, 7))
    heads = int(generator.choice([count for count in range(1, channels + 1) if channels % count == 0]))
    lengths = generator.uniform(1.5, 3.5, layers)
    return ModelConfig(
        species=SPECIES,
        cutoff=3.5,
        layers=layers,
        channels=channels,
        heads=heads,
        max_degree=max_degree,
        hidden_degree=int(generator.integers(0, max_degree + 1)),
        body_order=int(generator.integers(1, 4)),
        aggregation="convolution" if generator.random() < 0.25 else "attention",
        layer_cutoffs=tuple(lengths.tolist()) if generator.random() < 0.5 else None,
        radial_functions=int(generator.integers(1, 9)),
        radial_hidden=(8,),
        radial_knots=int(generator.integers(16, 300)),
        readout_hidden=int(generator.integers(1, 40)),
    )


def _ring(centre: np.ndarray, along: np.ndarray, across: np.ndarray, radius: float) -> np.ndarray:
    """[6, 3] corners of a hexagon; the first lies at ``along`` from the centre."""
    angles = np.arange(6) * np.pi / 3
    return centre + radius * (np.cos(angles)[:, None] * along + np.sin(angles)[:, None] * across)


def benzyloxy_pyridine_amine() -> ase.Atoms:
    """3-(benzyloxy)pyridin-2-amine (3BPA), 27 atoms of H, C, N and O with bonds of the usual lengths."""
    x, y, z = np.eye(3)
    phenyl, phenyl_h = (_ring(np.zeros(3), x, y, radius) for radius in (1.39, 2.48))
    methylene = 2.90 * x
    methylene_h = [methylene + 0.36 * x - 0.51 * y + side * 0.89 * z for side in (1, -1)]
    oxygen = methylene + 0.52 * x + 1.33 * y
    towards = np.array([0.55, 0.55, 0.6285])
    centre = oxygen + (1.37 + 1.39) * towards
    across = np.cross(towards, y)
    across /= np.linalg.norm(across)
    # Corners from the one at the oxygen: C3, C2 with the amine, N1, C6, C5, C4.
    pyridine, pyridine_h = (_ring(centre, -towards, across, radius) for radius in (1.39, 2.48))
    outwards = (pyridine[1] - centre) / 1.39
    nitrogen = pyridine[1] + 1.36 * outwards
    aside = np.cross(np.cross(towards, across), outwards)
    amine_h = [nitrogen + 0.5 * outwards + side * 0.87 * aside for side in (1, -1)]
    symbols = "C" * 6 + "H" * 5 + "CHHO" + "CCNCCC" + "HHH" + "NHH"
    positions = np.concatenate(
        [
            phenyl,
            phenyl_h[1:],
            [methylene, *methylene_h, oxygen],
            pyridine,
            pyridine_h[3:],
            [nitrogen, *amine_h],
        ]
    )
    return ase.Atoms(symbols, positions=positions)
