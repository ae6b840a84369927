"""The free energy of alanine dipeptide from the model in both engines, and what a step costs with a bias.

    python benchmarks/free_energy/run.py engines [--nanoseconds 5] [-o FOLDER]    (OpenMM against LAMMPS)
    python benchmarks/free_energy/run.py speed                                    (steps per second)
    python benchmarks/free_energy/run.py demo [-o FOLDER]                         (symmd demo as it is)

Each writes benchmarks/results/free_energy_NAME.json; ``engines`` also docs/images/free_energy_engines.png and
``demo`` docs/images/free_energy.png. ``engines`` keeps HILLS, COLVAR and trajectory of each run in FOLDER,
with a frame for each row of COLVAR, which is what the comparison with xTB reweights. ``--tiny`` makes
everything a few steps long, to see that it works. ``--model`` takes another model than the one that ships.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
import record

from symmd_md.demo import DemoSettings, run_demo
from symmd_md.demo.command import conformer, shipped_model
from symmd_md.demo.lammps_run import (
    COLVARS_INPUT,
    DATA,
    colvars_input,
    data_file,
    lammps_input,
)
from symmd_md.demo.settings import PLUMED_INPUT, plumed_input
from symmd_md.engines.plumed import plumed_kernel
from symmd_md.errors import SymmdError
from symmd_md.figures import save_with_palette
from symmd_md.free_energy import Surface, compare, read_surface
from symmd_md.free_energy.plots import draw_comparison
from symmd_md.free_energy.report import SURFACE, with_error
from symmd_md.molecules import PHI, PSI
from symmd_md.programs import program

BELOW = 20.0
"""kJ/mol: surfaces are compared where they are lower."""
IMAGES = record.ROOT / "docs" / "images"


def main() -> None:
    """Read the command line and run one of the measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--model", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    engines_parser = commands.add_parser("engines")
    engines_parser.add_argument("--nanoseconds", type=float, default=5.0)
    engines_parser.add_argument("-o", "--output", type=Path, default=Path("free_energy"))
    commands.add_parser("speed")
    demo_parser = commands.add_parser("demo")
    demo_parser.add_argument("-o", "--output", type=Path, default=Path("demo"))
    arguments = parser.parse_args()
    model = arguments.model or shipped_model()
    command = f"python benchmarks/free_energy/run.py {arguments.command}"
    if arguments.command == "engines":
        title, rows = engines(model, arguments.nanoseconds, arguments.output, arguments.tiny)
    elif arguments.command == "speed":
        title, rows = speed(model, arguments.tiny)
    else:
        title, rows = demo(model, arguments.output, arguments.tiny)
    print(json.dumps(rows, indent=2, ensure_ascii=False))
    if not arguments.tiny:
        print(record.write_result(f"free_energy_{arguments.command}", title, command, rows))


def engines(model: Path, nanoseconds: float, output: Path, tiny: bool) -> tuple[str, list[dict[str, Any]]]:
    """The same metadynamics in OpenMM and in LAMMPS, one thread each, and how far their surfaces differ."""
    settings = DemoSettings(threads=1, most_seconds=None, frame_stride=DemoSettings.stride)
    steps = 3000 if tiny else round(nanoseconds * 1e3 / settings.time_step)
    settings = replace(settings, steps=steps, stride=20 if tiny else settings.stride)
    names = ("openmm", "lammps")
    with ProcessPoolExecutor(len(names)) as pool:
        runs = {
            name: pool.submit(simulate, output / name, name, replace(settings, seed=seed), model)
            for seed, name in enumerate(names, 1)
        }
        found = {name: run.result() for name, run in runs.items()}
    surfaces = [read_surface(output / name / SURFACE) for name in names]
    comparison = compare(surfaces[0], surfaces[1], BELOW)
    draw_comparison(comparison, ("OpenMM", "LAMMPS"), output / "engines.png")
    if not tiny:
        save_with_palette(output / "engines.png", IMAGES / "free_energy_engines.png", colours=64)
    routes = {name: route for name, (route, _) in found.items()}
    columns = [f"{routes[name]} (kJ/mol)" for name in names]
    places = [{place["name"]: place["energy"] for place in places} for _, places in found.values()]
    rows = [
        {
            "what": what,
            **{column: there.get(what, "–") for column, there in zip(columns, places, strict=True)},
        }
        for what in dict.fromkeys([*places[0], *places[1]])
    ]
    expected = expected_difference(surfaces, comparison.first)
    rows.append(
        {
            "what": f"RMS difference below {BELOW:g} kJ/mol, and what its errors let expect",
            columns[0]: f"{comparison.rms:.2f}",
            columns[1]: f"{expected:.2f} expected",
        }
    )
    return f"Surfaces of {nanoseconds:g} ns of metadynamics in OpenMM and in LAMMPS", rows


def simulate(
    folder: Path, engine: str, settings: DemoSettings, model: Path
) -> tuple[str, list[dict[str, str]]]:
    """One run, in a process of its own; its route, and minima and barriers with errors."""
    result, report = run_demo(folder, engine, settings, model)
    places = []
    for minimum in report.landscape.minima:
        name = conformer(minimum.point) or minimum.name
        energy = with_error(minimum.energy, report.error_of(minimum))
        places.append({"name": f"minimum {name}", "energy": energy})
    for barrier in report.landscape.barriers:
        ends = (barrier.first, barrier.second)
        name = "–".join(conformer(end.point) or end.name for end in ends)
        energy = with_error(barrier.energy, report.error_of(barrier))
        places.append({"name": f"barrier {name}", "energy": energy})
    return f"{result.engine} with {result.route}", places


def expected_difference(surfaces: list[Surface], reference: Surface) -> float:
    """Root-mean-square of the standard error of a difference, where the surfaces were compared."""
    errors = [surface.error for surface in surfaces if surface.error is not None]
    both = np.hypot(*errors)[reference.energy <= BELOW]
    return float(np.sqrt(np.nanmean(np.square(both))))


def demo(model: Path, output: Path, tiny: bool) -> tuple[str, list[dict[str, Any]]]:
    """``symmd demo`` with its own settings: what it finds and how long it takes."""
    settings = DemoSettings(steps=5000, stride=20) if tiny else DemoSettings()
    started = time.monotonic()
    result, report = run_demo(output, None, settings, model)
    minutes = (time.monotonic() - started) / 60.0
    rows = []
    for minimum in report.landscape.minima:
        rows.append(
            {
                "what": conformer(minimum.point) or minimum.name,
                "φ, ψ (deg)": place_text(minimum.point),
                "F (kJ/mol)": with_error(minimum.energy, report.error_of(minimum)),
            }
        )
    for barrier in report.landscape.barriers:
        ends = (barrier.first, barrier.second)
        rows.append(
            {
                "what": "barrier " + "–".join(conformer(end.point) or end.name for end in ends),
                "φ, ψ (deg)": place_text(barrier.point),
                "F (kJ/mol)": with_error(barrier.energy, report.error_of(barrier)),
            }
        )
    if not tiny:
        save_with_palette(output / "surface.png", IMAGES / "free_energy.png", colours=64)
    title = (
        f"Alanine dipeptide in vacuum at {settings.temperature:g} K after {minutes:.1f} minutes: "
        f"{result.nanoseconds:.2f} ns at {result.nanoseconds_per_day:.0f} ns/day"
    )
    return title, rows


def place_text(point: tuple[float, ...]) -> str:
    """Dihedrals in degrees."""
    return ", ".join(f"{math.degrees(value):.0f}" for value in point)


def speed(model: Path, tiny: bool) -> tuple[str, list[dict[str, Any]]]:
    """Steps per second of one thread, best of several turns: plain, with each bias, and GFN2-xTB itself."""
    steps, turns = (200, 1) if tiny else (10_000, 5)
    sides: dict[str, Callable[[], float]] = {
        "OpenMM, model alone": lambda: openmm_seconds(model, steps, None),
        "OpenMM, app.Metadynamics": lambda: openmm_seconds(model, steps, "metadynamics"),
        "LAMMPS, model alone": lambda: lammps_seconds(model, steps, None, False),
        "LAMMPS, COLVARS": lambda: lammps_seconds(model, steps, None, True),
    }
    kernel = plumed_kernel()
    if kernel is None:
        print("no PLUMED kernel here: its rows are left out")
    else:
        sides["OpenMM, PLUMED"] = lambda: openmm_seconds(model, steps, "plumed")
        sides["LAMMPS, PLUMED"] = lambda: lammps_seconds(model, steps, kernel, True)
    sides["ASE, GFN2-xTB (tblite)"] = lambda: xtb_seconds(20 if tiny else 200)
    best: dict[str, float] = {}
    for _ in range(turns):  # in turns, so that a busy moment of the machine does not hit one alone
        for name, measure in list(sides.items()):
            try:
                best[name] = min(best.get(name, float("inf")), measure())
            except ModuleNotFoundError as error:
                print(f"{name} is left out: {error}")
                del sides[name]
    rows = []
    for name in sorted(best):
        bare = best.get(f"{name.split(',')[0]}, model alone")
        rows.append(
            {
                "what": name,
                "µs per step": f"{best[name] * 1e6:.0f}",
                "steps per second": f"{1.0 / best[name]:.0f}",
                "ns/day at 1 fs": f"{86400e-6 / best[name]:.1f}",
                "µs beyond the model alone": "" if bare is None else f"{(best[name] - bare) * 1e6:.0f}",
            }
        )
    return "Alanine dipeptide, 22 atoms, one thread: a step of 1 fs, hills every 100 steps", rows


def openmm_seconds(model: Path, steps: int, bias: str | None) -> float:
    """Seconds of a step; in a process of its own, whose OpenMP threads are set before anything is loaded."""
    code = f"""
import time, openmm
from pathlib import Path
from symmd_md.demo import openmm_run
from symmd_md.demo.settings import DemoSettings, plumed_input
from symmd_md.molecules import PHI, PSI
from symmd_md.openmm import SymmdForce
settings = DemoSettings(threads=1)
topology = openmm_run.molecule_topology()
system = openmm.System()
for atom in topology.atoms():
    system.addParticle(atom.element.mass)
system.addForce(SymmdForce({str(model)!r}, topology, precision="single", threads=1))
positions = openmm_run.relaxed(system, topology, settings)
metadynamics = None
if {bias!r} == "metadynamics":
    metadynamics = openmm_run.metadynamics_of(system, settings)
elif {bias!r} == "plumed":
    from symmd_md.engines.plumed import plumed_kernel
    from symmd_md.openmm import PlumedForce
    system.addForce(PlumedForce(plumed_input(settings, PHI, PSI), plumed_kernel(), settings.temperature))
simulation = openmm_run.simulation_of(system, topology, settings, settings.temperature, settings.friction)
simulation.context.setPositions(positions)
simulation.context.setVelocitiesToTemperature(settings.temperature, 1)
step = simulation.step if metadynamics is None else lambda count: metadynamics.step(simulation, count)
step(100)
started = time.perf_counter()
step({steps})
print((time.perf_counter() - started) / {steps})
"""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
    if done.returncode != 0:
        raise SymmdError(f"the run in OpenMM failed: {done.stderr}")
    return float(done.stdout.split()[-1])


def lammps_seconds(model: Path, steps: int, kernel: str | None, biased: bool) -> float:
    """Seconds of a step by LAMMPS' own clock."""
    lmp = program("lmp")
    if lmp is None:
        raise ModuleNotFoundError("LAMMPS is not installed")
    settings = DemoSettings(steps=steps, threads=1, most_seconds=None)
    text = lammps_input(model, settings, kernel)
    if not biased:
        text = "\n".join(line for line in text.splitlines() if not line.startswith("fix             bias"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in.lammps").write_text(text, encoding="utf-8")
        (folder / DATA).write_text(data_file(), encoding="utf-8")
        (folder / COLVARS_INPUT).write_text(colvars_input(settings), encoding="utf-8")
        (folder / PLUMED_INPUT).write_text(plumed_input(settings, PHI, PSI), encoding="utf-8")
        done = subprocess.run(
            [lmp, "-in", "in.lammps"],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
    times = [line.split() for line in done.stdout.splitlines() if line.startswith("Loop time of")]
    if done.returncode != 0 or not times:
        raise SymmdError(f"LAMMPS failed: {done.stdout[-500:]}{done.stderr}")
    return float(times[-1][3]) / steps


def xtb_seconds(steps: int) -> float:
    """Seconds of a step of Langevin dynamics in ASE with GFN2-xTB."""
    from ase import Atoms, units
    from ase.md.langevin import Langevin
    from tblite.ase import TBLite

    from symmd_md.molecules import ALANINE_DIPEPTIDE_SYMBOLS, alanine_dipeptide_positions

    atoms = Atoms(ALANINE_DIPEPTIDE_SYMBOLS, alanine_dipeptide_positions())
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    dynamics = Langevin(atoms, 1.0 * units.fs, temperature_K=300.0, friction=0.002 / units.fs)
    dynamics.run(5)
    started = time.perf_counter()
    dynamics.run(steps)
    return (time.perf_counter() - started) / steps


if __name__ == "__main__":
    main()
