"""The engine's neighbour list against sums over images and against vesin, its skin, and what it refuses."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from symmd_md import _engine
from symmd_md.data import neighbour_list

PERIODICITIES = list(itertools.product([False, True], repeat=3))
ALL, NONE = [True] * 3, [False] * 3


def edges_by_image_sum(
    positions: np.ndarray,
    compact: np.ndarray,
    pbc: np.ndarray,
    cutoff: float,
    change: np.ndarray | None = None,
) -> np.ndarray:
    """[E, 5] receiver, sender and shift of every edge, by trying all images that could be near; sorted.

    ``compact`` is a cell that is not skewed much; shifts are those of the cell ``change @ compact``.
    """
    axes = np.flatnonzero(pbc)
    vectors = compact[axes]
    duals = np.linalg.pinv(vectors) if len(axes) else np.zeros((3, 0))
    wraps = np.floor(positions @ duals)
    reach = np.ceil(cutoff * np.linalg.norm(duals, axis=0)).astype(int) + 1
    images = list(itertools.product(*[range(-most, most + 1) for most in reach]))
    shifts = np.array(images, dtype=np.int64).reshape(len(images), len(axes))
    wrapped = positions - wraps @ vectors
    displacement = (wrapped[None] - wrapped[:, None])[None] + (shifts @ vectors)[:, None, None]
    near = np.einsum("sijx,sijx->sij", displacement, displacement) < cutoff**2
    near[(shifts == 0).all(1)] &= ~np.eye(len(positions), dtype=bool)
    image, receiver, sender = np.nonzero(near)
    edges = np.zeros((len(image), 5), dtype=np.int64)
    edges[:, 0], edges[:, 1] = receiver, sender
    edges[:, 2 + axes] = shifts[image] - wraps[sender] + wraps[receiver]
    if change is not None:
        edges[:, 2:] = edges[:, 2:] @ np.rint(np.linalg.inv(change)).astype(np.int64)
    return in_order(edges)


def in_order(edges: np.ndarray) -> np.ndarray:
    return edges[np.lexsort(edges.T[::-1])]


def table(row_start: np.ndarray, sender: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """[E, 5] receiver, sender and shift."""
    receiver = np.repeat(np.arange(len(row_start) - 1), np.diff(row_start))
    return np.column_stack([receiver, sender, shift])


def checked_table(
    row_start: np.ndarray, sender: np.ndarray, shift: np.ndarray, reverse: np.ndarray
) -> np.ndarray:
    """The edges of a list whose order and whose reverse edges have been verified."""
    edges = table(row_start, sender, shift)
    np.testing.assert_array_equal(edges, in_order(edges))
    mirrored = np.column_stack([edges[:, 1], edges[:, 0], -edges[:, 2:]])
    np.testing.assert_array_equal(edges[reverse], mirrored)
    return edges


def engine_edges(positions: np.ndarray, cell: np.ndarray | None, pbc: object, cutoff: float) -> np.ndarray:
    return checked_table(*_engine.neighbour_list(positions, cell, pbc, cutoff))


def edges_within(
    listed: _engine.NeighbourList, positions: np.ndarray, cell: np.ndarray, cutoff: float
) -> np.ndarray:
    """The edges of a list with skin that are shorter than the cutoff now."""
    edges = checked_table(listed.row_start, listed.sender, listed.shift, listed.reverse)
    displacement = positions[edges[:, 1]] - positions[edges[:, 0]] + edges[:, 2:] @ cell
    return edges[np.einsum("ex,ex->e", displacement, displacement) < cutoff**2]


def random_cell(generator: np.random.Generator, longest: float) -> np.ndarray:
    """A triclinic cell of either handedness."""
    lengths = generator.uniform(1.5, longest, 3)
    cell = np.diag(lengths) + 0.4 * lengths.min() * generator.uniform(-1, 1, (3, 3))
    return cell if generator.random() < 0.5 else cell[::-1].copy()


def random_change(generator: np.random.Generator, pbc: np.ndarray) -> np.ndarray:
    """[3, 3] whole numbers that turn vectors of a lattice into other, longer ones of the same lattice."""
    change = np.eye(3, dtype=np.int64)
    axes = np.flatnonzero(pbc)
    for _ in range(generator.integers(0, 6) if len(axes) > 1 else 0):
        first, second = generator.permutation(axes)[:2]
        change[first] += generator.integers(-3, 4) * change[second]
    return change


def random_crystal(
    size: int, spacing: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """size³ atoms that have moved a little from a simple cubic crystal, and its cell."""
    sites = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), -1).reshape(-1, 3)
    positions = spacing * sites + generator.uniform(-0.1, 0.1, (size**3, 3)) * spacing
    return generator.permutation(positions), np.eye(3) * spacing * size


@pytest.mark.parametrize("pbc", PERIODICITIES)
def test_list_equals_a_sum_over_images(pbc: tuple[bool, bool, bool]) -> None:
    generator = np.random.default_rng([7, *pbc])
    periodic = np.array(pbc)
    beyond_first_image = 0
    for trial in range(30):
        count = int(generator.integers(1, 12))
        cutoff = generator.uniform(1.0, 5.0)
        cell = random_cell(generator, 2.5 if trial % 3 == 0 else 15.0)
        positions = generator.uniform(-1.5, 2.5, (count, 3)) @ cell
        change = random_change(generator, periodic)
        given = change @ cell
        if trial % 2:
            given[~periodic] = np.nan if trial % 4 == 1 else 0.0
        found = engine_edges(positions, given, pbc, cutoff)
        np.testing.assert_array_equal(found, edges_by_image_sum(positions, cell, periodic, cutoff, change))
        beyond_first_image += int((np.abs(found[:, 2:]) > 1).sum())
    assert beyond_first_image > 0 or not periodic.any()


@pytest.mark.parametrize("pbc", PERIODICITIES)
def test_list_equals_that_of_vesin(pbc: tuple[bool, bool, bool], rng: np.random.Generator) -> None:
    positions, cell = random_crystal(6, 2.0, rng)
    cell += rng.uniform(-1.5, 1.5, (3, 3))
    for cutoff in (2.5, 6.0, 13.0):
        receiver, sender, shift = neighbour_list(positions, cell, np.array(pbc), cutoff)
        found = engine_edges(positions, cell, pbc, cutoff)
        np.testing.assert_array_equal(found, np.column_stack([receiver, sender, shift]))


def test_bins_of_a_large_cell_lose_nothing(rng: np.random.Generator) -> None:
    positions, cell = random_crystal(9, 1.7, rng)
    cell = np.array([[1, 0, 0], [2, 1, 0], [-1, 3, 1]]) @ cell
    found = engine_edges(positions, cell, ALL, 3.1)
    displacement = positions[found[:, 1]] - positions[found[:, 0]] + found[:, 2:] @ cell
    assert np.linalg.norm(displacement, axis=1).max() < 3.1
    receiver, _, _ = neighbour_list(positions, np.eye(3) * 9 * 1.7, np.array(ALL), 3.1)
    np.testing.assert_array_equal(found[:, 0], receiver)


@pytest.mark.parametrize("pbc", PERIODICITIES)
def test_atoms_outside_of_the_cell_only_change_shifts(
    pbc: tuple[bool, bool, bool], rng: np.random.Generator
) -> None:
    cell = random_cell(rng, 6.0)
    positions = rng.random((20, 3)) @ cell
    cells_away = rng.integers(-1000, 1000, (20, 3)) * np.array(pbc)
    inside = engine_edges(positions, cell, pbc, 3.0)
    outside = engine_edges(positions + cells_away @ cell, cell, pbc, 3.0)
    outside[:, 2:] += cells_away[outside[:, 1]] - cells_away[outside[:, 0]]
    np.testing.assert_array_equal(in_order(outside), inside)


@pytest.mark.parametrize("skew", [10, 1000, 100000])
def test_skewed_vectors_of_a_lattice_give_its_list(skew: int, rng: np.random.Generator) -> None:
    positions, cell = random_crystal(3, 2.0, rng)
    change = np.array([[1, 0, 0], [skew, 1, 0], [-skew, 3, 1]])
    plain = engine_edges(positions, cell, ALL, 5.0)
    skewed = engine_edges(positions, change @ cell, ALL, 5.0)
    skewed[:, 2:] = skewed[:, 2:] @ change
    np.testing.assert_array_equal(in_order(skewed), plain)


def test_flat_basis_of_a_compact_lattice() -> None:
    # Each pair of these vectors is reduced, but their sum is short: only sums lead to the compact cell.
    cell = 4.0 * np.array([[1.0, -0.5, -0.5], [-0.5, 1.0, -0.5], [-0.5, -0.5, 1.0]]) + 0.1 * np.eye(3)
    positions = np.zeros((1, 3))
    np.testing.assert_array_equal(
        engine_edges(positions, cell, ALL, 4.0), edges_by_image_sum(positions, cell, np.array(ALL), 4.0)
    )


@pytest.mark.parametrize("spacing", [1.0, 0.7, 1 / 3])
def test_pairs_at_the_cutoff_stand_in_both_directions_or_none(
    spacing: float, rng: np.random.Generator
) -> None:
    sites = np.stack(np.meshgrid(*[np.arange(6)] * 3, indexing="ij"), -1).reshape(-1, 3)
    for cutoff in (spacing, 2 * spacing, np.sqrt(2) * spacing, 3 * spacing):
        for origin in (np.zeros(3), rng.uniform(-5, 5, 3)):
            positions = origin + spacing * sites
            within = {
                len(engine_edges(positions, np.eye(3) * 6 * spacing, ALL, cutoff * f)) for f in (1, 1 + 1e-9)
            }
            fewer = len(engine_edges(positions, np.eye(3) * 6 * spacing, ALL, cutoff * (1 - 1e-9)))
            assert fewer <= min(within) <= max(within)


def test_atoms_on_the_faces_of_cell_and_bins() -> None:
    cell = np.eye(3) * 4.0
    corners = np.array(list(itertools.product([0.0, 4.0 / 3, 4.0 - 4.4e-16], repeat=3)))[:18]
    positions = np.concatenate([corners, [[-1e-17, 2.0, 2.0], [4.0, 2.0, 1.0], [2.0, -4.0, 8.0]]])
    np.testing.assert_array_equal(
        engine_edges(positions + [0, 0, 1e-3] * np.arange(21)[:, None], cell, ALL, 1.9),
        edges_by_image_sum(positions + [0, 0, 1e-3] * np.arange(21)[:, None], cell, np.array(ALL), 1.9),
    )


def test_no_atoms_and_one_atom() -> None:
    for cell, pbc in ((None, NONE), (np.eye(3) * 3, ALL)):
        row_start, sender, shift, reverse = _engine.neighbour_list(np.zeros((0, 3)), cell, pbc, 2.0)
        assert row_start.tolist() == [0]
        assert (sender.shape, shift.shape, reverse.shape) == ((0,), (0, 3), (0,))
    assert len(engine_edges(np.ones((1, 3)), None, NONE, 5.0)) == 0
    assert len(engine_edges(np.ones((1, 3)), np.eye(3) * 3, ALL, 3.1)) == 6


def test_types_of_the_arrays() -> None:
    arrays = _engine.neighbour_list(
        np.array([[0, 0, 0], [0, 0, 1]], dtype=np.float32), None, np.array(NONE), 2
    )
    assert [array.dtype for array in arrays] == [np.int64, np.int64, np.int32, np.int64]
    assert [array.tolist() for array in arrays] == [[0, 1, 2], [1, 0], [[0, 0, 0]] * 2, [1, 0]]


@pytest.mark.parametrize("pbc", [NONE, [True, False, False], [True, True, False]])
def test_atoms_that_have_flown_away_cost_no_memory(pbc: list[bool], rng: np.random.Generator) -> None:
    positions, cell = random_crystal(8, 2.0, rng)
    compact = _engine.NeighbourList(4.0, 0.5)
    compact.update(positions, cell, pbc)
    scattered = positions.copy()
    scattered[::50, 2] += rng.uniform(-5e7, 5e7, len(scattered[::50]))
    spread = _engine.NeighbourList(4.0, 0.5)
    spread.update(scattered, cell, pbc)
    assert spread.memory_bytes < 1.3 * compact.memory_bytes
    receiver, sender, shift = neighbour_list(np.delete(positions, np.s_[::50], 0), cell, np.array(pbc), 4.5)
    kept = np.delete(np.arange(512), np.s_[::50])
    expected = np.column_stack([kept[receiver], kept[sender], shift])
    np.testing.assert_array_equal(
        checked_table(spread.row_start, spread.sender, spread.shift, spread.reverse), expected
    )


def test_vacuum_costs_no_memory(rng: np.random.Generator) -> None:
    positions, _ = random_crystal(6, 2.0, rng)
    listed = {}
    for length in (30.0, 1e7):
        listed[length] = _engine.NeighbourList(4.0, 0.5)
        listed[length].update(positions, np.eye(3) * length, ALL)
    assert listed[1e7].memory_bytes <= 1.1 * listed[30.0].memory_bytes
    assert len(listed[1e7].sender) == len(listed[30.0].sender)


def test_memory_is_linear_in_atoms(rng: np.random.Generator) -> None:
    per_atom = []
    for size in (8, 16, 24):
        positions, cell = random_crystal(size, 2.2, rng)
        listed = _engine.NeighbourList(5.0, 1.0)
        listed.update(positions, cell, ALL)
        per_atom.append(listed.memory_bytes / len(positions))
    assert max(per_atom) < 1.3 * min(per_atom)
    assert max(per_atom) < 80 * len(listed.sender) / len(positions)


@pytest.mark.parametrize("pbc", PERIODICITIES)
def test_list_with_skin_misses_nothing_along_a_walk(pbc: tuple[bool, bool, bool]) -> None:
    generator = np.random.default_rng([11, *pbc])
    periodic = np.array(pbc)
    cell = random_cell(generator, 7.0)
    positions = generator.random((10, 3)) @ cell
    cutoff = 3.0
    listed = _engine.NeighbourList(cutoff, 0.8)
    steps = 250
    for step in range(steps):
        # In turns: a barostat, a cell that changes around its atoms, atoms at constant cell.
        deformation = np.eye(3) + 0.004 * generator.standard_normal((3, 3))
        if step % 50 < 20:
            positions = positions @ deformation
            cell = cell @ deformation
        elif step % 50 < 30:
            cell = cell @ deformation
        positions = positions + 0.02 * generator.standard_normal((10, 3)) + [0.1, -0.05, 0.2]
        if step % 17 == 0:
            positions = positions - (generator.integers(-2, 3, (10, 3)) * periodic) @ cell
        before = listed.build_count
        built = listed.update(positions, cell, pbc)
        assert listed.build_count == before + built
        np.testing.assert_array_equal(
            edges_within(listed, positions, np.where(periodic[:, None], cell, 0), cutoff),
            edges_by_image_sum(positions, cell, periodic, cutoff),
        )
    assert 3 < listed.build_count < 0.7 * steps


def test_list_is_kept_until_half_the_skin() -> None:
    start = np.array([[0.0, 0.0, 0.0], [3.9, 0.0, 0.0], [0.0, 9.0, 0.0]])
    outwards = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    listed = _engine.NeighbourList(3.0, 1.0)
    assert listed.update(start, None, NONE)
    assert not listed.update(start + 0.49 * outwards, None, NONE)
    assert len(listed.sender) == 2
    assert listed.update(start + 0.51 * outwards, None, NONE)
    assert (listed.build_count, listed.cutoff, listed.skin) == (2, 3.0, 1.0)


def test_list_without_skin_is_kept_while_nothing_moves() -> None:
    positions = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    listed = _engine.NeighbourList(3.0, 0.0)
    assert listed.update(positions, None, NONE)
    assert not listed.update(positions, None, NONE)
    assert listed.update(positions * (1 + 1e-15), None, NONE)


def test_common_motion_keeps_the_list(rng: np.random.Generator) -> None:
    positions, cell = random_crystal(4, 2.0, rng)
    listed = _engine.NeighbourList(3.0, 0.5)
    listed.update(positions, cell, ALL)
    assert not listed.update(positions + np.array([17.0, -3.0, 5.0]), cell, ALL)
    with pytest.raises(ValueError, match=r"found atom 1 at \(1e\+20, 1e\+20, 1e\+20\)"):
        listed.update(positions + 1e20, cell, ALL)


def test_barostat_keeps_the_list_within_its_margin(rng: np.random.Generator) -> None:
    positions, cell = random_crystal(8, 2.0, rng)
    listed = _engine.NeighbourList(3.0, 0.5)
    listed.update(positions + 100.0, cell, ALL)
    # The range of 3.5 Å may shrink by 0.5 Å; the strain is bounded by its Frobenius norm, √3 x the scaling.
    allowed = 0.5 / 3.5 / np.sqrt(3)
    for scale in (1 - 0.9 * allowed, 1 + 0.9 * allowed):
        assert not listed.update(positions * scale, cell * scale, ALL)
    assert listed.update(positions * (1 - 1.1 * allowed), cell * (1 - 1.1 * allowed), ALL)


def test_cell_that_shrinks_around_its_atoms_is_noticed() -> None:
    positions = np.array([[0.1, 5.0, 5.0], [6.9, 5.0, 5.0]])
    cell = np.eye(3) * 10.0
    listed = _engine.NeighbourList(2.5, 0.5)
    listed.update(positions, cell, ALL)
    assert len(listed.sender) == 0
    assert listed.update(positions, cell - np.diag([0.8, 0, 0]), ALL)
    assert len(listed.sender) == 2


def test_another_cell_of_the_same_lattice_gives_new_shifts(rng: np.random.Generator) -> None:
    positions, cell = random_crystal(3, 2.0, rng)
    listed = _engine.NeighbourList(3.0, 0.5)
    listed.update(positions, cell, ALL)
    flipped = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]]) @ cell
    assert listed.update(positions, flipped, ALL)
    np.testing.assert_array_equal(
        edges_within(listed, positions, flipped, 3.0), engine_edges(positions, flipped, ALL, 3.0)
    )


def test_other_atoms_and_other_periodicity_need_a_new_list(rng: np.random.Generator) -> None:
    positions, cell = random_crystal(3, 2.0, rng)
    listed = _engine.NeighbourList(3.0, 0.5)
    assert listed.update(positions, cell, ALL)
    assert listed.update(positions[1:], cell, ALL)
    assert listed.update(positions[1:], cell, [True, True, False])
    assert listed.update(positions[1:], None, NONE)
    assert listed.update(np.zeros((0, 3)), None, NONE)
    assert not listed.update(np.zeros((0, 3)), None, NONE)
    assert listed.row_start.tolist() == [0]


def test_memory_settles_along_a_walk(rng: np.random.Generator) -> None:
    positions, cell = random_crystal(6, 2.0, rng)
    listed = _engine.NeighbourList(4.0, 0.3)
    listed.update(positions, cell, ALL)
    first = listed.memory_bytes
    for _ in range(50):
        listed.update(positions + rng.uniform(-0.4, 0.4, positions.shape), cell, ALL)
    assert listed.build_count > 40
    assert listed.memory_bytes < 1.3 * first


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e9])
def test_coordinates_that_are_not_finite_are_refused_by_name(value: float) -> None:
    positions = np.arange(12.0).reshape(4, 3)
    listed = _engine.NeighbourList(3.0, 1.0)
    listed.update(positions, np.eye(3) * 20, ALL)
    positions[2, 1] = value
    message = rf"^expected finite coordinates within 1e8 Å, found atom 3 at \(6, {value:.6g}, 8\) Å; check "
    for action in (
        lambda: listed.update(positions, np.eye(3) * 20, ALL),
        lambda: _engine.neighbour_list(positions, None, NONE, 3.0),
    ):
        with pytest.raises(ValueError, match=message.replace("+", r"\+")):
            action()


def test_list_is_empty_after_an_error_and_recovers() -> None:
    positions = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    listed = _engine.NeighbourList(3.0, 1.0)
    listed.update(positions, None, NONE)
    with pytest.raises(ValueError, match="found atom 1 at"):
        listed.update(positions * np.nan, None, NONE)
    assert listed.row_start.tolist() == [0]
    assert (len(listed.sender), len(listed.reverse), listed.shift.shape) == (0, 0, (0, 3))
    assert listed.update(positions, None, NONE)
    assert len(listed.sender) == 2


@pytest.mark.parametrize("cutoff", [0.0, 1e-6, -1.0, np.nan, np.inf])
def test_a_cutoff_must_be_a_length(cutoff: float) -> None:
    message = (
        rf"^expected a cutoff above 1e-6 and up to 1e8 Å, found {cutoff:.6g} Å; give the cutoff of the model$"
    )
    with pytest.raises(ValueError, match=message):
        _engine.neighbour_list(np.zeros((1, 3)), None, NONE, cutoff)
    with pytest.raises(ValueError, match=message):
        _engine.NeighbourList(cutoff, 1.0)


@pytest.mark.parametrize("skin", [-0.1, np.nan, np.inf])
def test_a_skin_must_be_a_length_or_zero(skin: float) -> None:
    message = rf"^expected a skin from 0 to 1e8 Å, found {skin:.6g} Å; 0.5 to 2 Å are usual$"
    with pytest.raises(ValueError, match=message):
        _engine.NeighbourList(3.0, skin)


FLAT = [[1.0, 2.0, 3.0], [2.0, 1.0, 0.5], [3.0, 3.0, 3.5]]


@pytest.mark.parametrize(
    ("cell", "pbc", "message"),
    [
        (None, [False, True, False], "expected a cell because axis b is periodic, found none; give the cell"),
        (np.zeros((3, 3)), ALL, r"a length above zero for the periodic axis a, found \(0, 0, 0\) Å; correct"),
        (
            np.diag([3.0, 3.0, 0.0]),
            [False, True, True],
            r"above zero for the periodic axis c, found \(0, 0, 0\)",
        ),
        (
            np.diag([3.0, np.nan, 3.0]),
            ALL,
            r"finite cell vectors within 1e8 Å, found \(0, nan, 0\) Å .* axis b",
        ),
        (
            np.diag([3.0, 3.0, np.inf]),
            ALL,
            r"finite cell vectors within 1e8 Å, found \(0, 0, inf\) Å .* axis c",
        ),
        (
            np.diag([2e8, 3.0, 3.0]),
            ALL,
            r"finite cell vectors within 1e8 Å, found \(2e\+08, 0, 0\) Å .* axis a",
        ),
        (
            np.array(FLAT),
            ALL,
            r"linearly independent, found \(1, 2, 3\), \(2, 1, 0.5\), \(3, 3, 3.5\) Å, between",
        ),
        (
            np.array([[1.0, 1, 1], [-2, -2, -2], [0, 0, 3]]),
            [True, True, False],
            "are linearly independent, found",
        ),
        (
            np.diag([4.0, 4.0, 1e-4]),
            ALL,
            "fewer than 100000 images .* heights of only 0.0001 Å with a range of 3 Å",
        ),
        (
            np.diag([0.05, 0.05, 0.05]),
            ALL,
            "fewer than 100000 images .* correct or repeat the cell, or shorten",
        ),
    ],
)
def test_cells_that_cannot_be_meant_are_refused(
    cell: np.ndarray | None, pbc: list[bool], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _engine.neighbour_list(np.ones((2, 3)) * [[0], [0.3]], cell, pbc, 3.0)


def test_cell_that_collapses_is_refused() -> None:
    positions = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    listed = _engine.NeighbourList(3.0, 1.0)
    listed.update(positions, np.eye(3) * 5, ALL)
    for cell in (np.zeros((3, 3)), np.full((3, 3), np.nan), None):
        with pytest.raises(ValueError, match=r"^expected (a length|finite cell|a cell)"):
            listed.update(positions, cell, ALL)


@pytest.mark.parametrize("distance", [0.0, 3e-7])
def test_coinciding_atoms_are_refused_by_name(distance: float, rng: np.random.Generator) -> None:
    positions = rng.uniform(0, 9, (30, 3))
    positions[[4, 23]] = [[1, 2, 3], [1, 2, 3 + distance]]
    message = (
        f"^expected .* 1e-6 Å apart, found atoms 5 and 24 at {distance:.6g} Å, coinciding; remove one of them"
    )
    for cell, pbc in ((None, NONE), (np.eye(3) * 9, ALL), (np.eye(3) * 50, [True, False, True])):
        with pytest.raises(ValueError, match=message):
            _engine.neighbour_list(positions, cell, pbc, 3.0)
    positions[23, 2] = 3 + 2e-6
    assert len(engine_edges(positions, None, NONE, 3.0)) > 0


def test_coinciding_images_are_refused_by_name() -> None:
    positions = np.array([[0.5, 0.5, 0.5], [2.0, 2.0, 2.0], [0.5, 8.5, -3.5]])
    with pytest.raises(ValueError, match="found atoms 1 and 3 at 0 Å, coinciding"):
        _engine.neighbour_list(positions, np.eye(3) * 4, ALL, 1.0)
    with pytest.raises(ValueError, match="found atom 1 and an image of itself at 5e-07 Å, coinciding"):
        _engine.neighbour_list(positions[:1], np.diag([1.0, 1.0, 5e-7]), ALL, 5e-6)


def test_atoms_too_many_cells_away_are_refused_by_name() -> None:
    positions = np.array([[0.0, 0.0, 0.0], [0.0, 9e7, 0.0]])
    with pytest.raises(ValueError, match=r"near the cell, found atom 2 9e\+08 cells away along axis b; wrap"):
        _engine.neighbour_list(positions, np.diag([1.0, 0.1, 1.0]), ALL, 0.3)


@pytest.mark.parametrize("shape", [(3,), (2, 2), (1, 3, 3)])
def test_positions_and_cells_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    found = r"\[" + ", ".join(map(str, shape)) + r"\]"
    with pytest.raises(
        ValueError, match=rf"expected positions of shape \[atoms, 3\], found {found}; give one row"
    ):
        _engine.neighbour_list(np.zeros(shape), None, NONE, 3.0)
    with pytest.raises(ValueError, match=rf"expected a cell of shape \[3, 3\], found {found}; give one row"):
        _engine.neighbour_list(np.zeros((1, 3)), np.zeros(shape), ALL, 3.0)
