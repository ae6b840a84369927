"""What pair_style symmd costs and how well it conserves energy; writes benchmarks/results/lammps_*.json.

    python benchmarks/lammps/run.py drift --system NAME=MODEL:STRUCTURE ...     (100 ps at 0.5 fs, twice)
    python benchmarks/lammps/run.py speed --model MODEL --structure STRUCTURE   (ranks, threads, memory)
    python benchmarks/lammps/run.py plugin                                      (size, and what it links)

``--tiny`` makes each run a few steps long, to see that everything works. Structures are periodic boxes or
molecules that ASE reads; ``speed`` repeats the box to 1536 atoms and to eight times as many.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ase.io
import matplotlib.pyplot as plt
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from record import RESULTS, write_result

from symmd_md._engine import Engine
from symmd_md.engines.lammps import PLUGIN, plugin_folder, write_lammps_input

SCALED_ATOMS = 1536
TIMESTEP = 0.0005
"""ps"""


def main() -> None:
    """Read the command line and run one of the measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true")
    commands = parser.add_subparsers(dest="command", required=True)
    drift_parser = commands.add_parser("drift")
    drift_parser.add_argument("--system", action="append", required=True, metavar="NAME=MODEL:STRUCTURE")
    drift_parser.add_argument("--temperature", type=float, default=300.0)
    drift_parser.add_argument("--picoseconds", type=float, default=100.0)
    speed_parser = commands.add_parser("speed")
    speed_parser.add_argument("--model", type=Path, required=True)
    speed_parser.add_argument("--structure", type=Path, required=True)
    commands.add_parser("plugin")
    arguments = parser.parse_args()
    command = "python benchmarks/lammps/run.py " + arguments.command
    if arguments.command == "drift":
        rows = [
            row
            for system in arguments.system
            for row in drift(system, arguments.temperature, arguments.picoseconds, arguments.tiny)
        ]
        rows = rows if arguments.tiny else with_other_systems(rows)
        title = "Total energy in NVE at 0.5 fs, after 5 ps at constant temperature"
    elif arguments.command == "speed":
        rows = speed(arguments.model, arguments.structure, arguments.tiny)
        title = "pair_style symmd in LAMMPS"
    else:
        rows = plugin()
        title = "The plugin"
    print(json.dumps(rows, indent=2, ensure_ascii=False))
    if not arguments.tiny:
        print(write_result(f"lammps_{arguments.command}", title, command, rows))


def drift(system: str, temperature: float, picoseconds: float, tiny: bool) -> list[dict[str, Any]]:
    """Slope of the total energy with its standard error (blocks), and its fluctuation about the line.

    Both precisions run at the same time, since nothing is timed; draws benchmarks/lammps/drift_NAME.png.
    """
    name, files = system.split("=", 1)
    model, structure = (Path(file) for file in files.rsplit(":", 1))
    precisions = ("single", "double")
    with ThreadPoolExecutor() as pool:
        runs = [
            pool.submit(constant_energy, model, structure, temperature, picoseconds, p, tiny)
            for p in precisions
        ]
    rows = []
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    for precision, run in zip(precisions, runs, strict=True):
        atoms, picoseconds_passed, temperatures, energy = run.result()
        slope, error = slope_with_error(picoseconds_passed * 1e-3, energy)
        rest = energy - np.polyval(np.polyfit(picoseconds_passed, energy, 1), picoseconds_passed)
        axes.plot(picoseconds_passed, energy - energy.mean(), lw=0.5, alpha=0.8, label=precision)
        rows.append(
            {
                "system": name,
                "atoms": atoms,
                "precision": precision,
                "length (ps)": round(picoseconds_passed[-1], 3),
                "mean temperature (K)": round(float(temperatures.mean()), 1),
                "drift (meV/atom/ns)": float(f"{slope:.3g}"),
                "standard error (meV/atom/ns)": float(f"{error:.2g}"),
                "fluctuation (meV/atom)": float(f"{rest.std():.3g}"),
            }
        )
    axes.set(xlabel="time (ps)", ylabel="total energy − mean (meV/atom)", title=f"{name}, NVE at 0.5 fs")
    axes.legend()
    if not tiny:
        figure.savefig(Path(__file__).with_name(f"drift_{name.replace(' ', '_')}.png"), dpi=100)
    return rows


def constant_energy(
    model: Path, structure: Path, temperature: float, picoseconds: float, precision: str, tiny: bool
) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Number of atoms; time (ps), temperature (K) and total energy (meV/atom) along a run in NVE."""
    steps = 400 if tiny else round(picoseconds / TIMESTEP)
    before = 200 if tiny else round(5.0 / TIMESTEP)
    with tempfile.TemporaryDirectory() as folder:
        script = prepared(model, structure, Path(folder), temperature, precision)
        script += f"timestep {TIMESTEP}\nthermo_style custom step temp etotal\nthermo 20\n"
        script += f"thermo_modify norm no format float %.15g\nrun {before}\nunfix dynamics\n"
        script += f"reset_timestep 0\nfix 1 all nve\nrun {steps}\n"
        output = lammps(script, Path(folder))
    atoms = int(re.findall(r"with (\d+) atoms", output)[-1])
    table = np.array(tables(output)[-1])
    return atoms, table[:, 0] * TIMESTEP, table[:, 1], table[:, 2] * 1e3 / atoms


def with_other_systems(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Systems that were measured before and not now, and then ``rows``."""
    path = RESULTS / "lammps_drift.json"
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    now = {row["system"] for row in rows}
    return [row for row in before if row["system"] not in now] + rows


def slope_with_error(times: np.ndarray, values: np.ndarray, blocks: int = 20) -> tuple[float, float]:
    """Slope of a line through means of blocks, whose residuals give its error: values are correlated."""
    x = np.array([part.mean() for part in np.array_split(times, blocks)])
    y = np.array([part.mean() for part in np.array_split(values, blocks)])
    slope, offset = np.polyfit(x, y, 1)
    residual = y - slope * x - offset
    return float(slope), float(np.sqrt((residual**2).sum() / (blocks - 2) / ((x - x.mean()) ** 2).sum()))


def speed(model: Path, structure: Path, tiny: bool) -> list[dict[str, Any]]:
    """Time of a step with ranks and threads beside the bare engine's, and memory per atom. Minima."""
    box = ase.io.read(structure, index=-1)
    assert not isinstance(box, list)
    repeats, steps = (2, 2) if tiny else (7, 20)
    small = repeated(box, len(box) if tiny else SCALED_ATOMS)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        ase.io.write(folder / "small.xyz", small, format="extxyz")
        layouts = {"1 rank": (1, 1), "2 ranks": (2, 1), "2 threads": (1, 2)}
        found: dict[str, list[float]] = {name: [] for name in ("engine", *layouts)}
        for _ in range(repeats):  # interleaved, so that a busy moment of the machine does not hit one alone
            found["engine"].append(engine_seconds(model, small, steps))
            for name, (ranks, threads) in layouts.items():
                found[name].append(
                    step_seconds(model, folder / "small.xyz", folder / "run", ranks, threads, steps)
                )
        best = {name: min(times) for name, times in found.items()}
        for name, seconds in best.items():
            rows.append(
                {
                    "what": name,
                    "atoms": len(small),
                    "value": round(seconds / len(small) * 1e6, 2),
                    "unit": "µs/atom/step",
                    "against 1 rank": f"{best['1 rank'] / seconds:.2f}×",
                }
            )
        large = repeated(small, 8 * len(small))
        ase.io.write(folder / "large.xyz", large, format="extxyz")
        peaks = [peak_kilobytes(model, folder / f"{name}.xyz", folder / "run") for name in ("small", "large")]
        rows.append(
            {
                "what": f"growth of the process to {len(large)} atoms",
                "atoms": len(small),
                "value": round((peaks[1] - peaks[0]) / (len(large) - len(small)), 1),
                "unit": "kB/atom",
                "against 1 rank": "",
            }
        )
    return rows


def plugin() -> list[dict[str, Any]]:
    """Size of the plugin and the libraries that it names."""
    path = Path(plugin_folder()) / PLUGIN
    text = subprocess.run(["readelf", "-d", str(path)], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"NEEDED.*\[(.*)\]", text)
    return [{"file": PLUGIN, "size (MB)": round(path.stat().st_size / 1e6, 2), "links": ", ".join(needed)}]


def repeated(atoms: ase.Atoms, count: int) -> ase.Atoms:
    """The box repeated along its shortest axes until it has at least ``count`` atoms."""
    while len(atoms) < count:
        lengths = atoms.cell.lengths()
        atoms = atoms.repeat([2 if axis == int(np.argmin(lengths)) else 1 for axis in range(3)])
    return atoms


def prepared(model: Path, structure: Path, folder: Path, temperature: float, precision: str) -> str:
    """The input of ``symmd lammps`` in ``folder`` up to its thermostat, in a precision."""
    for name in ("in.lammps", f"{structure.stem}.data"):
        (folder / name).unlink(missing_ok=True)
    script, _ = write_lammps_input(model, structure, folder, temperature)
    text = script.read_text(encoding="utf-8").split("thermo_style")[0]
    return text.replace("pair_style      symmd", f"pair_style symmd precision {precision}")


def step_seconds(model: Path, structure: Path, folder: Path, ranks: int, threads: int, steps: int) -> float:
    """Shortest wall time of a step in LAMMPS, integration included."""
    script = prepared(model, structure, folder, 1.0, "single") + "thermo 1000000\nrun 2\n"
    script += f"variable step loop {steps}\nlabel again\nrun 1 pre no post no\nnext step\njump SELF again\n"
    output = lammps(script, folder, ranks, threads)
    return min(float(seconds) for seconds in re.findall(r"Loop time of (\S+)", output)[1:])


def engine_seconds(model: Path, atoms: ase.Atoms, calls: int) -> float:
    """Shortest wall time of the bare engine with its own list, which is not built anew, for forces."""
    engine = Engine(model, threads=1)
    species, cell = engine.species_of(atoms.numbers), atoms.cell.array
    times = []
    for _ in range(calls + 2):
        begin = time.perf_counter()
        engine.compute(species, atoms.positions, cell, tuple(atoms.pbc))
        times.append(time.perf_counter() - begin)
    return min(times)


def peak_kilobytes(model: Path, structure: Path, folder: Path) -> float:
    """Largest resident memory of LAMMPS in one rank."""
    script = prepared(model, structure, folder, 1.0, "single")
    output = lammps(script + "run 1\ninfo memory\n", folder)
    return 1024.0 * float(re.findall(r"Maximum resident set size: (\S+) Mbyte", output)[-1])


def lammps(script: str, folder: Path, ranks: int = 1, threads: int = 1) -> str:
    """Run LAMMPS in ``folder``; what it printed."""
    (folder / "in.run").write_text(script, encoding="utf-8")
    beside = str(Path(sys.executable).parent)
    path = beside + os.pathsep + os.environ["PATH"]
    programs = [shutil.which(name, path=path) or name for name in ("mpirun", "lmp")]
    command = [programs[1], "-in", "in.run", "-log", "none"]
    if ranks > 1:
        command = [programs[0], "-np", str(ranks), *command]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PATH": path}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != 0 or "ERROR" in done.stdout:
        sys.exit(done.stdout[-3000:] + done.stderr)
    return done.stdout


def tables(output: str) -> list[list[list[float]]]:
    """Rows of numbers of each run."""
    blocks = re.findall(r"^ +Step .*?\n(.*?)^Loop time", output, re.MULTILINE | re.DOTALL)
    return [
        [[float(x) for x in line.split()] for line in block.splitlines() if line.strip()] for block in blocks
    ]


if __name__ == "__main__":
    main()
