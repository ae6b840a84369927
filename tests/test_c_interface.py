"""The C interface of the engine, called as another language would: the shared library and its header."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import symmd_md
from kernel_cases import structures
from model_cases import batch_of, make_config, make_network
from symmd_md.export.model_file import write_model_file

Doubles = np.ndarray


def installed(name: str) -> Path:
    """A file of the installed package, which may lie in several folders."""
    found = [Path(folder) / name for folder in symmd_md.__path__ if (Path(folder) / name).exists()]
    assert found, f"{name} is not installed"
    return found[0]


class Results(ctypes.Structure):
    _fields_ = [
        (name, ctypes.POINTER(ctypes.c_double))
        for name in ("energy", "atom_energy", "forces", "virial", "atom_virial")
    ]


EXCHANGE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int)


class Exchange(ctypes.Structure):
    _fields_ = [("context", ctypes.c_void_p), ("forward", EXCHANGE), ("backward", EXCHANGE)]


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(installed("libsymmd.so")))
    library.symmd_load.restype = ctypes.c_void_p
    library.symmd_load.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_double]
    library.symmd_error.restype = ctypes.c_char_p
    library.symmd_cutoff.restype = ctypes.c_double
    for name in ("free", "cutoff", "species_count"):
        getattr(library, f"symmd_{name}").argtypes = [ctypes.c_void_p]
    for name in ("atomic_number", "species_of"):
        getattr(library, f"symmd_{name}").argtypes = [ctypes.c_void_p, ctypes.c_int]
    arrays = [ctypes.c_void_p] * 5
    library.symmd_compute.argtypes = [ctypes.c_void_p, ctypes.c_int64, *arrays]
    library.symmd_compute_neighbourhood.argtypes = [
        ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, *arrays[:4], ctypes.c_void_p, ctypes.c_void_p
    ]  # fmt: skip
    return library


def pointer(array: Doubles) -> ctypes._Pointer[ctypes.c_double]:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_double))


CONFIG = make_config(layers=2, channels=32, heads=4)


@pytest.fixture
def engine(library: ctypes.CDLL, tmp_path: Path):
    path = tmp_path / "model.safetensors"
    write_model_file(make_network(CONFIG), path, {})
    loaded = library.symmd_load(str(path).encode(), 64, 1, 1.0)
    assert loaded, library.symmd_error()
    yield loaded
    library.symmd_free(loaded)


def test_compute_agrees_with_the_network(library: ctypes.CDLL, engine: int) -> None:
    network = make_network(CONFIG)
    assert library.symmd_cutoff(engine) == CONFIG.cutoff
    assert library.symmd_species_count(engine) == len(CONFIG.species)
    for atoms in structures():
        expected = network(batch_of([atoms], CONFIG), forces=True, stress=True)
        species = np.array([library.symmd_species_of(engine, int(z)) for z in atoms.numbers], dtype=np.int32)
        assert [library.symmd_atomic_number(engine, int(s)) for s in species] == list(atoms.numbers)
        positions, cell = np.ascontiguousarray(atoms.positions), np.ascontiguousarray(atoms.cell.array)
        periodic = atoms.pbc.astype(np.intc)
        energy, forces, virial = np.zeros(1), np.zeros((len(atoms), 3)), np.zeros((3, 3))
        results = Results(energy=pointer(energy), forces=pointer(forces), virial=pointer(virial))
        status = library.symmd_compute(
            engine, len(atoms), species.ctypes.data, positions.ctypes.data,
            cell.ctypes.data if atoms.pbc.any() else None, periodic.ctypes.data, ctypes.addressof(results),
        )  # fmt: skip
        assert status == 0, library.symmd_error()
        np.testing.assert_allclose(energy[0], expected.energy.item(), rtol=1e-11)
        np.testing.assert_allclose(forces, expected.forces.numpy(), rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(virial, expected.virial[0].numpy(), rtol=1e-10, atol=1e-9)


def test_callers_list_with_a_ghost(library: ctypes.CDLL, engine: int) -> None:
    # A chain with one atom in a periodic direction: its right and left neighbours are ghosts of itself.
    length = 2.1
    own = np.array([[0.0, 0.0, 0.0]])
    cell = np.diag([length, 50.0, 50.0])
    count = int(np.ceil(CONFIG.cutoff / length))
    images = [k for k in range(-count, count + 1) if k != 0]
    positions = np.array([[k * length, 0.0, 0.0] for k in (0, *images)])
    species = np.zeros(len(positions), dtype=np.int32)
    row = np.arange(1, len(positions), dtype=np.int32)
    rows = (ctypes.c_void_p * 1)(row.ctypes.data)
    counts = np.array([len(row)], dtype=np.int32)

    def features(rows: int, width: int, size: int) -> Doubles:
        assert size == 8
        kind = ctypes.c_double * (len(positions) * width)
        return np.ctypeslib.as_array(kind.from_address(rows)).reshape(len(positions), width)

    def forward(context: int, rows: int, width: int, size: int) -> None:
        view = features(rows, width, size)
        view[1:] = view[0]

    def backward(context: int, rows: int, width: int, size: int) -> None:
        view = features(rows, width, size)
        view[0] += view[1:].sum(axis=0)

    exchange = Exchange(None, EXCHANGE(forward), EXCHANGE(backward))
    energy, virial, forces = np.zeros(1), np.zeros((3, 3)), np.zeros((len(positions), 3))
    results = Results(energy=pointer(energy), forces=pointer(forces), virial=pointer(virial))
    status = library.symmd_compute_neighbourhood(
        engine, 1, len(positions), species.ctypes.data, positions.ctypes.data, counts.ctypes.data, rows,
        ctypes.addressof(exchange), ctypes.addressof(results),
    )  # fmt: skip
    assert status == 0, library.symmd_error()

    expected_energy, expected_virial = np.zeros(1), np.zeros((3, 3))
    results = Results(energy=pointer(expected_energy), virial=pointer(expected_virial))
    periodic = np.array([1, 0, 0], dtype=np.intc)
    status = library.symmd_compute(
        engine, 1, species.ctypes.data, own.ctypes.data, cell.ctypes.data, periodic.ctypes.data,
        ctypes.addressof(results),
    )  # fmt: skip
    assert status == 0, library.symmd_error()
    np.testing.assert_allclose(energy, expected_energy, rtol=1e-12)
    np.testing.assert_allclose(virial, expected_virial, rtol=1e-10, atol=1e-10)
    assert abs(virial[0, 0]) > 1e-3


def test_errors_are_sentences(library: ctypes.CDLL, engine: int) -> None:
    assert library.symmd_load(b"no-such-file.pt", 32, 0, 1.0) is None
    assert b"no-such-file.pt" in library.symmd_error()
    assert library.symmd_species_of(engine, 92) == -1
    assert b"92" in library.symmd_error()
    positions, species = np.zeros((2, 3)), np.zeros(2, dtype=np.int32)
    results = Results()
    call = (engine, 2, species.ctypes.data, positions.ctypes.data, None, None, ctypes.addressof(results))
    assert library.symmd_compute(*call) != 0
    assert library.symmd_error()
    positions[1] = 1.0
    assert library.symmd_compute(*call) == 0


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_headers_compile_alone() -> None:
    include = installed("include/symmd/engine.h").parents[1]
    for language, standard, header in (
        ("c", "c99", "symmd.h"),
        ("c++", "c++17", "symmd.h"),
        ("c++", "c++17", "engine.h"),
    ):
        command = [
            "cc",
            "-x",
            language,
            f"-std={standard}",
            "-Wall",
            "-Werror",
            "-fsyntax-only",
            f"-I{include}",
            "-",
        ]
        subprocess.run(command, input=f'#include "symmd/{header}"\n', text=True, check=True)
