"""Time of a step beside the peers: the same structures in turns, energy and forces in fp32, 1 and 2 threads.

``python benchmarks/peers/environments.py`` makes the environments, ``run.py --prepare`` lets every peer
compile what it compiles (minutes each), and ``run.py`` measures, on a quiet machine. It writes
results/peers_*.json and docs/images/pareto.png. ``--data`` names the folder with the published files of 3BPA;
without it that molecule is left out. ``run.py --figure`` draws the picture anew from the results.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import environments
import numpy as np
import pareto
from rounds import Kind, Limits, SideError, SideProcess, Times, take_turns

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))

import record
from flops import step_flops

from symmd_md.analysis.bench_structures import Structure, structure_of
from symmd_md.analysis.machine import available_cores
from symmd_md.model import ModelConfig

CUTOFF = 5.0
SPECIES = ("H", "C", "N", "O")
ENGINE, SMALL, PRODUCT = "SymMD", "SymMD, C = 32", "matrix product"
KINDS = (
    Kind(PRODUCT, "torch.mm", None, "symmd_side.py", "product"),
    Kind(ENGINE, "engine", None, "symmd_side.py", "default"),
    Kind(SMALL, "engine", None, "symmd_side.py", "small"),
    Kind("DeePMD se_e2_a", "LAMMPS", "deepmd", "deepmd_side.py", "frozen", compiles="once"),
    Kind("DeePMD se_e2_a", "LAMMPS, compressed", "deepmd", "deepmd_side.py", "compressed", compiles="once"),
    Kind("NequIP S", "AOTInductor", "nequip", "nequip_side.py", "nequip-s", compiles="once"),
    Kind("NequIP M", "AOTInductor", "nequip", "nequip_side.py", "nequip-m", compiles="once"),
    Kind("Allegro", "AOTInductor", "nequip", "nequip_side.py", "allegro-l2", compiles="once"),
    Kind("MACE small", "TorchScript", "mace", "mace_side.py", "small-script"),
    Kind("MACE small", "torch.compile", "mace", "mace_side.py", "small-compiled", compiles="structure"),
    Kind("MACE medium", "TorchScript", "mace", "mace_side.py", "medium-script"),
    Kind("MACE 256, L = 0", "TorchScript", "mace", "mace_side.py", "l0-script", molecules_only=True),
    Kind("MACE 256, L = 1", "TorchScript", "mace", "mace_side.py", "l1-script", molecules_only=True),
    Kind("MACE 256, L = 2", "TorchScript", "mace", "mace_side.py", "l2-script", molecules_only=True),
    Kind("SevenNet-0", "TorchScript", "sevenn", "sevennet_side.py", "sevennet-0"),
    Kind("TensorNet", "TorchScript", "torchmdnet", "torchmd_side.py", "tensornet"),
    Kind("ET", "TorchScript", "torchmdnet", "torchmd_side.py", "et"),
    Kind("Equiformer", "torch, eager", None, "symmd_side.py", "equiformer"),
)
SIZES = {
    ENGINE: "C = 64, L = 2, hidden l ≤ 1, 2 layers",
    SMALL: "C = 32, L = 2, hidden l ≤ 1, 2 layers: the size of ala2",
    "DeePMD se_e2_a": "embedding 25-50-100, axis 16, fitting 240³, one side",
    "NequIP S": "2 layers, l ≤ 1, 128 and 64 features (preset S)",
    "NequIP M": "4 layers, l ≤ 2, 128, 64 and 32 features (preset M)",
    "Allegro": "2 layers, l ≤ 2, 64 scalars, 32 tensors",
    "MACE small": "128x0e, 2 layers, correlation 3, l ≤ 3",
    "MACE medium": "128x0e + 128x1o, 2 layers, correlation 3, l ≤ 3",
    "MACE 256, L = 0": "256x0e, 2 layers, correlation 3, l ≤ 3",
    "MACE 256, L = 1": "256x0e + 256x1o, 2 layers, correlation 3, l ≤ 3",
    "MACE 256, L = 2": "256x0e + 256x1o + 256x2e, 2 layers, correlation 3, l ≤ 3",
    "SevenNet-0": "128x0e + 64x1e + 32x2e, 5 layers, as it ships",
    "TensorNet": "2 layers, 128 channels",
    "ET": "6 layers, 128 channels, 8 heads",
    "Equiformer": "52x0e + 28x1o + 12x2e, 2 blocks (benchmarks/baselines)",
}
ALANINE, WATER, BOX = 22, 192, 1536
MOLECULE_3BPA = "3BPA"
PRODUCT_FLOPS = 2.0 * 1024**3
SLOPE_TOLERANCE = 0.01
"""Of forces against differences of energies in fp32."""
COMMAND = "python benchmarks/peers/run.py"


def structures(data: Path | None, atoms: tuple[int, ...]) -> list[Structure]:
    """What is timed, in this order."""
    found = [structure_of(count) for count in atoms]
    if data is not None:
        from symmd_md.data.reading import read_frames

        path = sorted(data.glob("3bpa_test_300K.*"))
        if not path:
            raise SystemExit(f"expected 3bpa_test_300K.extxyz in {data}")
        molecule = read_frames(path[0])[0]
        numbers = np.asarray(molecule.numbers, dtype=np.int32)
        found.insert(1, Structure(MOLECULE_3BPA, numbers, np.asarray(molecule.positions), None))
    return found


def start(
    kinds: list[Kind], threads: int, folder: Path, limits: Limits
) -> tuple[list[SideProcess], dict[str, Any]]:
    """The processes that could start, and what each says of itself or why it could not."""
    begun: list[SideProcess] = []
    sides: list[SideProcess] = []
    said: dict[str, Any] = {}
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        if kind.environment and not environments.is_ready(kind.environment, folder):
            said[kind.name] = {"problem": f"no environment {kind.environment}; run environments.py"}
        else:
            log = folder / "logs" / f"{kind.script}_{kind.variant}.log"
            begun.append(SideProcess(kind, threads, folder, log))
    for side in begun:
        try:
            said[side.kind.name] = side.ask(limits.load, do="describe")
            sides.append(side)
        except SideError as error:
            said[side.kind.name] = {"problem": str(error)}
            side.close()
    return sides, said


def measure(
    kinds: list[Kind], timed: list[Structure], counts: tuple[int, ...], folder: Path, limits: Limits
) -> list[dict[str, Any]]:
    """One row for each structure, number of threads and kind. Milliseconds; times as numbers or None."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        for threads in counts:
            print(f"{threads} threads: starting {len(kinds)} sides", flush=True)
            sides, said = start(kinds, threads, folder, limits)
            for structure in timed:
                path = Path(place) / "structure.npz"
                cell = {} if structure.cell is None else {"cell": structure.cell}
                np.savez(path, numbers=structure.numbers, positions=structure.positions, **cell)
                molecule = structure.cell is None
                if not molecule:
                    # They would only hold memory that the boxes need.
                    for side in [side for side in sides if side.kind.molecules_only]:
                        side.close()
                        sides.remove(side)
                print(f"{threads} threads: {structure.name}, {structure.atoms} atoms", flush=True)
                counted = threads == counts[0] and structure.atoms < BOX and structure.name != MOLECULE_3BPA
                times = take_turns(sides, path, limits, molecule, counted)
                for kind in kinds:
                    if molecule or not kind.molecules_only:
                        found = times.get(kind.name, Times(problem=said[kind.name].get("problem")))
                        rows.append(row_of(kind, structure, threads, said[kind.name], found))
            for side in sides:
                side.close()
    return rows


def prepare(kinds: list[Kind], timed: list[Structure], counts: tuple[int, ...], folder: Path) -> None:
    """Let every side that compiles do so; what it made is kept beside the environments."""
    patient = Limits(rounds=0, load=3600.0)
    for kind in kinds:
        if kind.compiles == "once":
            measure([kind], timed[:1], counts[:1], folder, patient)
        elif kind.compiles == "structure":
            measure([kind], timed, counts, folder, patient)


def row_of(
    kind: Kind, structure: Structure, threads: int, said: dict[str, Any], times: Times
) -> dict[str, Any]:
    """What results/peers_speed.json keeps of one side."""
    wrong = times.slope is not None and not abs(times.slope - 1.0) < SLOPE_TOLERANCE
    problem = "its forces are not the slope of its energy" if wrong else times.problem
    row: dict[str, Any] = {
        "structure": structure.name,
        "atoms": structure.atoms,
        "threads": threads,
        "model": kind.model,
        "route": kind.route,
        "package": said.get("package", "–"),
        "parameters": said.get("parameters"),
        "pairs per atom": None if times.pairs is None else round(times.pairs / structure.atoms, 2),
        "steps": len(times.steps),
        "median (ms)": None,
        "best (ms)": None,
        "with a new list (ms)": None,
        "forces against energies": None if times.slope is None else round(times.slope, 4),
        "products (MFLOP per atom)": None,
        "all else (MFLOP per atom)": None,
        "problem": problem,
    }
    if problem is None and times.steps:
        median = statistics.median(times.steps)
        lists = statistics.median(times.lists) if times.lists else 0.0
        fresh = statistics.median(times.fresh) if times.fresh else median + lists
        row["median (ms)"], row["best (ms)"] = _digits(1e3 * median), _digits(1e3 * min(times.steps))
        row["with a new list (ms)"] = _digits(1e3 * fresh)
    if times.operations is not None:
        row["products (MFLOP per atom)"] = _digits(1e-6 * times.operations["products"] / structure.atoms)
        row["all else (MFLOP per atom)"] = _digits(1e-6 * times.operations["pointwise"] / structure.atoms)
    return row


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line for each model and route: time of a step and how much faster the engine is."""
    cases = list(dict.fromkeys((row["structure"], row["atoms"], row["threads"]) for row in rows))
    by_side: dict[tuple[str, str], dict[tuple[str, int, int], dict[str, Any]]] = {}
    for row in rows:
        case = (row["structure"], row["atoms"], row["threads"])
        by_side.setdefault((row["model"], row["route"]), {})[case] = row
    engine = by_side.get((ENGINE, "engine"), {})
    lines = []
    for (model, route), found in by_side.items():
        first = next(iter(found.values()))
        line = {
            "model": model,
            "size": SIZES.get(model, "1024 × 1024, fp32"),
            "route": route,
            "package": first["package"],
            "parameters": "–" if not first["parameters"] else f"{first['parameters']:,}",
        }
        for case in cases:
            structure, atoms, threads = case
            name = f"{structure}, {atoms} atoms, {threads} thread{'s' if threads > 1 else ''} (ms)"
            line[name] = cell_of(found.get(case), engine.get(case), model)
        lines.append(line)
    return lines


def cell_of(row: dict[str, Any] | None, engine: dict[str, Any] | None, model: str) -> str:
    """Milliseconds, and how often the engine's go into them; GFLOP/s of the matrix product."""
    if row is None:
        return "–"
    if row["median (ms)"] is None:
        return str(row["problem"] or "–")
    if model == PRODUCT:
        return f"{1e-6 * PRODUCT_FLOPS / row['median (ms)']:.0f} GFLOP/s"
    shown = f"{row['median (ms)']:.3g}" if row["median (ms)"] < 1000 else f"{row['median (ms)']:.0f}"
    if engine is None or engine["median (ms)"] is None or model == ENGINE:
        return shown
    return f"{shown} ({row['median (ms)'] / engine['median (ms)']:.3g} ×)"


def operation_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Operations by atom and step, as torch runs the model and, for ours, as the engine does it."""
    product = {
        (row["structure"], row["threads"]): row["median (ms)"] for row in rows if row["model"] == PRODUCT
    }
    lines = []
    for row in rows:
        if row["products (MFLOP per atom)"] is None or row["model"] == PRODUCT:
            continue
        if any(line["model"] == row["model"] and line["structure"] == row["structure"] for line in lines):
            continue
        total = row["products (MFLOP per atom)"] + row["all else (MFLOP per atom)"]
        channels = {ENGINE: 64, SMALL: 32}.get(row["model"])
        equations = None
        if channels is not None:
            config = ModelConfig(SPECIES, CUTOFF, channels=channels)
            equations = 1e-6 * sum(step_flops(config, row["pairs per atom"], len(SPECIES)).values())
        best = min(
            (
                other["median (ms)"]
                for other in rows
                if other["model"] == row["model"]
                and (other["structure"], other["threads"]) == (row["structure"], row["threads"])
                and other["median (ms)"] is not None
            ),
            default=None,
        )
        done = equations or total
        speed = None if best is None else 1e-3 * done * row["atoms"] / best
        peak = product.get((row["structure"], row["threads"]))
        share = None if speed is None or not peak else 100 * speed * peak / (1e-6 * PRODUCT_FLOPS)
        lines.append(
            {
                "structure": row["structure"],
                "atoms": row["atoms"],
                "model": row["model"],
                "parameters": f"{row['parameters']:,}",
                "matrix products (MFLOP per atom)": f"{row['products (MFLOP per atom)']:.3g}",
                "all else (MFLOP per atom)": f"{row['all else (MFLOP per atom)']:.3g}",
                "as the engine does it (MFLOP per atom)": "–" if equations is None else f"{equations:.3g}",
                "speed, one thread (GFLOP/s)": "–" if speed is None else f"{speed:.3g}",
                "of the matrix product (%)": "–" if share is None else f"{share:.0f}",
            }
        )
    return sorted(lines, key=lambda line: line["atoms"])


def draw(results: Path, picture: Path) -> None:
    """The Pareto plot from what results there are."""
    speed = json.loads((results / "peers_speed.json").read_text(encoding="utf-8"))
    accuracy = results / "peers_accuracy.json"
    trained = json.loads(accuracy.read_text(encoding="utf-8"))["rows"] if accuracy.exists() else []
    print(pareto.draw(speed["rows"], trained, speed["machine"], picture))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the published files of 3BPA")
    parser.add_argument(
        "--environments", type=Path, default=environments.FOLDER, help="default: build/peers of the project"
    )
    parser.add_argument("--only", nargs="+", metavar="MODEL", help="of these models alone")
    parser.add_argument("--prepare", action="store_true", help="compile what the peers compile; no results")
    parser.add_argument("--figure", action="store_true", help="draw the picture from the results; no times")
    parser.add_argument("--quick", type=Path, metavar="FOLDER", help="small structures, results into FOLDER")
    arguments = parser.parse_args()
    results = arguments.quick or record.RESULTS
    picture = (arguments.quick or record.ROOT / "docs" / "images") / "pareto.png"
    if arguments.figure:
        draw(record.RESULTS, record.ROOT / "docs" / "images" / "pareto.png")
        return
    unknown = set(arguments.only or ()) - {kind.model for kind in KINDS}
    if unknown:
        parser.error(f"expected models of {', '.join(SIZES)}, found {', '.join(sorted(unknown))}")
    kinds = [kind for kind in KINDS if arguments.only is None or kind.model in {*arguments.only, PRODUCT}]
    counts = (1, 2) if available_cores() > 1 else (1,)
    timed = structures(arguments.data, (ALANINE, 24) if arguments.quick else (ALANINE, WATER, BOX))
    limits = Limits(rounds=2, turn=0.05) if arguments.quick else Limits()
    if arguments.prepare:
        prepare(kinds, timed, counts, arguments.environments)
        return
    rows = measure(kinds, timed, counts, arguments.environments, limits)
    for row in rows:
        if row["problem"] is not None:
            case = f"{row['atoms']} atoms, {row['threads']} threads"
            print(f"{row['model']}, {row['route']}, {case}: {row['problem']}")
    where = f"energy and forces, fp32, r_c = {CUTOFF:g} Å"
    for name, title, found in (
        ("peers_speed", f"Time of a step of every side: {where}", rows),
        (
            "peers_summary",
            f"Time of a step, its list kept; in brackets how often the engine's: {where}",
            summary(rows),
        ),
        ("peers_operations", f"Floating-point operations of a step: {where}", operation_rows(rows)),
    ):
        if found:
            print(record.write_result(name, title, COMMAND, found, results))
    draw(results, picture)


if __name__ == "__main__":
    main()
