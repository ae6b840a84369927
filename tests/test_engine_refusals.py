"""What the engine refuses, in one sentence, and that it works as before afterwards."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ase
import numpy as np
import pytest

from engine_cases import (
    assert_identical,
    compute,
    crystal_of,
    engine_of,
    large_crystal,
    molecule_of,
    on_every_device,
)
from model_cases import make_config, make_network
from symmd_md import _engine
from symmd_md.errors import EngineError, ModelFileError
from symmd_md.export import model_file_bytes
from symmd_md.model import SymmdNetwork

Rng = np.random.Generator


@pytest.fixture(scope="module")
def network() -> SymmdNetwork:
    return make_network(make_config(radial_knots=64))


def assert_refused(engine: _engine.Engine, atoms: ase.Atoms, reason: str) -> str:
    """With an EngineError of one line that says why."""
    with pytest.raises(EngineError, match=reason) as caught:
        compute(engine, atoms)
    message = str(caught.value)
    assert "\n" not in message
    assert re.search(r"[;,:] [a-z ]+", message), f"{message} says nothing about what to do"
    return message


def names_of(message: str) -> set[int]:
    """The atoms that a message names."""
    found = re.search(r"\batoms? (\d+)(?: and (\d+))?", message)
    assert found, message
    return {int(number) for number in found.groups() if number}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e9, -1e300])
@pytest.mark.parametrize("size", [2, 9])
def test_coordinates_must_be_finite(size: int, value: float, network: SymmdNetwork, rng: Rng) -> None:
    """In the first structure, and in one for which there is a list already; open and periodic."""
    good = large_crystal(rng, size)
    for pbc in (True, False):
        good.pbc = pbc
        bad = good.copy()
        bad.positions[5, 1] = value
        engine = engine_of(network, threads=2)
        expected = compute(engine_of(network, threads=2), good)
        for _ in range(2):
            names = names_of(assert_refused(engine, bad, "finite coordinates within 1e8 Å"))
            assert names <= {5, 6}
            assert_identical(compute(engine, good), expected)


@pytest.mark.parametrize("size", [2, 9])
def test_atoms_must_not_coincide(size: int, network: SymmdNetwork, rng: Rng) -> None:
    good = large_crystal(rng, size)
    engine = engine_of(network, threads=2)
    expected = compute(engine_of(network, threads=2), good)
    for shift in (np.zeros(3), good.cell.array[1], np.array([3e-7, 0, 0])):
        bad = good.copy()
        bad.positions[3] = bad.positions[6] + shift
        names = names_of(assert_refused(engine, bad, "coinciding|in the same place"))
        assert names in ({3, 6}, {4, 7})
        assert_identical(compute(engine, good), expected)


@pytest.mark.parametrize("size", [2, 9])
def test_atoms_must_not_come_to_coincide_while_the_list_is_kept(
    size: int, network: SymmdNetwork, rng: Rng
) -> None:
    good = large_crystal(rng, size)
    good.positions[3] = good.positions[6] + [0.3, 0.1, 0.1]
    engine = engine_of(network, threads=2)
    expected = compute(engine, good)
    bad = good.copy()
    bad.positions[3] = bad.positions[6]
    assert names_of(assert_refused(engine, bad, "in the same place")) == {4, 7}
    assert_identical(compute(engine, good), expected)
    assert engine.list_builds == 1


@on_every_device
def test_close_atoms_give_finite_numbers(network: SymmdNetwork) -> None:
    for precision in ("float32", "float64"):
        engine = engine_of(network, precision=precision)
        for distance in (2e-6, 1e-5, 1e-3, 0.1):
            found = compute(engine, ase.Atoms("CO", positions=[[1e3, 0, 0], [1e3, distance, 0]]))
            assert all(np.isfinite(value).all() for value in found.values())


CELLS = {
    "no volume": (np.array([[4.0, 0, 0], [0, 4, 0], [4, 4, 0]]), "linearly independent"),
    "parallel vectors": (np.array([[4.0, 0, 0], [8, 0, 0], [0, 0, 5]]), "linearly independent"),
    "a vector of zero": (np.diag([4.0, 0, 5]), "length above zero for the periodic axis b"),
    "NaN": (np.array([[4.0, 0, 0], [0, 5, 0], [np.nan, 0, 5]]), "finite cell vectors"),
    "infinity": (np.diag([np.inf, 4, 4]), "finite cell vectors"),
    "too many images": (np.diag([0.01, 0.01, 5]), "fewer than 100000 images"),
    "its own image": (np.diag([5e-7, 4, 4]), "coinciding|images"),
}


@on_every_device
@pytest.mark.parametrize("name", CELLS)
def test_cells_must_be_cells(name: str, network: SymmdNetwork, rng: Rng) -> None:
    cell, reason = CELLS[name]
    engine = engine_of(network)
    good = crystal_of(rng, 4)
    expected = compute(engine, good)
    bad = good.copy()
    bad.set_cell(cell)
    for _ in range(2):
        assert_refused(engine, bad, reason)
        assert_identical(compute(engine, good), expected)


@on_every_device
def test_a_periodic_structure_needs_a_cell(network: SymmdNetwork, rng: Rng) -> None:
    engine = engine_of(network)
    good = crystal_of(rng, 4)
    expected = compute(engine, good)
    species = engine.species_of(good.numbers)
    for pbc in ([True, False, False], [True] * 3):
        with pytest.raises(EngineError, match="expected a cell because axis a is periodic, found none"):
            engine.compute(species, good.positions, None, pbc)
        assert_identical(compute(engine, good), expected)


@on_every_device
def test_vectors_of_open_axes_are_not_looked_at(network: SymmdNetwork, rng: Rng) -> None:
    engine = engine_of(network)
    atoms = crystal_of(rng, 4, pbc=(True, False, True))
    expected = compute(engine, atoms)
    arguments = {"forces": True, "virial": True, "atom_virial": True}
    for row in (np.zeros(3), np.full(3, np.nan), atoms.cell.array[0]):
        cell = atoms.cell.array.copy()
        cell[1] = row
        species = engine.species_of(atoms.numbers)
        found = engine.compute(species, atoms.positions, cell, atoms.pbc.tolist(), **arguments)
        assert_identical(found, expected)


@pytest.mark.parametrize("size", [2, 9])
@pytest.mark.parametrize("species", [-1, 3, 2**31 - 1, -(2**31)])
def test_species_must_be_known(size: int, species: int, network: SymmdNetwork, rng: Rng) -> None:
    engine = engine_of(network)
    good = large_crystal(rng, size)
    expected = compute(engine, good)
    known = engine.species_of(good.numbers)
    bad = known.copy()
    bad[6] = species
    with pytest.raises(EngineError, match=f"species of atom 7 must be an index from 0 to 2, found {species}"):
        engine.compute(bad, good.positions, good.cell.array, [True] * 3)
    assert_identical(compute(engine, good), expected)


def test_elements_must_be_known(network: SymmdNetwork) -> None:
    engine = engine_of(network)
    np.testing.assert_array_equal(engine.species_of([8, 1, 6, 1]), [2, 0, 1, 0])
    for number in (7, 0, -1, 1000):
        with pytest.raises(
            EngineError, match=f"model knows H, C, O, found an atom with atomic number {number}; use a model"
        ):
            engine.species_of([1, number])


MALFORMED: dict[str, tuple[Callable[[dict[str, object]], dict[str, object]], str]] = {
    "positions of two axes": (
        lambda good: {"positions": np.zeros((4, 2))},
        r"positions of shape \[4, 3\], found \[4, 2\]",
    ),
    "flat positions": (lambda good: {"positions": np.zeros(12)}, r"\[4, 3\], found \[12\]"),
    "positions of other atoms": (lambda good: {"positions": np.zeros((5, 3))}, r"found \[5, 3\]"),
    "species in two axes": (
        lambda good: {"species": np.zeros((2, 2), int)},
        r"species of shape \[4\], found \[2, 2\]",
    ),
    "a cell of three lengths": (lambda good: {"cell": np.ones(3)}, r"a cell of shape \[3, 3\], found \[3\]"),
    "a cell of 9 numbers": (lambda good: {"cell": np.ones(9)}, r"found \[9\]"),
}


@on_every_device
@pytest.mark.parametrize("name", MALFORMED)
def test_arrays_of_another_shape_are_refused(name: str, network: SymmdNetwork, rng: Rng) -> None:
    engine = engine_of(network)
    atoms = crystal_of(rng, 4)
    good = {
        "species": engine.species_of(atoms.numbers),
        "positions": atoms.positions,
        "cell": atoms.cell.array,
        "pbc": [True] * 3,
    }
    expected = engine.compute(**good)
    change, reason = MALFORMED[name]
    with pytest.raises(ValueError, match=reason):
        engine.compute(**{**good, **change(good)})
    assert_identical(engine.compute(**good), expected)


def test_arrays_of_any_layout_are_taken(network: SymmdNetwork, rng: Rng) -> None:
    engine = engine_of(network)
    atoms = crystal_of(rng, 4)
    species = engine.species_of(atoms.numbers)
    expected = engine.compute(species, atoms.positions, atoms.cell.array, [True] * 3)
    padded = np.zeros((4, 6))
    padded[:, ::2] = atoms.positions
    found = engine.compute(
        species.astype(np.int64)[::-1][::-1], padded[:, ::2], np.asfortranarray(atoms.cell.array), (True,) * 3
    )
    assert_identical(found, expected)
    assert_identical(
        engine.compute(species.tolist(), atoms.positions.tolist(), atoms.cell.array.tolist(), [True] * 3),
        expected,
    )


OPTIONS: list[tuple[dict[str, object], str]] = [
    ({"threads": -1}, "threads must lie between 0 .* found -1"),
    ({"skin": -0.1}, "skin must lie between 0 and 100 Å, found -0.1"),
    ({"skin": 101.0}, "skin must lie between 0 and 100 Å, found 101"),
    ({"skin": float("nan")}, "skin must lie .* found nan"),
    ({"skin": float("inf")}, "skin must lie .* found inf"),
    ({"precision": "float16"}, "precision must be float32 or float64, found 'float16'"),
]


@on_every_device
@pytest.mark.parametrize(("options", "reason"), OPTIONS)
def test_options_must_make_sense(options: dict[str, object], reason: str, network: SymmdNetwork) -> None:
    with pytest.raises((EngineError, ValueError), match=reason):
        engine_of(network, **options)


def test_a_number_of_threads_is_refused_without_effect(network: SymmdNetwork, rng: Rng) -> None:
    engine = engine_of(network, threads=2)
    atoms = molecule_of(rng, 9)
    expected = compute(engine, atoms)
    with pytest.raises(EngineError, match="threads must lie between 0"):
        engine.threads = -3
    assert engine.threads == 2
    assert_identical(compute(engine, atoms), expected)


def test_damaged_files_are_refused(network: SymmdNetwork, tmp_path: Path) -> None:
    content = model_file_bytes(network, {"source": "a test"})
    path = tmp_path / "model.safetensors"
    flipped = bytearray(content)
    flipped[-5] ^= 4
    for damaged in (b"", content[:3], content[:200], content[:-1], content + b"x", bytes(flipped)):
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match=re.escape(f"cannot use model file {path}: ")):
            _engine.Engine(path)
        with pytest.raises(ModelFileError, match="cannot use model file what was sent: "):
            _engine.Engine.from_bytes(damaged, "what was sent")
    for missing in (tmp_path / "absent.pt", tmp_path):
        with pytest.raises(ModelFileError, match=re.escape(str(missing))):
            _engine.Engine(missing)
    path.write_bytes(content)
    assert _engine.Engine(path).model["species"] == ["H", "C", "O"]


def test_an_unknown_instruction_set_is_refused(tmp_path: Path) -> None:
    script = "from symmd_md import _engine; print(_engine.Engine.instruction_set)"

    def with_set(wanted: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "SYMMD_INSTRUCTION_SET": wanted},
        )

    refused = with_set("sse9")
    assert refused.returncode != 0
    assert (
        "EngineError: SYMMD_INSTRUCTION_SET must be baseline, avx2 or avx512; found 'sse9'" in refused.stderr
    )
    assert with_set("").stdout.strip() in ("baseline", "avx2", "avx512")


def test_any_number_of_errors_loses_nothing(network: SymmdNetwork, rng: Rng) -> None:
    """Errors of every kind in any order between good structures of every size."""
    engine = engine_of(network, threads=2)
    good = [large_crystal(rng, 9), crystal_of(rng, 4), molecule_of(rng, 20)]
    expected = [compute(engine_of(network, threads=2), atoms) for atoms in good]

    def spoiled(atoms: ase.Atoms, kind: int) -> ase.Atoms:
        bad = atoms.copy()
        if kind == 0:
            bad.positions[rng.integers(len(bad))] = np.nan
        elif kind == 1:
            bad.positions[0] = bad.positions[1]
        else:
            bad.pbc = True
            bad.set_cell(np.zeros((3, 3)))
        return bad

    for _ in range(12):
        kind, index = int(rng.integers(3)), int(rng.integers(3))
        with pytest.raises(EngineError):
            compute(engine, spoiled(good[index], kind))
        after = int(rng.integers(3))
        found = compute(engine, good[after])
        for name, value in expected[after].items():
            np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-10, err_msg=name)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([0.9, 1.9], "species must be whole numbers, found an array of type float64"),
        ([2**32, 1], "species must fit into 32 bits, found 4294967296"),
    ],
)
def test_species_are_not_cut_to_fit(numbers: list[float], message: str) -> None:
    engine = engine_of(make_network(make_config()))
    with pytest.raises(ValueError, match=message):
        engine.compute(np.array(numbers), [[0.0, 0, 0], [0, 0, 1.5]])


FORKED = """
import os, signal, sys
import numpy as np
from symmd_md._engine import Engine

engine = Engine(sys.argv[1], threads=2)
generator = np.random.default_rng(0)
positions = generator.uniform(0, 12, (60, 3))
species = np.zeros(60, dtype=np.int32)
engine.compute(species, positions)
moved = positions + 0.1
expected = engine.compute(species, moved)["energy"]
child = os.fork()
if child == 0:
    signal.alarm(20)
    found = Engine(sys.argv[1], threads=2).compute(species, moved)["energy"]
    same = engine.compute(species, moved)["energy"]
    os._exit(0 if abs(found - expected) < 1e-4 and abs(same - expected) < 1e-4 else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_computes(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(model_file_bytes(make_network(make_config()), {}))
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(tmp_path / "model.safetensors")],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "0", done.stderr
