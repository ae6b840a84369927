"""LAMMPS: where its plugin lies, and input files to start from (docs/lammps.md). Units Å, eV, K."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import symmd_md
from symmd_md.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

PLUGIN = "symmdplugin.so"
VACUUM = 5.0
"""Å around an open structure; the box of LAMMPS shrinks and grows with it."""

INPUT = """\
# Written by symmd lammps. Run it with: lmp -in {name}, or mpirun -np 4 lmp -in {name}
# Units metal: Å, eV, ps, K, bar. OMP_NUM_THREADS gives threads to each rank.

units           metal
atom_style      atomic
atom_modify     map yes
boundary        {boundary}
read_data       {data}

pair_style      symmd                     # symmd precision double: fp64 throughout, for checks
pair_coeff      * * {model} {elements}

neighbor        1.0 bin                   # Å beyond the cutoff of {cutoff:g} Å
neigh_modify    every 1 delay 0 check yes

velocity        all create {temperature:g} 4711 mom yes rot {rotation} dist gaussian
timestep        {timestep:g}                    # ps{hydrogen}
{ensemble}

thermo_style    custom step time temp pe etotal press{volume}
thermo          100
dump            trajectory all custom 100 trajectory.lammpstrj id type element x y z vx vy vz
dump_modify     trajectory element {elements} sort id

run             {steps}
write_data      final.data
"""
NVT = "fix             dynamics all nvt temp {temperature:g} {temperature:g} 0.1"
NPT = """
# At constant pressure (bar) instead, for models that were trained with stresses:
# fix           dynamics all npt temp {temperature:g} {temperature:g} 0.1 {coupling} 1.0 1.0 1.0"""


def plugin_folder() -> str:
    """The folder with the plugin, for LAMMPS' entry points ``lammps.plugins``; "" where it was not built."""
    # An editable installation has the sources in one folder and what was compiled in another.
    for folder in symmd_md.__path__:
        if (Path(folder) / "lammps" / PLUGIN).is_file():
            return str(Path(folder) / "lammps")
    return ""


def write_lammps_input(
    model: Path, structure: Path, folder: Path, temperature: float = 300.0, steps: int = 10000
) -> list[Path]:
    """Write ``in.lammps`` and a data file for a simulation at ``temperature`` (K); the paths of both.

    ``structure`` is whatever ASE reads; of several frames the last one counts.
    """
    from ase.io.lammpsdata import write_lammps_data

    import symmd_md._engine as _engine
    from symmd_md.models import model_path

    model = model_path(model)
    engine = _engine.Engine(model, threads=1)
    atoms = read_structure(structure)
    engine.species_of(atoms.numbers)  # refuses elements that the model does not know
    present = set(atoms.get_chemical_symbols())
    elements = [symbol for symbol in engine.model["species"] if symbol in present]
    in_box = boxed(atoms)

    data, script = folder / f"{structure.stem}.data", folder / "in.lammps"
    for path in (data, script):
        if path.exists():
            raise DataError(f"{path} exists already; remove it, or give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_lammps_data(data, in_box, specorder=elements, masses=True, units="metal", atom_style="atomic")
    periodic = bool(atoms.pbc.all())
    coupling = "iso" if in_box.cell.orthorhombic else "tri"
    text = INPUT.format(
        name=script.name,
        boundary=" ".join("p" if axis else "s" for axis in atoms.pbc),
        data=_quoted(data.name),
        model=_quoted(os.path.relpath(model, folder)),
        elements=" ".join(elements),
        cutoff=engine.model["cutoff"],
        temperature=temperature,
        rotation="no" if atoms.pbc.any() else "yes",
        timestep=0.0005 if "H" in present else 0.001,
        hydrogen="; hydrogen needs short steps" if "H" in present else "",
        ensemble=(NVT + (NPT if periodic else "")).format(temperature=temperature, coupling=coupling),
        volume=" vol density" if periodic else "",
        steps=steps,
    )
    script.write_text(text, encoding="utf-8")
    return [script, data]


def _quoted(name: str) -> str:
    return f'"{name}"' if any(letter in name for letter in " #&$") else name


def read_structure(path: Path) -> Atoms:
    """The last frame of whatever ASE reads."""
    import ase.io

    if not path.is_file():
        raise DataError(f"{path}: expected a structure file, found nothing; check the path")
    try:
        atoms = ase.io.read(path, index=-1)
    except Exception as error:  # ASE's readers raise whatever their parsing raises
        raise DataError(f"{path} cannot be read as a structure: {error}") from None
    if isinstance(atoms, list) or len(atoms) == 0:
        raise DataError(f"{path}: expected a structure with atoms, found none")
    return atoms


def boxed(atoms: Atoms) -> Atoms:
    """A copy whose open directions have box vectors too, which LAMMPS needs."""
    result = atoms.copy()
    if not atoms.pbc.any():
        result.center(vacuum=VACUUM)
        return result
    open_axes = [axis for axis in range(3) if not atoms.pbc[axis]]
    missing = [axis for axis in open_axes if not atoms.cell[axis].any()]
    if missing:
        result.center(vacuum=VACUUM, axis=missing)
    # LAMMPS loses atoms that lie outside of the box along an open axis.
    inside = result.get_scaled_positions(wrap=False)
    outside = [axis for axis in open_axes if not ((inside[:, axis] >= 0) & (inside[:, axis] < 1)).all()]
    if outside:
        result.center(vacuum=VACUUM, axis=outside)
    return result
