"""A recording kernel, built from tests/native when a test needs it, and what it wrote down."""

from __future__ import annotations

import ctypes.util
import functools
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import ase
import numpy as np
import pytest

from symmd_md.engines.plumed import plumed_kernel

SOURCES = Path(__file__).resolve().parent / "native"
COMPILER = shutil.which("c++") or shutil.which("g++")
KERNEL = plumed_kernel()
ELECTRONVOLT = 96.48533212331
"""kJ/mol in an eV."""


def without_kernel(patch: pytest.MonkeyPatch) -> None:
    """Hide the kernel that variables name; skip the test where the environment itself has one."""
    for name in ("PLUMED_KERNEL", "CONDA_PREFIX", "VIRTUAL_ENV", "LD_LIBRARY_PATH"):
        patch.delenv(name, raising=False)
    if plumed_kernel() or ctypes.util.find_library("plumedKernel"):
        pytest.skip("the environment has a PLUMED kernel")


needs_compiler = pytest.mark.skipif(
    COMPILER is None, reason="there is no C++ compiler to build the recording kernel with"
)
needs_kernel = pytest.mark.skipif(
    KERNEL is None, reason="there is no PLUMED kernel; PLUMED_KERNEL names one (docs/plumed.md)"
)


@functools.cache
def _built() -> tempfile.TemporaryDirectory[str]:
    # Removed when Python ends.
    return tempfile.TemporaryDirectory(prefix="symmd-plumed-")


@functools.cache
def recorder(with_mpi: bool = False, version: int = 3) -> str:
    """Path of the recording kernel, with that version of PLUMED's table of functions."""
    assert COMPILER is not None
    path = Path(_built().name) / f"recorder{'_mpi' if with_mpi else ''}_{version}.so"
    command = [COMPILER, "-std=c++17", "-O1", "-shared", "-fPIC", str(SOURCES / "plumed_recorder.cpp")]
    command.append(f"-DRECORDER_VERSION={version}")
    if with_mpi:
        folder = mpi_headers()
        assert folder is not None
        libraries = Path(sys.prefix) / "lib"
        command += ["-DRECORDER_MPI", f"-I{folder}", f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-lmpi"]
    subprocess.run([*command, "-o", str(path)], check=True)
    return str(path)


@functools.cache
def mpi_headers() -> str | None:
    """Folder of mpi.h of the MPI that pip installed, None without."""
    import importlib.metadata

    try:
        files = importlib.metadata.files("mpich") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())).resolve() for file in files if file.name == "mpi.h"]
    library = Path(sys.prefix) / "lib" / "libmpi.so"
    return str(found[0].parent) if found and library.exists() else None


def program(name: str, folder: Path) -> str:
    """A program of tests/native built into ``folder``."""
    assert COMPILER is not None
    path = folder / name
    headers = [f"-I{SOURCES.parents[1] / 'csrc'}", f"-I{SOURCES.parents[1] / 'csrc' / 'include'}"]
    subprocess.run(
        [COMPILER, "-std=c++17", *headers, str(SOURCES / f"{name}.cpp"), "-o", str(path)], check=True
    )
    return str(path)


class Record:
    """What the recording kernel wrote down."""

    def __init__(self, path: Path) -> None:
        self.lines = path.read_text().splitlines()

    def value(self, name: str) -> float:
        """The last number that a command brought, in PLUMED's units."""
        values = [line.split()[1] for line in self.lines if line.startswith(name + " ")]
        return float(values[-1])

    @property
    def updates(self) -> list[int]:
        """Steps of the updates."""
        return [int(line.split()[2]) for line in self.lines if line.startswith("update")]

    def calculations(self, field: str = "step") -> list[float]:
        """``step``, ``distance`` (nm) or ``bias`` (kJ/mol) of each calculation."""
        lines = [line for line in self.lines if line.startswith("calculate")]
        return [float(re.search(rf"{field} (\S+)", line).group(1)) for line in lines]  # type: ignore[union-attr]

    @property
    def boxes(self) -> list[list[float]]:
        """xx, yy, zz, yx (nm) of the boxes of calculations with one."""
        return [[float(x) for x in line.split()[1:]] for line in self.lines if line.startswith("box")]


def harmonic(
    atoms: ase.Atoms, pair: tuple[int, int], at: float, kappa: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy (eV), forces [atoms, 3] (eV/Å) and virial [3, 3] (eV) of 0.5 kappa (d − at)².

    ``pair`` counts from 0; ``at`` in nm and ``kappa`` in kJ/mol/nm², as in PLUMED's inputs.
    """
    unit = kappa / ELECTRONVOLT / 100
    vector = atoms.get_distance(*pair, mic=bool(atoms.pbc.any()), vector=True)
    distance = np.linalg.norm(vector)
    pull = unit * (distance - 10 * at) * vector / distance
    forces = np.zeros((len(atoms), 3))
    forces[pair[0]], forces[pair[1]] = pull, -pull
    energy = 0.5 * unit * (distance - 10 * at) ** 2
    return float(energy), forces, -np.outer(vector, pull)
