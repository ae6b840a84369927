"""The engine's speed: against torch, by kernel, by atoms, beside its budgets. Minutes, on a quiet machine.

``python benchmarks/engine/run.py`` writes results/engine*.json and docs/images/engine.png, from which
``python benchmarks/record.py`` fills the tables. The network has random weights: C = 64, L = 2, hidden l ≤ 1,
two layers, r_c = 5 Å. Water is at 0.997 g/cm³. Times are medians unless a column says otherwise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import driver
import numpy as np
import torch
from figure import draw
from flops import step_flops

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import record

from symmd_md.analysis.bench import Benchmark, EngineStep, measure, time_in_turns
from symmd_md.analysis.bench_structures import Structure, species_of, structure_of
from symmd_md.analysis.machine import available_cores
from symmd_md.data.neighbours import neighbour_list
from symmd_md.export import write_model_file
from symmd_md.model import ModelConfig, ModelStatistics, SymmdNetwork

SPECIES = ("H", "C", "N", "O")
CUTOFF = 5.0
SPARSE_CUTOFF = 4.1
"""Å, where an atom of water has 30 neighbours."""
MOLECULE, COUNTED_ATOMS = 22, 9
COMMAND = "python benchmarks/engine/run.py"


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    torch_atoms: tuple[int, ...] = (22, 192, 1536)
    box: int = 1536
    by_atoms: tuple[int, ...] = (96, 384, 1536, 6144, 24576, 98304)
    repeats: int = 40
    molecule_repeats: int = 2000
    seconds: float = 5.0


QUICK = Sizes((22, 24), 48, (24, 48), 3, 20, 0.2)


class Setting:
    """Models, structures and the program, in a folder that goes away."""

    def __init__(self, folder: Path, program: Path, sizes: Sizes) -> None:
        self.folder, self.program, self.sizes = folder, program, sizes
        self.model = self.make_model("engine", CUTOFF)
        self.box = structure_of(sizes.box)
        self.threads = (1, 2) if available_cores() > 1 else (1,)

    def make_model(self, name: str, cutoff: float) -> Path:
        """A model with random weights."""
        torch.manual_seed(0)
        network = SymmdNetwork(ModelConfig(SPECIES, cutoff), ModelStatistics(mean_neighbours=50.0))
        path = self.folder / f"{name}.safetensors"
        write_model_file(network, path, {"weights": "random"})
        return path

    def drive(self, structure: Structure, task: str) -> Any:
        """What engine_breakdown prints of a structure."""
        path = self.folder / "structure.bin"
        driver.write_structure(structure, SPECIES, path)
        return driver.run(self.program, self.model, path, task)


def neighbours_of(structure: Structure, cutoff: float) -> float:
    """Mean number within ``cutoff`` (Å)."""
    cell = np.zeros((3, 3)) if structure.cell is None else structure.cell
    found = neighbour_list(structure.positions, cell, np.array(structure.periodic), cutoff)
    return len(found[0]) / structure.atoms


def engine_step(model: Path, structure: Structure, threads: int) -> EngineStep:
    """A step of the engine in Python, energy and forces, with its list kept."""
    species, _ = species_of(structure, SPECIES)
    return EngineStep(model, structure, species, threads)


def compare_with_torch(setting: Setting) -> Benchmark:
    """The table of ``symmd bench``."""
    sizes = setting.sizes
    return measure(setting.model, sizes.torch_atoms, setting.threads, sizes.seconds)


def time_by_atoms(setting: Setting) -> list[dict[str, Any]]:
    """One row for each number of atoms: seconds of a step by threads, and bytes of the engine per atom."""
    rows = []
    for atoms in setting.sizes.by_atoms:
        structure = structure_of(atoms)
        row: dict[str, Any] = {"atoms": structure.atoms, "neighbours": neighbours_of(structure, CUTOFF)}
        sides = {str(threads): engine_step(setting.model, structure, threads) for threads in setting.threads}
        times = time_in_turns(sides, setting.sizes.seconds / 2)
        for threads, found in times.items():
            row[f"median {threads}"] = statistics.median(found)
            row[f"best {threads}"] = min(found)
        row["bytes"] = sides["1"].engine.memory_bytes / structure.atoms
        rows.append(row)
    return rows


def peak_of_matrix_products() -> float:
    """GFLOP/s of torch's fp32 product of large matrices, one thread, the best of many."""
    torch.set_num_threads(1)
    size = 1024
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(30):
        started = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - started)
    return 2e-9 * size**3 / best


@dataclass(frozen=True)
class Kernels:
    """A step by its parts, one thread."""

    rows: list[dict[str, Any]]
    shares: list[tuple[str, float]]
    instruction_set: str
    step_us: float
    gflops: float
    executed_gflops: float | None
    peak_gflops: float
    matrix_gflops: float


def time_kernels(setting: Setting) -> Kernels:
    """The kernels within real steps, their operations, and what they execute."""
    matrix_peak = peak_of_matrix_products()
    found = setting.drive(setting.box, str(setting.sizes.repeats))
    matrix_peak = max(matrix_peak, peak_of_matrix_products())
    atoms = setting.box.atoms
    repeats = found["repeats"]
    # The steps after a run of the peak loop start with cold caches.
    steady = [repeat for repeat in repeats if repeat["peak_gflops"] == 0]
    names = list(repeats[0]["parts"])
    edges = max(part["edges"] for part in repeats[0]["parts"].values())
    neighbours = edges / atoms
    per_atom = {
        name: 1e6 * statistics.median(repeat["parts"][name]["seconds"] for repeat in steady) / atoms
        for name in names
    }
    step = 1e6 * statistics.median(repeat["step"] for repeat in steady) / atoms
    outside = (
        1e6
        / atoms
        * statistics.median(
            repeat["timed"] - sum(part["seconds"] for part in repeat["parts"].values()) for repeat in steady
        )
    )
    operations = step_flops(ModelConfig(SPECIES, CUTOFF), neighbours, len(SPECIES))
    counts = driver.executed(setting.program, setting.drive(counted_structure(), "instructions"))
    rows, executed_total = [], 0.0
    total = sum(per_atom.values()) + outside
    for name in sorted(names):
        row = {
            "part": name,
            "time (µs per atom)": f"{per_atom[name]:.2f}",
            "share (%)": f"{100 * per_atom[name] / total:.1f}",
            "operations (kFLOP per atom)": f"{operations[name] / 1e3:.0f}",
            "speed (GFLOP/s)": f"{operations[name] / per_atom[name] / 1e3:.1f}",
            "executed (kFLOP per atom)": "not counted",
            "instructions per edge": "not counted",
        }
        if name in counts:
            has_edges = repeats[0]["parts"][name]["edges"] > 0
            executed = counts[name].flops * (neighbours if has_edges else 1.0)
            executed_total += executed
            row["executed (kFLOP per atom)"] = f"{executed / 1e3:.0f}"
            row["instructions per edge"] = f"{counts[name].instructions:.0f}" if has_edges else "–"
        rows.append(row)
    other = {"part": "everything else", "time (µs per atom)": f"{outside:.2f}"}
    other["share (%)"] = f"{100 * outside / total:.1f}"
    rows.append({column: other.get(column, "–") for column in rows[0]})
    whole = {"part": "whole step", "time (µs per atom)": f"{step:.2f}", "share (%)": "100"}
    whole["operations (kFLOP per atom)"] = f"{sum(operations.values()) / 1e3:.0f}"
    whole["speed (GFLOP/s)"] = f"{sum(operations.values()) / step / 1e3:.1f}"
    if counts:
        whole["executed (kFLOP per atom)"] = f"{executed_total / 1e3:.0f}"
        edge_parts = [name for name in counts if repeats[0]["parts"][name]["edges"]]
        whole["instructions per edge"] = f"{sum(counts[name].instructions for name in edge_parts):.0f}"
    rows.append({column: whole.get(column, "not counted") for column in rows[0]})
    return Kernels(
        rows=rows,
        shares=[*((name, per_atom[name]) for name in sorted(names)), ("everything else", outside)],
        instruction_set=found["instruction_set"],
        step_us=step,
        gflops=sum(operations.values()) / step / 1e3,
        executed_gflops=executed_total / step / 1e3 if counts else None,
        peak_gflops=max(repeat["peak_gflops"] for repeat in repeats),
        matrix_gflops=matrix_peak,
    )


def counted_structure() -> Structure:
    """A drop of three molecules of water: instructions are counted one by one, which takes its time."""
    box = structure_of(COUNTED_ATOMS)
    return Structure("drop of water", box.numbers, box.positions, None)


def overhead_of_molecule(setting: Setting) -> tuple[float, float]:
    """ms of a step of 22 atoms without Python, and µs of it outside of the kernels."""
    found = setting.drive(structure_of(MOLECULE), str(setting.sizes.molecule_repeats))
    steady = [repeat for repeat in found["repeats"] if repeat["peak_gflops"] == 0]
    step = statistics.median(repeat["step"] for repeat in steady)
    inside = []
    for repeat in steady:
        parts = repeat["parts"].values()
        clock = found["clock_seconds"] * sum(part["calls"] for part in parts)
        inside.append(sum(part["seconds"] for part in parts) - clock)
    return 1e3 * step, 1e6 * (step - statistics.median(inside))


def first_forces(setting: Setting) -> dict[str, float]:
    """Seconds in a process without torch, the best of three: import, load, first step."""
    path = setting.folder / "structure.npz"
    species, _ = species_of(setting.box, SPECIES)
    np.savez(path, species=species, positions=setting.box.positions, cell=setting.box.cell)
    script = Path(__file__).resolve().parent / "fresh_process.py"
    command = [sys.executable, str(script), str(setting.model), str(path)]
    runs = [json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout) for _ in range(3)]
    return min(runs, key=lambda run: run["load"] + run["first"])


def sparse_step(setting: Setting) -> tuple[float, float]:
    """Neighbours within the shorter cutoff, and µs per atom."""
    model = setting.make_model("sparse", SPARSE_CUTOFF)
    times = time_in_turns({"engine": engine_step(model, setting.box, 1)}, setting.sizes.seconds / 2)
    found = 1e6 * statistics.median(times["engine"]) / setting.box.atoms
    return neighbours_of(setting.box, SPARSE_CUTOFF), found


def budget_rows(
    setting: Setting, compared: Benchmark, by_atoms: list[dict[str, Any]], kernels: Kernels
) -> list[dict[str, str]]:
    """What was promised, beside what was measured."""
    rows: list[dict[str, str]] = []

    def add(what: str, measured: str, budget: str) -> None:
        rows.append({"what": what, "measured": measured, "budget": budget})

    box = f"{setting.box.atoms} atoms of water"
    middle = min(by_atoms, key=lambda row: abs(row["atoms"] - setting.box.atoms))
    neighbours, sparse = sparse_step(setting)
    add(f"{box}, {neighbours:.0f} neighbours, one thread", f"{sparse:.1f} µs per atom", "≤ 60, aim 35")
    dense = 1e6 * middle["median 1"] / middle["atoms"]
    add(
        f"{middle['atoms']} atoms of water, {middle['neighbours']:.0f} neighbours, one thread",
        f"{dense:.1f} µs per atom",
        "≤ 100, aim 55",
    )
    step, overhead = overhead_of_molecule(setting)
    add("molecule of 22 atoms, one thread", f"{step:.2f} ms", "≤ 0.8")
    add("of which outside the kernels", f"{overhead:.0f} µs", "≤ 30")
    if len(setting.threads) > 1:
        worst = min((row["median 1"] / row["median 2"], row["atoms"]) for row in by_atoms)
        here = middle["median 1"] / middle["median 2"]
        add(f"second core, {middle['atoms']} atoms", f"{here:.2f} ×", "≥ 1.8")
        add(f"second core, the worst: {worst[1]:,} atoms", f"{worst[0]:.2f} ×", "≥ 1.8")
    add("memory of the engine, one thread", f"{middle['bytes'] / 1e3:.1f} kB per atom", "≤ 20")
    per_atom = [row["median 1"] / row["atoms"] for row in by_atoms]
    spread = 100 * (max(per_atom) / min(per_atom) - 1)
    ends = f"{by_atoms[0]['atoms']} to {by_atoms[-1]['atoms']:,} atoms"
    add(f"time per atom from {ends}, largest over smallest", f"+{spread:.0f} %", "≤ 15")
    fresh = first_forces(setting)
    add(
        f"load and first step without torch, {box}",
        f"{fresh['load'] + fresh['first']:.2f} s (load {fresh['load']:.3f}, import {fresh['import']:.2f})",
        "≤ 0.5",
    )
    percent = 100 * kernels.gflops / kernels.matrix_gflops
    add(
        f"speed over the whole step, {box}",
        f"{kernels.gflops:.0f} GFLOP/s, {percent:.0f} % of torch.mm's {kernels.matrix_gflops:.0f} and "
        f"{100 * kernels.gflops / kernels.peak_gflops:.0f} % of {kernels.peak_gflops:.0f} in registers",
        "aim ≥ 40 %",
    )
    if kernels.executed_gflops is not None:
        add("the same with all operations that were executed", f"{kernels.executed_gflops:.0f} GFLOP/s", "–")
    for row in compared.rows:
        if row.threads == 1 and row.side in ("torch eager", "TorchScript") and row.atoms in (22, 1536):
            aim = "aim ≥ 30" if row.atoms == MOLECULE else "aim ≥ 15"
            add(f"faster than {row.side}, {row.atoms} atoms", f"{row.times_engine:.0f} ×", aim)
    return rows


def torch_rows(compared: Benchmark) -> list[dict[str, str]]:
    """The table of ``symmd bench`` as Markdown has it."""
    return [
        {
            "structure": f"{row.structure}, {row.atoms} atoms",
            "neighbours": f"{row.neighbours:.1f}",
            "threads": str(row.threads),
            "side": row.side,
            "median (ms)": f"{row.median_ms:#.3g}",
            "best (ms)": f"{row.minimum_ms:#.3g}",
            "per atom (µs)": f"{row.per_atom_us:#.3g}",
            "engine is faster (×)": f"{row.times_engine:.1f}",
        }
        for row in compared.rows
    ]


def atoms_rows(by_atoms: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Time and memory by atoms."""
    rows = []
    for row in by_atoms:
        shown = {"atoms": f"{row['atoms']:,}", "neighbours": f"{row['neighbours']:.1f}"}
        for threads in ("1", "2"):
            if f"median {threads}" in row:
                name = "1 thread" if threads == "1" else f"{threads} threads"
                shown[f"{name} (µs per atom)"] = f"{1e6 * row[f'median {threads}'] / row['atoms']:.1f}"
                shown[f"{name}, best"] = f"{1e6 * row[f'best {threads}'] / row['atoms']:.1f}"
        shown["memory (kB per atom)"] = f"{row['bytes'] / 1e3:.1f}"
        rows.append(shown)
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--build", type=Path, default=record.ROOT / "build" / "editable", help="build folder")
    parser.add_argument("--program", type=Path, help="engine_breakdown, where it was built elsewhere")
    parser.add_argument("--quick", type=Path, metavar="FOLDER", help="tiny sizes, results into FOLDER")
    arguments = parser.parse_args()
    results = arguments.quick or record.RESULTS
    picture = (arguments.quick or record.ROOT / "docs" / "images") / "engine.png"
    program = arguments.program or driver.build(arguments.build)
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(Path(folder), program, QUICK if arguments.quick else Sizes())
        print("kernels", flush=True)
        kernels = time_kernels(setting)
        print("by atoms", flush=True)
        by_atoms = time_by_atoms(setting)
        print("against torch", flush=True)
        compared = compare_with_torch(setting)
        print("budgets", flush=True)
        rows = budget_rows(setting, compared, by_atoms, kernels)
    where = f"C = 64, L = 2, hidden l ≤ 1, two layers, r_c = {CUTOFF:g} Å, fp32, {kernels.instruction_set}"
    for name, title, found in (
        ("engine", f"The engine beside its budgets: {where}", rows),
        ("engine_torch", f"Energy and forces, engine and torch in turns: {where}", torch_rows(compared)),
        ("engine_atoms", f"Time of a step by atoms of water: {where}", atoms_rows(by_atoms)),
        ("engine_kernels", f"A step of {setting.box.atoms} atoms of water by kernel: {where}", kernels.rows),
    ):
        print(record.write_result(name, title, COMMAND, found, results))
    lines = {
        threads: [(row["atoms"], 1e6 * row[f"median {threads}"] / row["atoms"]) for row in by_atoms]
        for threads in setting.threads
    }
    draw(lines, kernels.shares, f"Liquid water: {where}", picture)
    print(picture)


if __name__ == "__main__":
    main()
