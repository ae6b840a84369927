"""A caller's neighbour list with ghosts: domains that exchange features are together what one list gives."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass

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
from model_cases import make_config, make_network
from symmd_md import _engine
from symmd_md.errors import EngineError
from symmd_md.model import SymmdNetwork

CUTOFF = 3.5
Rng = np.random.Generator
Exchange = tuple[Callable[[np.ndarray], None], Callable[[np.ndarray], None]]


@dataclass
class Domain:
    """Owned atoms, then their ghosts: images of owned atoms and atoms of other domains, images included."""

    owned: int
    atom: np.ndarray
    """[atoms] index in the whole structure."""
    positions: np.ndarray
    rows: list[np.ndarray]
    """Neighbours of each owned atom."""


def domains_of(atoms: ase.Atoms, part: np.ndarray, reach: float = CUTOFF) -> list[Domain]:
    """The structure divided by ``part`` [atoms], with every pair closer than ``reach`` Å in the rows."""
    cell, axes = atoms.cell.array, np.flatnonzero(atoms.pbc)
    spread = np.ptp(atoms.positions, axis=0).max() if len(atoms) else 0.0
    most = np.zeros(3, dtype=int)
    if len(axes):
        most[axes] = np.ceil((reach + spread) * np.linalg.norm(np.linalg.pinv(cell[axes]), axis=0))
    shifts = np.array(list(itertools.product(*[range(-count, count + 1) for count in most])))
    at_home = np.flatnonzero((shifts == 0).all(1))[0]
    images = atoms.positions + (shifts @ cell)[:, None]
    domains = []
    for index in range(part.max() + 1):
        own = np.flatnonzero(part == index)
        displacement = images[None] - atoms.positions[own][:, None, None]
        near = np.einsum("isjx,isjx->isj", displacement, displacement) < reach**2
        near[np.arange(len(own)), at_home, own] = False
        ghost = near.any(0)
        ghost[at_home, own] = False
        shift, atom = np.nonzero(ghost)
        local = np.full(ghost.shape, -1, dtype=np.int32)
        local[at_home, own] = np.arange(len(own))
        local[shift, atom] = len(own) + np.arange(len(atom))
        domains.append(
            Domain(
                owned=len(own),
                atom=np.concatenate([own, atom]),
                positions=np.concatenate([atoms.positions[own], images[shift, atom]]),
                rows=[local[each] for each in near],
            )
        )
    return domains


class Lockstep:
    """Exchanges between domains that are computed at the same time, each in a thread of its own."""

    def __init__(self, domains: list[Domain]) -> None:
        self.domains = domains
        self.rows: list[np.ndarray] = [np.zeros(0)] * len(domains)
        self.barrier = threading.Barrier(len(domains), timeout=60)
        home = {
            int(atom): (index, place)
            for index, domain in enumerate(domains)
            for place, atom in enumerate(domain.atom[: domain.owned])
        }
        self.owners = [
            np.array([home[int(atom)] for atom in domain.atom[domain.owned :]], dtype=int).reshape(-1, 2)
            for domain in domains
        ]

    def exchange(self, index: int) -> Exchange:
        owned, owners = self.domains[index].owned, self.owners[index]

        def forward(rows: np.ndarray) -> None:
            self.rows[index] = rows
            self.barrier.wait()
            for ghost, (domain, place) in enumerate(owners, owned):
                rows[ghost] = self.rows[domain][place]
            self.barrier.wait()

        def backward(rows: np.ndarray) -> None:
            self.rows[index] = rows
            self.barrier.wait()
            for other, others in enumerate(self.owners):
                ghosts = np.flatnonzero(others[:, 0] == index)
                pulls = self.rows[other][self.domains[other].owned + ghosts]
                np.add.at(rows, others[ghosts, 1], pulls)
            self.barrier.wait()

        return forward, backward


def compute_domains(engines: list[_engine.Engine], atoms: ase.Atoms, domains: list[Domain]) -> Results:
    """What the domains say together, each computed by its engine."""
    lockstep = Lockstep(domains)
    found: list[Results | BaseException] = [RuntimeError("not computed")] * len(domains)

    def body(index: int) -> None:
        engine, domain = engines[index], domains[index]
        try:
            found[index] = engine.compute_neighbourhood(
                domain.owned,
                engine.species_of(atoms.numbers[domain.atom]),
                domain.positions,
                domain.rows,
                lockstep.exchange(index),
                virial=True,
                atom_virial=True,
            )
        except BaseException as error:
            found[index] = error
            lockstep.barrier.abort()

    threads = [threading.Thread(target=body, args=(index,)) for index in range(len(domains))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = {
        "energy": 0.0,
        "atom_energy": np.zeros(len(atoms)),
        "forces": np.zeros((len(atoms), 3)),
        "virial": np.zeros((3, 3)),
        "atom_virial": np.zeros((len(atoms), 3, 3)),
    }
    # Those that waited for the one with the error can only report a broken barrier.
    errors = [each for each in found if isinstance(each, BaseException)]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    for domain, results in zip(domains, found, strict=True):
        assert not isinstance(results, BaseException)
        for name in ("energy", "virial"):
            together[name] = together[name] + results[name]
        together["atom_energy"][domain.atom[: domain.owned]] = results["atom_energy"]
        for name in ("forces", "atom_virial"):
            np.add.at(together[name], domain.atom, results[name])
    return together


def network_of(layers: int, **settings: object) -> SymmdNetwork:
    return make_network(make_config(layers=layers, radial_knots=64, **settings))


@on_every_device
@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_domains_are_together_what_one_list_gives(layers: int, parts: int, rng: Rng) -> None:
    network = network_of(layers)
    engines = [engine_of(network) for _ in range(parts)]
    for atoms in (
        large_crystal(rng, 3, spacing=2.2),
        crystal_of(rng, 4, pbc=(True, True, False)),
        molecule_of(rng, 14),
    ):
        part = rng.permutation(np.arange(len(atoms)) % parts)
        found = compute_domains(engines, atoms, domains_of(atoms, part))
        assert_same(found, reference(network, atoms))
        assert_same(found, compute(engine_of(network), atoms), 1e-12)


@on_every_device
@pytest.mark.parametrize("name", ["L3-h3", "convolution-square", "L2-h0", "layer-cutoffs", "linear-L2-h2"])
def test_domains_of_every_kind_of_network(name: str, rng: Rng) -> None:
    network = make_network(CASES[name])
    atoms = crystal_of(rng, 4)
    found = compute_domains(
        [engine_of(network) for _ in range(2)], atoms, domains_of(atoms, np.array([0, 1, 1, 1]))
    )
    assert_same(found, reference(network, atoms))


@on_every_device
def test_domains_in_space_in_single_precision_and_in_threads(rng: Rng) -> None:
    network = network_of(3)
    atoms = large_crystal(rng, 7)
    part = (atoms.get_scaled_positions()[:, 0] > 0.4).astype(int)
    expected = compute(engine_of(network), atoms)
    for precision, tolerance in (("float32", 2e-5), ("float64", 1e-11)):
        engines = [engine_of(network, precision=precision, threads=2) for _ in range(2)]
        assert_same(compute_domains(engines, atoms, domains_of(atoms, part)), expected, tolerance)


@on_every_device
def test_a_domain_may_be_empty(rng: Rng) -> None:
    network = network_of(3)
    atoms = large_crystal(rng, 3, spacing=2.2)
    domains = [*domains_of(atoms, np.zeros(27, dtype=int)), Domain(0, np.zeros(0, int), np.zeros((0, 3)), [])]
    found = compute_domains([engine_of(network) for _ in domains], atoms, domains)
    assert_same(found, compute(engine_of(network), atoms), 1e-12)


@on_every_device
def test_a_domain_may_have_ghosts_alone(rng: Rng) -> None:
    network = network_of(2)
    atoms = molecule_of(rng, 9)
    domains = domains_of(atoms, np.zeros(9, dtype=int))
    domains.append(Domain(0, np.arange(9), atoms.positions, []))
    found = compute_domains([engine_of(network) for _ in domains], atoms, domains)
    assert_same(found, compute(engine_of(network), atoms), 1e-12)


@on_every_device
def test_rows_may_hold_more_than_is_near_in_any_order(rng: Rng) -> None:
    network = network_of(3)
    atoms = large_crystal(rng, 3, spacing=2.2)
    expected = compute(engine_of(network), atoms)
    domains = domains_of(atoms, np.arange(27) % 2, reach=CUTOFF + 1.5)
    for domain in domains:
        domain.rows = [rng.permutation(row) for row in domain.rows]
    assert_same(compute_domains([engine_of(network) for _ in range(2)], atoms, domains), expected, 1e-11)


def all_pairs(count: int) -> list[np.ndarray]:
    """Rows in which every atom has all others."""
    return [np.delete(np.arange(count, dtype=np.int32), atom) for atom in range(count)]


@on_every_device
def test_no_exchange_is_needed_without_ghosts(rng: Rng) -> None:
    network = network_of(3)
    engine = engine_of(network)
    atoms = molecule_of(rng, 12)
    species = engine.species_of(atoms.numbers)
    found = engine.compute_neighbourhood(
        12, species, atoms.positions, all_pairs(12), virial=True, atom_virial=True
    )
    assert_same(found, compute(engine, atoms), 1e-12)
    nothing = engine.compute_neighbourhood(0, species[:0], np.zeros((0, 3)), [], virial=True)
    assert nothing["energy"] == 0
    assert nothing["forces"].shape == (0, 3)


@on_every_device
def test_no_exchange_is_needed_for_one_layer(rng: Rng) -> None:
    network = network_of(1)
    engine = engine_of(network)
    atoms = crystal_of(rng, 4)
    (domain,) = domains_of(atoms, np.zeros(4, dtype=int))
    arguments = (4, engine.species_of(atoms.numbers[domain.atom]), domain.positions, domain.rows)
    found = engine.compute_neighbourhood(*arguments, virial=True)
    expected = compute(engine, atoms)
    assert found["energy"] == pytest.approx(expected["energy"], rel=1e-13)
    np.testing.assert_allclose(found["virial"], expected["virial"], rtol=0, atol=1e-11)


@on_every_device
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_features_are_exchanged_once_each_way_between_layers(precision: str, rng: Rng) -> None:
    network = network_of(4, hidden_degree=2)
    engine = engine_of(network, precision=precision)
    atoms = molecule_of(rng, 7)
    calls: list[tuple[str, tuple[int, int], str]] = []
    exchange = tuple(
        lambda rows, name=name: calls.append((name, rows.shape, rows.dtype.name))
        for name in ("forward", "backward")
    )
    arguments = (7, engine.species_of(atoms.numbers), atoms.positions, all_pairs(7), exchange)
    engine.compute_neighbourhood(*arguments)
    width = 9 * 16
    assert calls == [("forward", (7, width), precision)] * 3 + [("backward", (7, width), precision)] * 3
    calls.clear()
    engine.compute_neighbourhood(*arguments, forces=False)
    assert calls == [("forward", (7, width), precision)] * 3


@on_every_device
def test_an_error_of_an_exchange_is_handed_on(rng: Rng) -> None:
    engine = engine_of(network_of(3))
    atoms = molecule_of(rng, 7)
    arguments = (7, engine.species_of(atoms.numbers), atoms.positions, all_pairs(7))
    expected = engine.compute_neighbourhood(*arguments)

    def fails(rows: np.ndarray) -> None:
        raise ConnectionError("the neighbour has gone")

    def works(rows: np.ndarray) -> None:
        pass

    for exchange in ((fails, works), (works, fails)):
        with pytest.raises(ConnectionError, match="the neighbour has gone"):
            engine.compute_neighbourhood(*arguments, exchange)
        assert_identical(engine.compute_neighbourhood(*arguments), expected)


@on_every_device
def test_lists_of_both_kinds_may_alternate(rng: Rng) -> None:
    network = network_of(2)
    engine = engine_of(network)
    crystal, molecule = crystal_of(rng, 4), molecule_of(rng, 11)
    species = engine.species_of(molecule.numbers)
    expected = [compute(engine_of(network), atoms) for atoms in (crystal, molecule)]
    for _ in range(3):
        assert_identical(compute(engine, crystal), expected[0])
        found = engine.compute_neighbourhood(
            11, species, molecule.positions, all_pairs(11), virial=True, atom_virial=True
        )
        assert_same(found, expected[1], 1e-12)
    assert engine.list_builds == 1


class Change:
    """One thing wrong with a neighbourhood of four atoms and two ghosts, and what is said about it."""

    def __init__(self, message: str, **changed: object) -> None:
        self.message, self.changed = message, changed


def give_to_ghosts(rows: np.ndarray) -> None:
    """Both ghosts are of the species of the atoms whose features they get."""
    rows[4:] = rows[[0, 3]]


def good_arguments() -> dict[str, object]:
    """Four owned atoms in a row, and a ghost at either end."""
    positions = np.zeros((6, 3))
    positions[:, 0] = [0, 1.4, 2.8, 4.2, 5.6, -1.4]
    rows = [[1, 5], [0, 2], [1, 3], [2, 4]]
    return {
        "owned": 4,
        "species": np.array([0, 1, 2, 1, 0, 1]),
        "positions": positions,
        "neighbours": [np.array(row) for row in rows],
        "exchange": (give_to_ghosts, lambda rows: None),
    }


def changed_positions(atom: int, axis: int, value: float) -> np.ndarray:
    positions = np.array(good_arguments()["positions"])
    positions[atom, axis] = value
    return positions


def changed_rows(row: list[int]) -> list[np.ndarray]:
    rows = list(good_arguments()["neighbours"])  # type: ignore[call-overload]
    rows[2] = np.array(row)
    return rows


REFUSED = {
    "a neighbour too large": Change(
        "indices below 6, found 6 in the row of atom 3", neighbours=changed_rows([1, 6])
    ),
    "a neighbour far too large": Change("found 2147483647 in the row", neighbours=changed_rows([2**31 - 1])),
    "a negative neighbour": Change("indices below 6, found -1", neighbours=changed_rows([-1, 3])),
    "an atom as its own neighbour": Change(
        "atoms 3 and 3 are in the same place", neighbours=changed_rows([2])
    ),
    "coinciding atoms": Change("atoms 2 and 3 are in the same place", positions=changed_positions(1, 0, 2.8)),
    "NaN": Change("must be finite, found -?nan at atom 2", positions=changed_positions(1, 2, np.nan)),
    "an infinite ghost": Change(
        "must be finite, found inf at atom 6", positions=changed_positions(5, 0, np.inf)
    ),
    "an unknown species": Change(
        "atom 1 must be an index from 0 to 2, found 3", species=np.array([3, 1, 2, 1, 0, 1])
    ),
    "a negative species": Change("atom 6 .* found -1", species=np.array([0, 1, 2, 1, 0, -1])),
    "no exchange": Change("needs the features of its ghosts: give a GhostExchange", exchange=None),
    "more owned atoms than atoms": Change(
        "at least its owned atoms, found 7 of 6", owned=7, neighbours=[np.zeros(0, int)] * 7
    ),
}
MALFORMED = {
    "fewer rows than owned atoms": Change(
        "one row of neighbours for each of 5 owned atoms, found 4", owned=5
    ),
    "a negative number of owned atoms": Change("each of -1 owned atoms, found 4", owned=-1),
    "too few positions": Change(r"positions of shape \[6, 3\], found \[5, 3\]", positions=np.zeros((5, 3))),
    "too few species": Change(r"positions of shape \[5, 3\], found \[6, 3\]", species=np.zeros(5, int)),
}


@on_every_device
@pytest.mark.parametrize("name", [*REFUSED, *MALFORMED])
def test_a_wrong_neighbourhood_is_refused_and_nothing_is_lost(name: str) -> None:
    engine = engine_of(network_of(2), threads=2)
    expected = engine.compute_neighbourhood(**good_arguments())
    change = (REFUSED | MALFORMED)[name]
    with pytest.raises(EngineError if name in REFUSED else ValueError, match=change.message):
        engine.compute_neighbourhood(**{**good_arguments(), **change.changed})
    assert_identical(engine.compute_neighbourhood(**good_arguments()), expected)


def test_one_engine_may_be_used_from_two_threads(rng: Rng) -> None:
    """Also while the other thread waits within an exchange."""
    network = network_of(2)
    engine = engine_of(network)
    atoms = molecule_of(rng, 9)
    expected = compute(engine_of(network), atoms)
    arguments = (9, engine.species_of(atoms.numbers), atoms.positions, all_pairs(9))
    within, problems = threading.Event(), []

    def forward(rows: np.ndarray) -> None:
        within.set()
        # Long enough for the other thread to be at the door.
        threading.Event().wait(0.05)

    def first() -> None:
        try:
            for _ in range(3):
                found = engine.compute_neighbourhood(
                    *arguments, (forward, lambda rows: None), virial=True, atom_virial=True
                )
                assert_same(found, expected, 1e-12)
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    assert within.wait(60)
    for _ in range(3):
        found = engine.compute_neighbourhood(*arguments, virial=True, atom_virial=True)
        assert_same(found, expected, 1e-12)
        assert_same(compute(engine, atoms), expected, 1e-12)
    thread.join(60)
    assert not problems


@on_every_device
def test_narrow_cells_have_ghosts_of_ghosts(rng: Rng) -> None:
    """A single atom in a cell much smaller than the cutoff: all its neighbours are images of itself."""
    network = network_of(3)
    atoms = ase.Atoms("O", positions=[[0.3, 0.2, 0.1]], cell=NARROW_CELL * 0.5, pbc=True)
    found = compute_domains([engine_of(network)], atoms, domains_of(atoms, np.zeros(1, dtype=int)))
    assert_same(found, reference(network, atoms))
