"""What holds for every structure and every history of an engine: symmetries, lists with skin, threads."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import ase
import numpy as np
import pytest

from engine_cases import (
    NARROW_CELL,
    Results,
    assert_identical,
    assert_same,
    compute,
    crystal_of,
    engine_of,
    large_crystal,
    molecule_of,
    on_every_device,
    reference,
)
from kernel_cases import CASES
from model_cases import STATISTICS, make_config, make_network, rotation_matrix
from symmd_md.model import SymmdNetwork

Rng = np.random.Generator


@pytest.fixture(scope="module")
def network() -> SymmdNetwork:
    """Three layers, so that effects travel; small, for many steps."""
    return make_network(make_config(layers=3, layer_cutoffs=(3.5, 3.0, 2.6), radial_knots=64))


@on_every_device
@pytest.mark.parametrize("improper", [False, True])
@pytest.mark.parametrize("name", ["L1-h1", "L2-h2", "L3-h3", "convolution-square"])
def test_results_turn_with_the_structure(name: str, improper: bool, rng: Rng) -> None:
    engine = engine_of(make_network(CASES[name]))
    atoms = crystal_of(rng, 4)
    turn = rotation_matrix(rng, improper)
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ turn.T)
    turned.positions = atoms.positions @ turn.T
    expected = dict(compute(engine, atoms))
    expected["forces"] = expected["forces"] @ turn.T
    for virial in ("virial", "atom_virial"):
        expected[virial] = turn @ expected[virial] @ turn.T
    assert_same(compute(engine, turned), expected)


@on_every_device
def test_results_do_not_depend_on_the_place(network: SymmdNetwork, rng: Rng) -> None:
    engine = engine_of(network)
    atoms = crystal_of(rng, 4)
    expected = compute(engine, atoms)
    moved = atoms.copy()
    moved.positions += [11.7, -3.1, 0.4]
    assert_same(compute(engine, moved), expected)
    # Other atoms of the same lattice, given by other vectors of it.
    moved.positions += rng.integers(-2, 3, (4, 3)) @ atoms.cell.array
    moved.set_cell(np.array([[1, 0, 0], [2, 1, 0], [-1, 1, 1]]) @ atoms.cell.array)
    assert_same(compute(engine, moved), expected)


@pytest.mark.parametrize("size", [3, 9])
def test_results_follow_the_order_of_the_atoms(size: int, network: SymmdNetwork, rng: Rng) -> None:
    atoms = large_crystal(rng, size)
    order = rng.permutation(len(atoms))
    found, expected = (compute(engine_of(network), each) for each in (atoms[order], atoms))
    by_atom = {name: expected[name][order] for name in ("atom_energy", "forces", "atom_virial")}
    assert_same(found, {**expected, **by_atom})


@on_every_device
def test_far_apart_is_the_sum(network: SymmdNetwork, rng: Rng) -> None:
    engine = engine_of(network)
    first, second = molecule_of(rng, 8), molecule_of(rng, 11)
    second.positions += [40.0, 0.0, 0.0]
    apart = [compute(engine, atoms) for atoms in (first, second)]
    both = compute(engine, first + second)
    for name in ("atom_energy", "forces", "atom_virial"):
        joined = np.concatenate([each[name] for each in apart])
        np.testing.assert_allclose(both[name], joined, rtol=0, atol=1e-12)
    assert both["energy"] == pytest.approx(sum(each["energy"] for each in apart), abs=1e-12)


@on_every_device
def test_a_supercell_has_as_many_times_the_energy(network: SymmdNetwork, rng: Rng) -> None:
    engine = engine_of(network)
    atoms = crystal_of(rng, 3)
    once, often = compute(engine, atoms), compute(engine, atoms.repeat((3, 2, 4)))
    assert often["energy"] == pytest.approx(24 * once["energy"], rel=1e-12)
    np.testing.assert_allclose(often["virial"], 24 * once["virial"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(often["forces"], np.tile(once["forces"], (24, 1)), rtol=0, atol=1e-11)


@on_every_device
def test_an_isolated_atom_feels_nothing() -> None:
    network = make_network(make_config())
    engine = engine_of(network)
    for symbol in STATISTICS.reference_energies:
        atoms = ase.Atoms(symbol, positions=[[1e6, -3.0, 7.0]])
        found = compute(engine, atoms)
        assert found["energy"] == pytest.approx(reference(network, atoms)["energy"], abs=1e-12)
        for name in ("forces", "virial", "atom_virial"):
            np.testing.assert_array_equal(found[name], 0)


@on_every_device
@pytest.mark.parametrize("name", ["L2-h1", "convolution-square"])
def test_nothing_jumps_when_a_neighbour_leaves(name: str, rng: Rng) -> None:
    """The first neighbour of an atom, and one more of many; u = 1 is the cutoff of 3.5 Å (eq. 4, 31)."""
    engine = engine_of(make_network(CASES[name]), skin=0)
    crowd = molecule_of(rng, 8)
    outwards = np.array([0.6, 0.64, 0.48])
    far = crowd.positions[(crowd.positions @ outwards).argmax()]
    for others, origin in ((ase.Atoms("C", positions=[[0, 0, 0]]), np.zeros(3)), (crowd, far)):

        def at(distance: float, others: ase.Atoms = others, origin: np.ndarray = origin) -> Results:
            return compute(engine, others + ase.Atoms("O", positions=[origin + distance * outwards]))

        beyond = at(3.5 + 1e-9)
        gaps = (1e-1, 1e-2, 1e-3, 1e-4)
        energies = [abs(at(3.5 - gap)["energy"] - beyond["energy"]) for gap in gaps]
        # The others feel each other in the crowd; the atom that leaves is the last.
        forces = [np.abs(at(3.5 - gap)["forces"][-1] - beyond["forces"][-1]).max() for gap in gaps]
        assert energies[0] > 0
        assert forces[0] > 0
        # Value, first and second derivative vanish: the energy falls at least with the cube, forces squared.
        for near, nearer in itertools.pairwise(energies):
            assert nearer <= 2e-3 * near + 1e-13
        for near, nearer in itertools.pairwise(forces):
            assert nearer <= 2e-2 * near + 1e-12


def walk(atoms: ase.Atoms, rng: Rng, step: float) -> None:
    """One step of a random walk of all atoms."""
    atoms.positions += step * rng.standard_normal(atoms.positions.shape)


@pytest.mark.parametrize("size", [3, 9])
def test_a_list_with_skin_changes_nothing_along_a_trajectory(
    size: int, network: SymmdNetwork, rng: Rng
) -> None:
    with_skin, without = engine_of(network, skin=1.0), engine_of(network, skin=0.0)
    atoms = large_crystal(rng, size, spacing=2.3)
    steps = 80 if size == 3 else 12
    for _ in range(steps):
        walk(atoms, rng, 0.05)
        assert_same(compute(with_skin, atoms), compute(without, atoms), 1e-11)
    assert without.list_builds == steps
    assert 1 < with_skin.list_builds < steps / 2


def test_a_barostat_keeps_the_list_and_changes_nothing(network: SymmdNetwork, rng: Rng) -> None:
    with_skin, without = engine_of(network, skin=1.0), engine_of(network, skin=0.0)
    atoms = large_crystal(rng, 3, spacing=2.3)
    for _ in range(60):
        walk(atoms, rng, 0.02)
        strain = np.eye(3) + 0.004 * rng.standard_normal((3, 3))
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        assert_same(compute(with_skin, atoms), compute(without, atoms), 1e-11)
    assert 1 < with_skin.list_builds < 30


def test_one_engine_takes_any_sequence_of_structures(network: SymmdNetwork, rng: Rng) -> None:
    engine = engine_of(network, threads=2)
    crystal, large = crystal_of(rng, 4), large_crystal(rng)
    slab = crystal.copy()
    slab.pbc = (True, False, True)
    other = crystal.copy()
    other.symbols[:] = "O"
    wider = crystal.copy()
    wider.set_cell(NARROW_CELL * 1.02)
    sequence = [
        crystal, slab, crystal, other, crystal, wider, ase.Atoms(), crystal, molecule_of(rng, 30),
        large, ase.Atoms("H"), large, large[:600], crystal,
    ]  # fmt: skip
    for atoms in sequence:
        fresh = compute(engine_of(network), atoms)
        assert_same(compute(engine, atoms), fresh, 1e-11)
    # Only what changed tells the structure that follows from the one before.
    other = large.copy()
    other.symbols[5] = "H" if large.symbols[5] == "C" else "C"
    compute(engine, large)
    builds = engine.list_builds
    assert_same(compute(engine, other), compute(engine_of(network), other), 1e-11)
    assert engine.list_builds == builds


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("size", [2, 3, 9])
def test_threads_change_nothing_but_rounding(
    size: int, precision: str, network: SymmdNetwork, rng: Rng
) -> None:
    atoms = large_crystal(rng, size)
    engine = engine_of(network, precision=precision)
    expected = compute(engine, atoms)
    for threads in (2, 3, 8):
        engine.threads = threads
        assert_same(compute(engine, atoms), expected, 1e-11 if precision == "float64" else 2e-5)
    engine.threads = 1
    assert_identical(compute(engine, atoms), expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("size", [3, 9])
def test_runs_are_equal_to_the_last_bit(size: int, threads: int, network: SymmdNetwork, rng: Rng) -> None:
    atoms = large_crystal(rng, size, spacing=2.2)
    trajectories = []
    for _ in range(2):
        engine = engine_of(network, threads=threads, precision="float32")
        moving, steps = atoms.copy(), np.random.default_rng(3)
        trajectory = []
        for _ in range(5):
            walk(moving, steps, 0.08)
            trajectory.append(compute(engine, moving))
        trajectories.append(trajectory)
    for first, second in zip(*trajectories, strict=True):
        assert_identical(first, second)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("size", [3, 9])
def test_deterministic_results_do_not_know_the_past(
    size: int, threads: int, network: SymmdNetwork, rng: Rng
) -> None:
    atoms = large_crystal(rng, size, spacing=2.2)
    options = {"threads": threads, "precision": "float32", "deterministic": True}
    expected = compute(engine_of(network, **options), atoms)
    engine = engine_of(network, **options)
    earlier = atoms.copy()
    for _ in range(5):
        # Back and forth, so that lists are kept as well as built for each of the two.
        for other in (earlier, large_crystal(rng, 4), atoms):
            found = compute(engine, other)
        assert_identical(found, expected)
        walk(earlier, rng, 0.02)
        compute(engine, earlier)
        builds = engine.list_builds
        assert_identical(compute(engine, atoms), expected)
        assert engine.list_builds <= builds + 1
    engine = engine_of(network, **options)
    compute(engine, earlier)
    assert_identical(compute(engine, atoms), expected)


@on_every_device
def test_engines_do_not_see_each_other(network: SymmdNetwork, rng: Rng) -> None:
    other = make_network(CASES["L3-h2"], 9)
    structures = [crystal_of(rng, 4), molecule_of(rng, 12), large_crystal(rng, 4)]
    expected = [[compute(engine_of(each), atoms) for atoms in structures] for each in (network, other)]
    engines = [engine_of(each) for each in (network, other)]
    for _ in range(3):
        for index, atoms in enumerate(structures):
            for engine, results in zip(engines, expected, strict=True):
                assert_same(compute(engine, atoms), results[index], 1e-12)


def in_two_threads(body: Callable[[int], None]) -> None:
    """Runs body(0) and body(1) at the same time; an error of either is an error of the test."""
    problems: list[BaseException] = []

    def guarded(index: int) -> None:
        try:
            body(index)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=guarded, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]


@pytest.mark.parametrize("shared", [True, False])
def test_threads_of_python_may_compute_at_the_same_time(
    shared: bool, network: SymmdNetwork, rng: Rng
) -> None:
    structures = [large_crystal(rng, 4), molecule_of(rng, 40)]
    expected = [compute(engine_of(network), atoms) for atoms in structures]
    engines = [engine_of(network)] * 2 if shared else [engine_of(network), engine_of(network, threads=2)]

    def body(index: int) -> None:
        for _ in range(30):
            assert_same(compute(engines[index], structures[index]), expected[index], 1e-12)

    in_two_threads(body)


def test_memory_stays_where_it_is(network: SymmdNetwork, rng: Rng) -> None:
    engine = engine_of(network)
    atoms = large_crystal(rng, 4)
    for _ in range(20):
        walk(atoms, rng, 0.05)
        compute(engine, atoms)
    settled = engine.memory_bytes
    for _ in range(60):
        compute(engine, atoms)
        compute(engine, atoms[:20])
    assert engine.memory_bytes == settled
