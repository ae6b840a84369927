"""A caller's neighbour list with images for which owned atoms stand, and the virial by sender."""

from __future__ import annotations

import numpy as np
import pytest

from kernel_cases import structures
from model_cases import make_config, make_network
from symmd_md._engine import Engine
from symmd_md.errors import EngineError
from symmd_md.export.model_file import model_file_bytes

CONFIG = make_config(layers=3, channels=32, heads=4)


def engine_of(layers: int = 3, threads: int = 1) -> Engine:
    config = make_config(layers=layers, channels=32, heads=4)
    return Engine.from_bytes(model_file_bytes(make_network(config), {}), precision="float64", threads=threads)


def with_images(cutoff: float) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], np.ndarray, np.ndarray]:
    """Atomic numbers and positions of a crystal and all its images in reach, rows, owners, and the cell."""
    atoms = structures()[2]
    shifts = np.stack(np.meshgrid(*[range(-3, 4)] * 3, indexing="ij"), -1).reshape(-1, 3)
    shifts = shifts[np.argsort(np.abs(shifts).sum(1), kind="stable")]
    cell = atoms.cell.array
    positions = (atoms.positions[None] + (shifts @ cell)[:, None]).reshape(-1, 3)
    owners = np.tile(np.arange(len(atoms)), len(shifts))
    distances = np.linalg.norm(positions[None] - atoms.positions[:, None], axis=-1)
    rows = [np.flatnonzero((row < cutoff + 0.3) & (row > 0)).astype(np.int32) for row in distances]
    return atoms.numbers[owners], positions, rows, owners.astype(np.int32), cell


@pytest.mark.parametrize("threads", [1, 3])
def test_owners_stand_for_their_images(threads: int) -> None:
    engine = engine_of(threads=threads)
    numbers, positions, rows, owners, cell = with_images(CONFIG.cutoff)
    own = len(rows)
    species = engine.species_of(numbers)
    wanted = {"virial": True, "atom_virial": True, "sender_virial": True}
    expected = engine.compute(species[:own], positions[:own], cell, (True,) * 3, **wanted)
    found = engine.compute_neighbourhood(own, species, positions, rows, stands_for=owners, **wanted)
    for name, value in expected.items():
        result = np.asarray(found[name])
        if result.ndim and len(result) > own:
            assert not result[own:].any()
            result = result[:own]
        np.testing.assert_allclose(result, value, rtol=1e-10, atol=1e-10, err_msg=name)
    np.testing.assert_allclose(found["sender_virial"].sum(0), found["virial"], rtol=1e-10, atol=1e-10)


def test_who_stands_must_be_there() -> None:
    engine = engine_of()
    numbers, positions, rows, owners, _ = with_images(CONFIG.cutoff)
    owners[-1] = len(numbers)
    with pytest.raises(
        EngineError, match=f"must be one below {len(numbers)} that stands for itself, found {len(numbers)}"
    ):
        engine.compute_neighbourhood(
            len(rows), engine.species_of(numbers), positions, rows, stands_for=owners
        )
    owners[-1] = len(numbers) - 1
    with pytest.raises(EngineError, match="give a GhostExchange"):
        engine.compute_neighbourhood(
            len(rows), engine.species_of(numbers), positions, rows, stands_for=owners
        )


def test_virial_by_sender_of_one_layer() -> None:
    """An atom's share is its pull on the energies of others: Σ_i (r_i - r_j) ⊗ ∂E_i/∂r_j (eq. 66)."""
    engine = engine_of(layers=1)
    atoms = structures()[0]
    species = engine.species_of(atoms.numbers)
    found = engine.compute(species, atoms.positions, sender_virial=True)["sender_virial"]
    step = 1e-4
    expected = np.zeros_like(found)
    for atom in range(len(atoms)):
        for axis in range(3):
            energies = []
            for sign in (1, -1):
                moved = atoms.positions.copy()
                moved[atom, axis] += sign * step
                energies.append(engine.compute(species, moved, forces=False)["atom_energy"])
            slope = (energies[0] - energies[1]) / (2 * step)
            expected[atom, :, axis] = (slope[:, None] * (atoms.positions - atoms.positions[atom])).sum(0)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_an_exchange_sees_the_rows_that_there_are() -> None:
    engine = engine_of()
    numbers, positions, rows, owners, _ = with_images(CONFIG.cutoff)
    shapes: list[tuple[int, ...]] = []

    def note(features: np.ndarray) -> None:
        shapes.append(features.shape)

    species = engine.species_of(numbers)
    found = engine.compute_neighbourhood(
        len(rows), species, positions, rows, exchange=(note, note), stands_for=owners
    )
    alone = engine.compute_neighbourhood(len(rows), species, positions, rows, stands_for=owners)
    assert shapes
    assert {shape[0] for shape in shapes} == {len(rows)}
    assert found["energy"] == alone["energy"]
