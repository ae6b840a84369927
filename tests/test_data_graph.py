"""Neighbour lists against a sum over images, graphs, batches, and random rotations."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from symmd_md.data import (
    Frame,
    GraphDataset,
    build_graph,
    checked_frame,
    collate,
    neighbour_list,
    random_rotation,
)
from symmd_md.errors import DataError
from symmd_md.model.batch import AtomBatch

Edge = tuple[int, int, int, int, int]


def edges_by_image_sum(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> list[Edge]:
    """Every edge, by trying all images that could be near: (receiver, sender, shift), sorted."""
    axes = np.flatnonzero(pbc)
    ranges = [range(0, 1)] * 3
    if len(axes):
        duals = np.linalg.pinv(cell[axes])
        spread = np.ptp(positions @ duals, axis=0)
        reach = np.ceil(cutoff * np.linalg.norm(duals, axis=0) + spread).astype(int)
        for axis, most in zip(axes, reach, strict=True):
            ranges[axis] = range(-most, most + 1)
    edges = []
    for shift in itertools.product(*ranges):
        displacement = positions[None] - positions[:, None] + np.array(shift) @ cell
        for i, j in np.argwhere(np.linalg.norm(displacement, axis=-1) < cutoff):
            if i != j or any(shift):
                edges.append((int(i), int(j), *shift))
    return sorted(edges)


def listed(receiver: np.ndarray, sender: np.ndarray, shift: np.ndarray) -> list[Edge]:
    return [tuple(row) for row in np.column_stack([receiver, sender, shift]).tolist()]


@pytest.mark.parametrize("pbc", list(itertools.product([False, True], repeat=3)))
def test_neighbours_equal_a_sum_over_images(pbc: tuple[bool, bool, bool]) -> None:
    generator = np.random.default_rng(sum(4**k * flag for k, flag in enumerate(pbc)))
    periodic = np.array(pbc)
    beyond_first_image = 0
    for trial in range(8):
        count = int(generator.integers(1, 7))
        lengths = generator.uniform(1.5, 2.0 if trial < 2 else 7.0, 3)
        cell = np.diag(lengths) + 0.3 * lengths.min() * generator.uniform(-1, 1, (3, 3))
        if trial % 2:
            cell[~periodic] = 0.0
        positions = generator.uniform(-9.0, 16.0, (count, 3))  # many outside of the cell
        cutoff = 5.0 if trial < 2 else float(generator.uniform(2.0, 5.0))
        found = listed(*neighbour_list(positions, cell, periodic, cutoff))
        assert found == edges_by_image_sum(positions, cell, periodic, cutoff)
        assert {(j, i, -a, -b, -c) for i, j, a, b, c in found} == set(found)
        beyond_first_image += sum(i == j and max(abs(a), abs(b), abs(c)) > 1 for i, j, a, b, c in found)
    if periodic.any():
        assert beyond_first_image > 0


def test_wire_whose_open_axes_are_absent() -> None:
    cell = np.zeros((3, 3))
    cell[1] = [0.0, 1.0, 1.0]
    found = neighbour_list(np.zeros((1, 3)), cell, np.array([False, True, False]), 3.0)
    assert listed(*found) == [(0, 0, 0, k, 0) for k in (-2, -1, 1, 2)]


def test_pair_at_the_cutoff_is_listed_in_both_directions_or_not_at_all() -> None:
    generator = np.random.default_rng(3)
    for _ in range(200):
        direction = generator.normal(size=3)
        positions = np.array([np.zeros(3), 3.0 * direction / np.linalg.norm(direction)]) + generator.normal(
            size=3
        )
        receiver, _, _ = neighbour_list(positions, np.eye(3) * 7, np.ones(3, bool), 3.0)
        assert len(receiver) in (0, 2)


def crystal(seed: int, count: int = 5, **labels: object) -> Frame:
    generator = np.random.default_rng(seed)
    cell = 6.0 * np.eye(3) + generator.normal(size=(3, 3)) * 0.4
    return checked_frame(
        numbers=generator.choice([1, 8], size=count),
        positions=(np.arange(count)[:, None] / count + 0.3 * generator.random((count, 3)) / count) @ cell,
        cell=cell,
        pbc=True,
        source=f"crystal, frame {seed}",
        **labels,
    )


SPECIES = ("H", "O")
STRESS = np.array([[0.1, 0.04, 0.05], [0.04, 0.2, 0.06], [0.05, 0.06, 0.3]])


def displacements(batch: AtomBatch) -> torch.Tensor:
    cells = batch.cells[batch.structure[batch.edge_receiver]]
    shift = torch.einsum("ek,ekx->ex", batch.edge_shift, cells)
    return batch.positions[batch.edge_sender] - batch.positions[batch.edge_receiver] + shift


def test_graph_follows_the_conventions_of_the_batch() -> None:
    frame = crystal(1, energy=-2.0, forces=np.ones((5, 3)), stress=STRESS)
    graph = build_graph(frame, SPECIES, 4.0)
    assert graph.structure_count == 1
    assert graph.atom_count == 5
    floating = [getattr(graph, f.name) for f in dataclasses.fields(graph)]
    assert {t.dtype for t in floating if t.is_floating_point()} == {torch.float64}
    assert [SPECIES[k] for k in graph.species] == ["H" if n == 1 else "O" for n in frame.numbers]
    assert all(t.is_contiguous() for t in floating)
    assert (graph.edge_receiver.diff() >= 0).all()
    assert (displacements(graph).norm(dim=1) < 4.0).all()
    assert graph.energy.tolist() == [-2.0]
    torch.testing.assert_close(graph.stress[0], torch.from_numpy(STRESS))
    np.testing.assert_array_equal(graph.cells[0], frame.cell)


def test_isolated_atom_has_no_edges() -> None:
    frame = checked_frame(numbers=[8], positions=[[1, 2, 3]], source="x")
    graph = build_graph(frame, SPECIES, 5.0)
    assert graph.edge_shift.shape == (0, 3)
    assert not graph.cells.any()
    assert graph.energy is None


def test_unknown_element_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"crystal, frame 1: expected only the elements .*\(H\), found O; add"
    ):
        build_graph(crystal(1), ("H",), 4.0)


def test_coinciding_atoms_are_refused_also_across_the_boundary() -> None:
    for second, pbc in (([0.0, 0.0, 0.05], False), ([0.0, 0.0, 8.95], True)):
        frame = checked_frame(
            numbers=[1, 1],
            positions=[[0, 0, 0.0], second],
            cell=9 * np.eye(3),
            pbc=pbc,
            source="close.xyz, frame 3",
        )
        with pytest.raises(
            DataError, match=r"close\.xyz, frame 3: .* found atoms 0 and 1 at 0\.05 Å, coinciding"
        ):
            build_graph(frame, SPECIES, 4.0)


def test_collate_lays_structures_end_to_end() -> None:
    frames = [crystal(1, 4), crystal(2, 6), crystal(3, 1)]
    graphs = [build_graph(frame, SPECIES, 4.5) for frame in frames]
    batch = collate(graphs)
    assert batch.atoms_per_structure.tolist() == [4, 6, 1]
    assert batch.structure.tolist() == [0] * 4 + [1] * 6 + [2]
    torch.testing.assert_close(displacements(batch), torch.cat([displacements(graph) for graph in graphs]))
    assert (batch.edge_receiver.diff() >= 0).all()
    assert (batch.structure[batch.edge_receiver] == batch.structure[batch.edge_sender]).all()
    nested = collate([collate(graphs[:2]), graphs[2]])
    for field in dataclasses.fields(batch):
        value = getattr(batch, field.name)
        assert value is None or torch.equal(value, getattr(nested, field.name))


def test_missing_labels_are_not_a_number_in_mixed_batches_and_none_otherwise() -> None:
    full = build_graph(crystal(1, 2, energy=1.0, forces=np.ones((2, 3)), stress=STRESS), SPECIES, 4.0)
    energy_only = build_graph(crystal(2, 3, energy=2.0), SPECIES, 4.0)
    mixed = collate([full, energy_only])
    assert mixed.energy.tolist() == [1.0, 2.0]
    assert mixed.forces[:2].eq(1.0).all()
    assert mixed.forces[2:].isnan().all()
    assert mixed.forces.shape == (5, 3)
    assert mixed.stress[1].isnan().all()
    assert not mixed.stress[0].isnan().any()
    without = collate([energy_only, energy_only])
    assert without.forces is None
    assert without.stress is None


def test_random_rotation_turns_each_structure_as_one() -> None:
    frames = [
        crystal(1, 4, energy=1.0, forces=np.arange(12.0).reshape(4, 3), stress=STRESS),
        crystal(2, 6, energy=2.0),
    ]
    batch = collate([build_graph(frame, SPECIES, 4.5) for frame in frames])
    turned = random_rotation(batch, torch.Generator().manual_seed(5))
    rotations = torch.linalg.solve(batch.cells, turned.cells).mT
    for rotation in rotations:
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))
        assert torch.det(rotation) == pytest.approx(1.0)
    assert not torch.allclose(rotations[0], rotations[1])
    edge_rotations = rotations[batch.structure[batch.edge_receiver]]
    expected = torch.einsum("exy,ey->ex", edge_rotations, displacements(batch))
    torch.testing.assert_close(displacements(turned), expected)
    torch.testing.assert_close(turned.forces[:4], batch.forces[:4] @ rotations[0].T)
    torch.testing.assert_close(turned.stress[0], rotations[0] @ batch.stress[0] @ rotations[0].T)
    assert turned.forces[4:].isnan().all()
    assert torch.equal(turned.energy, batch.energy)
    again = random_rotation(batch, torch.Generator().manual_seed(5))
    assert torch.equal(again.positions, turned.positions)
    single = random_rotation(batch.to(dtype=torch.float32), torch.Generator().manual_seed(5))
    assert torch.equal(single.positions, turned.positions)  # float64 at every precision of the labels
    assert single.forces.dtype == single.stress.dtype == torch.float32
    torch.testing.assert_close(single.forces[:4].double(), turned.forces[:4], atol=1e-5, rtol=0)
    torch.testing.assert_close(single.stress[0].double(), turned.stress[0], atol=1e-5, rtol=0)


def test_labels_of_lower_precision_stay_so_in_a_batch_with_absent_ones() -> None:
    frames = [crystal(1, 4), crystal(2, 4, energy=1.0, forces=np.ones((4, 3)), stress=STRESS)]
    batch = collate([build_graph(frame, SPECIES, 4.5).to(dtype=torch.float32) for frame in frames])
    assert batch.energy.dtype == batch.forces.dtype == batch.stress.dtype == torch.float32
    assert batch.forces.isnan().any(dim=1).tolist() == 4 * [True] + 4 * [False]
    assert batch.stress.isnan().any(dim=(1, 2)).tolist() == [True, False]


def test_random_rotations_are_uniform() -> None:
    count = 4000
    arrow = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    batch = AtomBatch(
        positions=arrow.repeat(count, 1),
        species=torch.zeros(count, dtype=torch.int64),
        structure=torch.arange(count),
        cells=torch.zeros(count, 3, 3, dtype=torch.float64),
        edge_receiver=torch.zeros(0, dtype=torch.int64),
        edge_sender=torch.zeros(0, dtype=torch.int64),
        edge_shift=torch.zeros(0, 3, dtype=torch.float64),
    )
    directions = random_rotation(batch, torch.Generator().manual_seed(0)).positions
    # Five standard errors of the mean and of the second moment of a uniform direction.
    assert directions.mean(0).abs().max() < 5 / (3 * count) ** 0.5
    second = directions.T @ directions / count
    torch.testing.assert_close(
        second, torch.eye(3, dtype=torch.float64) / 3, atol=5 * 0.3 / count**0.5, rtol=0
    )


def test_dataset_builds_each_graph_once_within_its_bound() -> None:
    frames = [crystal(seed) for seed in range(1, 5)]
    dataset = GraphDataset(frames, SPECIES, 4.0, indices=[3, 0, 2])
    assert len(dataset) == 3
    assert dataset.frame(0) is frames[3]
    assert dataset[1] is dataset[1]
    uncached = GraphDataset(frames, SPECIES, 4.0, cache_bytes=0)
    assert uncached[1] is not uncached[1]
    torch.testing.assert_close(uncached[0].edge_shift, dataset[1].edge_shift)
    with pytest.raises(IndexError):
        dataset[3]


def test_kept_graph_shares_the_memory_of_its_frame() -> None:
    frame = crystal(1, 4, forces=np.ones((4, 3)))
    graph = GraphDataset([frame], SPECIES, 4.0)[0]
    assert graph.positions.data_ptr() == frame.positions.ctypes.data
    assert graph.forces.data_ptr() == frame.forces.ctypes.data
