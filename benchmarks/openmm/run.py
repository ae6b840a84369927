"""What SymmdForce costs in OpenMM and how well it conserves energy; writes benchmarks/results/openmm_*.json.

    python benchmarks/openmm/run.py overhead --model MODEL                      (22, 648 and 1536 atoms)
    python benchmarks/openmm/run.py speed --system NAME=MODEL:STRUCTURE ...     (ns/day, beside LAMMPS)
    python benchmarks/openmm/run.py drift --system NAME=MODEL:STRUCTURE ...     (100 ps at 0.5 fs, twice)

``--tiny`` makes each run a few steps long, to see that everything works. Structures are periodic boxes or
molecules that ASE reads. ``overhead`` makes its own: a molecule and boxes of water.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import openmm
from openmm import unit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from record import write_result

import symmd_md
from symmd_md._engine import Engine
from symmd_md.analysis.bench_structures import species_of, structure_of
from symmd_md.openmm import system_from


def _lammps_benchmark() -> Any:
    """benchmarks/lammps/run.py, whose file has this one's name."""
    path = Path(__file__).resolve().parents[1] / "lammps" / "run.py"
    spec = importlib.util.spec_from_file_location("lammps_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lammps_benchmark = _lammps_benchmark()

ATOMS = (22, 648, 1536)
PLATFORMS = ("Reference", "CPU")
TIMESTEP = 0.0005
"""ps"""
SECONDS_PER_DAY = 86400.0


def main() -> None:
    """Read the command line and run one of the measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("overhead").add_argument("--model", type=Path, required=True)
    for name in ("speed", "drift"):
        command_parser = commands.add_parser(name)
        command_parser.add_argument(
            "--system", action="append", required=True, metavar="NAME=MODEL:STRUCTURE"
        )
        command_parser.add_argument("--temperature", type=float, default=300.0)
        if name == "drift":
            command_parser.add_argument("--picoseconds", type=float, default=100.0)
    arguments = parser.parse_args()
    command, tiny = f"python benchmarks/openmm/run.py {arguments.command}", arguments.tiny
    release = f"OpenMM {openmm.__version__}"
    if arguments.command == "overhead":
        rows = overhead(arguments.model, tiny)
        title = f"A step of {release} with SymmdForce beside the bare engine, one thread, fastest of each"
    elif arguments.command == "speed":
        rows = [row for system in arguments.system for row in speed(system, arguments.temperature, tiny)]
        title = f"SymmdForce in {release} beside pair_style symmd in LAMMPS, at 0.5 fs with a thermostat"
    else:
        rows = [
            row
            for system in arguments.system
            for row in drift(system, arguments.temperature, arguments.picoseconds, tiny)
        ]
        title = f"Total energy in NVE at 0.5 fs in {release}, after 5 ps at constant temperature"
    print(json.dumps(rows, indent=2, ensure_ascii=False))
    if not tiny:
        print(write_result(f"openmm_{arguments.command}", title, command, rows))


def overhead(model: Path, tiny: bool) -> list[dict[str, Any]]:
    """Times of a step in turns: the engine alone, OpenMM with the force, and OpenMM with no force at all."""
    rows = []
    for atoms in ATOMS[:1] if tiny else ATOMS:
        structure = made(model, atoms)
        sides: dict[str, Callable[[int], float]] = {"engine": bare_engine(model, structure)}
        for platform in PLATFORMS:
            sides[platform] = openmm_steps(model, structure, platform, with_force=True)
            sides[f"{platform}, empty"] = openmm_steps(model, structure, platform, with_force=False)
        # Blocks of about 0.2 s, interleaved: a busy moment of the machine does not hit one alone.
        steps = 2 if tiny else max(3, round(0.2 / sides["engine"](3)))
        found: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(2 if tiny else 25):
            for name, run in sides.items():
                found[name].append(run(steps))
        best = {name: 1e6 * min(times) for name, times in found.items()}
        for platform in PLATFORMS:
            rows.append(
                {
                    "atoms": atoms,
                    "platform": platform,
                    "bare engine (µs/step)": round(best["engine"], 1),
                    "OpenMM (µs/step)": round(best[platform], 1),
                    "beyond the engine (µs/step)": round(best[platform] - best["engine"], 1),
                    "of which OpenMM without forces (µs/step)": round(best[f"{platform}, empty"], 1),
                    "beyond the engine (%)": round(100.0 * (best[platform] / best["engine"] - 1.0), 2),
                }
            )
    return rows


def made(model: Path, atoms: int) -> ase.Atoms:
    """The structure of ``symmd bench``; another element stands for one that the model does not know."""
    structure = structure_of(atoms)
    known = Engine(model, threads=1).model["species"]
    species, _ = species_of(structure, known)
    symbols = [known[index] for index in species]
    return ase.Atoms(symbols, structure.positions, cell=structure.cell, pbc=structure.periodic)


class CResults(ctypes.Structure):
    """``symmd_results`` of symmd/symmd.h."""

    _fields_ = [
        (name, ctypes.c_void_p) for name in ("energy", "atom_energy", "forces", "virial", "atom_virial")
    ]


def bare_engine(model: Path, atoms: ase.Atoms) -> Callable[[int], float]:
    """Seconds of a call for energy and forces, through the C interface, whose calls cost next to nothing."""
    folders = [Path(folder) for folder in symmd_md.__path__]
    library = ctypes.CDLL(str(next(f / "libsymmd.so" for f in folders if (f / "libsymmd.so").is_file())))
    library.symmd_load.restype = ctypes.c_void_p
    library.symmd_load.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_double]
    library.symmd_compute.argtypes = [ctypes.c_void_p, ctypes.c_int64, *[ctypes.c_void_p] * 5]
    engine = library.symmd_load(str(model).encode(), 32, 1, 1.0)
    species = np.ascontiguousarray(Engine(model, threads=1).species_of(atoms.numbers), dtype=np.int32)
    positions, cell = np.ascontiguousarray(atoms.positions), np.ascontiguousarray(atoms.cell.array)
    periodic = atoms.pbc.astype(np.intc)
    energy, forces = np.zeros(1), np.zeros((len(atoms), 3))
    results = CResults(energy=energy.ctypes.data, forces=forces.ctypes.data)
    kept = (species, positions, cell, periodic, energy, forces)
    given = [array.ctypes.data for array in kept[:4]]

    def run(calls: int) -> float:
        begin = time.perf_counter()
        for _ in range(calls):
            status = library.symmd_compute(engine, len(atoms), *given, ctypes.byref(results))
        seconds = (time.perf_counter() - begin) / calls
        assert status == 0
        assert np.isfinite(kept[4]).all()
        return seconds

    return run


def openmm_steps(model: Path, atoms: ase.Atoms, platform: str, with_force: bool) -> Callable[[int], float]:
    """Seconds of a step of Verlet; atoms hardly move, so that the list of neighbours stays as it is."""
    _, system, positions = system_from(atoms, model, threads=1)
    if not with_force:
        system.removeForce(0)
    integrator = openmm.VerletIntegrator(1e-6 * unit.picoseconds)
    context = context_of(system, integrator, platform)
    context.setPositions(positions)
    context.setVelocitiesToTemperature(1.0, 1)
    integrator.step(
        2
    )  # the first step finds its forces in what was computed before, and would be the fastest

    def run(steps: int) -> float:
        begin = time.perf_counter()
        integrator.step(steps)
        seconds = (time.perf_counter() - begin) / steps
        assert context.getStepCount() > 0
        return seconds

    return run


def context_of(
    system: openmm.System, integrator: openmm.Integrator, platform: str, threads: int = 1
) -> openmm.Context:
    """With as many threads for OpenMM's own work."""
    properties = {"Threads": str(threads)} if platform == "CPU" else {}
    return openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform), properties)


def speed(system: str, temperature: float, tiny: bool) -> list[dict[str, Any]]:
    """Nanoseconds a day in OpenMM and in LAMMPS, in turns, with one thread and with two."""
    name, model, structure = parts_of(system)
    atoms = read(structure)
    repeats, steps = (1, 4) if tiny else (7, max(50, 60_000 // len(atoms)))
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        for threads in (1, 2):
            seconds = dynamics_seconds(model, atoms, temperature, threads, steps)
            found.setdefault(f"OpenMM, {threads} threads", []).append(seconds)
            with tempfile.TemporaryDirectory() as folder:
                seconds = lammps_seconds(model, structure, Path(folder), temperature, threads, steps)
            found.setdefault(f"LAMMPS, {threads} threads", []).append(seconds)
    best = {side: min(times) for side, times in found.items()}
    return [
        {
            "system": name,
            "atoms": len(atoms),
            "side": side.replace("1 threads", "1 thread"),
            "time (µs/step)": round(1e6 * seconds, 1),
            "speed (ns/day)": float(f"{TIMESTEP * 1e-3 * SECONDS_PER_DAY / seconds:.3g}"),
            "against LAMMPS": f"{best['LAMMPS' + side[6:]] / seconds:.2f}×",
        }
        for side, seconds in best.items()
    ]


def dynamics_seconds(model: Path, atoms: ase.Atoms, temperature: float, threads: int, steps: int) -> float:
    """Wall time of a step with a thermostat on platform CPU, after some steps that are not counted."""
    _, system, positions = system_from(atoms, model, threads=threads)
    integrator = openmm.LangevinMiddleIntegrator(temperature, 1.0, TIMESTEP)
    context = context_of(system, integrator, "CPU", threads)
    context.setPositions(positions)
    context.setVelocitiesToTemperature(temperature, 1)
    integrator.step(2 if steps < 10 else 20)
    begin = time.perf_counter()
    integrator.step(steps)
    return (time.perf_counter() - begin) / steps


def lammps_seconds(
    model: Path, structure: Path, folder: Path, temperature: float, threads: int, steps: int
) -> float:
    """The same in LAMMPS, whose own clock is taken."""
    script = lammps_benchmark.prepared(model, structure, folder, temperature, "single")
    script += f"timestep {TIMESTEP}\nthermo 1000000\nrun {2 if steps < 10 else 20}\nrun {steps}\n"
    output = lammps_benchmark.lammps(script, folder, 1, threads)
    seconds = [line.split()[3] for line in output.splitlines() if line.startswith("Loop time of")]
    return float(seconds[-1]) / steps


def drift(system: str, temperature: float, picoseconds: float, tiny: bool) -> list[dict[str, Any]]:
    """Slope of the total energy with its standard error (blocks), and its fluctuation about the line."""
    name, model, structure = parts_of(system)
    atoms, rows = read(structure), []
    before = 200 if tiny else round(5.0 / TIMESTEP)
    steps = 400 if tiny else round(picoseconds / TIMESTEP)
    for precision in ("mixed", "double"):
        _, openmm_system, positions = system_from(atoms, model, precision=precision)
        integrator = openmm.CompoundIntegrator()
        integrator.addIntegrator(openmm.LangevinMiddleIntegrator(temperature, 5.0, TIMESTEP))
        integrator.addIntegrator(openmm.VerletIntegrator(TIMESTEP))
        context = context_of(openmm_system, integrator, "Reference")
        context.setPositions(positions)
        context.setVelocitiesToTemperature(temperature, 1)
        integrator.step(before)
        integrator.setCurrentIntegrator(1)
        samples = []
        for sample in range(steps // 20 + 1):
            integrator.step(20 if sample else 0)
            state = context.getState(energy=True)
            kinetic = state.getKineticEnergy().value_in_unit(unit.kilojoule_per_mole)
            total = kinetic + state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
            samples.append((20 * sample * TIMESTEP * 1e-3, kinetic, total))
        nanoseconds, kinetic_energies, totals = np.array(samples).T
        electronvolt = (1.0 * unit.elementary_charge * unit.volt * unit.AVOGADRO_CONSTANT_NA).value_in_unit(
            unit.kilojoule_per_mole
        )
        energy = totals / electronvolt * 1e3 / len(atoms)
        temperatures = 2.0 * kinetic_energies / (3 * len(atoms) * 8.31446261815324e-3)
        slope, error = lammps_benchmark.slope_with_error(nanoseconds, energy)
        rest = energy - np.polyval(np.polyfit(nanoseconds, energy, 1), nanoseconds)
        rows.append(
            {
                "system": name,
                "atoms": len(atoms),
                "precision": precision,
                "length (ps)": round(nanoseconds[-1] * 1e3, 3),
                "mean temperature (K)": round(float(temperatures.mean()), 1),
                "drift (meV/atom/ns)": float(f"{slope:.3g}"),
                "standard error (meV/atom/ns)": float(f"{error:.2g}"),
                "fluctuation (meV/atom)": float(f"{rest.std():.3g}"),
            }
        )
    return rows


def parts_of(system: str) -> tuple[str, Path, Path]:
    """Name, model and structure of NAME=MODEL:STRUCTURE."""
    name, files = system.split("=", 1)
    model, structure = (Path(file) for file in files.rsplit(":", 1))
    return name, model, structure


def read(structure: Path) -> ase.Atoms:
    """The last frame of a file."""
    atoms = ase.io.read(structure, index=-1)
    assert not isinstance(atoms, list)
    return atoms


if __name__ == "__main__":
    main()
