"""What all tests share: one torch thread, fixed seeds, and small random structures."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import ase
import matplotlib
import numpy as np
import pytest
import torch

from device_cases import DEVICES

matplotlib.use("Agg")

RandomAtoms = Callable[..., ase.Atoms]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Sums over threads end in any order; one thread makes results the same to the last bit."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_torch_seed() -> None:
    """Networks made without a seed of their own start from the same weights in every test."""
    torch.manual_seed(0)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the engines of ``engine_cases`` compute."""
    # Not at the top: it imports this file.
    from engine_cases import engines_on

    with engines_on(request.param):
        yield request.param


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with the same seed in every test."""
    return np.random.default_rng(20260101)


def separated_points(
    generator: np.random.Generator, count: int, cell: np.ndarray, periodic: bool, least: float
) -> np.ndarray:
    """[count, 3] Å: random points in ``cell`` at least ``least`` apart, images included when periodic."""
    images = np.array([[0, 0, 0]])
    if periodic:
        images = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
    points: list[np.ndarray] = []
    for _ in range(10000):
        candidate = generator.random(3) @ cell
        others = (np.array(points).reshape(-1, 1, 3) + (images @ cell)[None]).reshape(-1, 3)
        if len(others) == 0 or np.linalg.norm(others - candidate, axis=1).min() >= least:
            points.append(candidate)
        if len(points) == count:
            return np.array(points)
    raise ValueError(f"{count} atoms at least {least} Å apart do not fit into the cell")


@pytest.fixture
def random_molecule(rng: np.random.Generator) -> RandomAtoms:
    """Maker of open structures: ``random_molecule(atoms=9, elements=("H", "C", "O"))``."""

    def make(atoms: int = 9, elements: tuple[str, ...] = ("H", "C", "O"), least: float = 1.0) -> ase.Atoms:
        edge = 1.6 * least * atoms ** (1 / 3)
        positions = separated_points(rng, atoms, np.eye(3) * edge, False, least)
        return ase.Atoms([str(rng.choice(elements)) for _ in range(atoms)], positions=positions)

    return make


@pytest.fixture
def random_crystal(rng: np.random.Generator) -> RandomAtoms:
    """Maker of periodic, triclinic structures: ``random_crystal(atoms=6, volume=14.0)``, Å³ per atom."""

    def make(
        atoms: int = 6, elements: tuple[str, ...] = ("Cu", "Au"), volume: float = 14.0, least: float = 1.7
    ) -> ase.Atoms:
        cell = np.eye(3) + 0.15 * rng.standard_normal((3, 3))
        cell *= (atoms * volume / abs(np.linalg.det(cell))) ** (1 / 3)
        positions = separated_points(rng, atoms, cell, True, least)
        symbols = [str(rng.choice(elements)) for _ in range(atoms)]
        return ase.Atoms(symbols, positions=positions, cell=cell, pbc=True)

    return make
