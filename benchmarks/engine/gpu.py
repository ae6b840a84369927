"""The engine on a GPU: a step by atoms, a molecule, torch beside it, and two ceilings of the same run.

``python benchmarks/engine/gpu.py`` writes results/gpu*.json where there is a GPU, and says in one line where
there is none. The network is that of run.py: random weights, C = 64, L = 2, hidden l ≤ 1, two layers,
r_c = 5 Å; water at 0.997 g/cm³. Times are medians. The engine's positions are on the host, as MD programs
give them; torch's are on the GPU, with their edges.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from flops import step_flops
from run import CUTOFF, SPECIES, Setting, Sizes, neighbours_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import record

from symmd_md._engine import Engine, device_count, device_memory_plan
from symmd_md.analysis.bench import batch_of
from symmd_md.analysis.bench_structures import MOST_ATOMS, Structure, species_of, structure_of
from symmd_md.errors import EngineError
from symmd_md.export import network_from_model_file
from symmd_md.model import AtomBatch, ModelConfig, SymmdNetwork

COMMAND = "python benchmarks/engine/gpu.py"
MOLECULE = 22
ATOMS = (MOLECULE, 1_536, 10_000, 30_000, 100_000, 300_000, 1_000_000)
TORCH_ATOMS = (MOLECULE, 1_536, 10_000)
BUDGET_PER_ATOM, BUDGET_MOLECULE = 0.5, 150.0
"""µs: of an atom's step from 10⁴ atoms on, and of the step of a molecule."""
SECONDS, FEWEST = 3.0, 5
COPIED_BYTES, MATRIX = 2**31, 8192
LISTED_BYTES, EDGE_BYTES = 4.0, 40.0
"""Least traffic of a listed edge, its sender, and of one within the cutoff: vector, pulls and weights."""


def median_seconds(step: Callable[[], object], seconds: float = SECONDS) -> float:
    """Of single calls, after three that do not count."""
    for _ in range(3):
        step()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < FEWEST or time.perf_counter() < end:
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def ceilings(device: str) -> dict[str, float]:
    """Bytes per second of a copy in the GPU's memory, and fp32 operations per second of a matrix product."""
    torch.backends.cuda.matmul.allow_tf32 = False
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    matrix = torch.randn(MATRIX, MATRIX, device=device)
    product = torch.empty_like(matrix)

    def timed(work: Callable[[], object]) -> float:
        def step() -> None:
            work()
            torch.cuda.synchronize(device)

        return median_seconds(step, 1.0)

    copy = timed(lambda: target.copy_(source))
    multiply = timed(lambda: torch.mm(matrix, matrix, out=product))
    return {"bytes": 2 * COPIED_BYTES / copy, "flops": 2 * MATRIX**3 / multiply}


def least_bytes(config: ModelConfig, neighbours: float, skin: float = 1.0) -> float:
    """Of an atom's step, from or to the GPU's memory: features once each way, edges once each."""
    listed = neighbours * ((config.cutoff + skin) / config.cutoff) ** 3
    features = 0.0
    for layer in range(config.layers):
        inputs, outputs = (
            (degree + 1) ** 2 for degree in (config.input_degree(layer), config.message_degree(layer))
        )
        # Values, queries, sums and what they become, forward; the same and their pulls on the way back.
        features += 3.0 * (2 * inputs + 2 * outputs)
    return 4.0 * config.channels * features + config.layers * (
        3 * neighbours * EDGE_BYTES + listed * LISTED_BYTES
    )


def engine_seconds(
    model: Path, structure: Structure, device: str, rebuilds: bool = False
) -> tuple[float, Engine]:
    """Of a step with energy and forces; one that ``rebuilds`` makes its list in every step."""
    engine = Engine(model, device=device)
    species, _ = species_of(structure, SPECIES)
    places = [structure.positions, -structure.positions if rebuilds else structure.positions]
    calls = 0

    def step() -> None:
        nonlocal calls
        engine.compute(species, places[calls % 2], structure.cell, structure.periodic)
        calls += 1

    return median_seconds(step), engine


def torch_seconds(network: SymmdNetwork, batch: AtomBatch, device: str, compiled: bool) -> float | None:
    """Of the same network in torch, given its edges; None where it needs more memory or does not compile."""
    moved, there = network.to(device), batch.to(device)
    energy = torch.compile(moved) if compiled else moved

    def step() -> None:
        energy(there, forces=True)
        torch.cuda.synchronize(device)

    try:
        return median_seconds(step)
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
        print(f"torch{' compiled' if compiled else ''}: {str(error).splitlines()[0]}", file=sys.stderr)
        return None


def rows_of(setting: Setting, device: str) -> list[dict[str, Any]]:
    """A row for each number of atoms, until the GPU is full."""
    found = ceilings(device)
    network = network_from_model_file(setting.model).float()
    config = network.config
    print(f"ceilings: {found['bytes'] / 1e12:.2f} TB/s, {found['flops'] / 1e12:.1f} TFLOP/s in fp32")
    rows = []
    for atoms in ATOMS:
        structure = structure_of(atoms)
        neighbours = neighbours_of(structure, CUTOFF)
        try:
            kept, engine = engine_seconds(setting.model, structure, device)
            built, _ = engine_seconds(setting.model, structure, device, rebuilds=True)
        except EngineError as error:
            print(f"{atoms} atoms: {error}")
            break
        sides: dict[str, float | None] = {"eager": None, "compiled": None}
        if atoms in TORCH_ATOMS:
            batch = batch_of(structure, species_of(structure, SPECIES)[0], CUTOFF)
            for side in sides:
                sides[side] = torch_seconds(network, batch, device, side == "compiled")
        operations = sum(step_flops(config, neighbours, len(SPECIES)).values()) * structure.atoms
        traffic = least_bytes(config, neighbours) * structure.atoms
        row = {
            "atoms": structure.atoms,
            "step (µs)": f"{1e6 * kept:,.0f}",
            "per atom (µs)": f"{1e6 * kept / structure.atoms:.3f}",
            "new list (µs)": f"{1e6 * built:,.0f}",
            "of the fp32 ceiling": f"{operations / kept / found['flops']:.1%}",
            "of the memory's ceiling": f"{traffic / kept / found['bytes']:.1%}",
            "memory (MB)": f"{engine.memory_bytes / 1e6:,.0f}",
        }
        for side, seconds in sides.items():
            row[f"torch {side} (µs)"] = "–" if seconds is None else f"{1e6 * seconds:,.0f}"
        print(row)
        rows.append(row)
    return rows


def most_atoms(setting: Setting, device: str) -> list[dict[str, Any]]:
    """How many atoms of water the plan lets into the GPU whole, and in pieces."""
    neighbours = neighbours_of(structure_of(10_000), CUTOFF)
    listed = neighbours * ((CUTOFF + 1.0) / CUTOFF) ** 3
    rows = []
    for name, key in (("whole", "whole_bytes"), ("in pieces", "chunk_bytes")):
        low, high = 1, 2_000_000_000 // int(listed)
        while low < high:
            middle = (low + high + 1) // 2
            plan = device_memory_plan(setting.model, middle, listed, device=device)
            low, high = (middle, high) if plan[key] <= plan["free_bytes"] else (low, middle - 1)
        rows.append({"step": name, "atoms that fit": f"{low:,}"})
    return rows


def main() -> None:
    """Measure, or say why not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cuda:0", help="which GPU")
    device = parser.parse_args().device
    try:
        device_count()
    except EngineError as error:
        print(f"nothing was measured: {error}")
        return
    if not torch.cuda.is_available():
        print(f"nothing was measured: torch {torch.__version__} finds no GPU, which the ceilings need")
        return
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(Path(folder), Path(), Sizes(box=24))
        rows, fits = rows_of(setting, device), most_atoms(setting, device)
    name = torch.cuda.get_device_name(device)
    budgets = f"{BUDGET_PER_ATOM} µs per atom from 10⁴ atoms, {BUDGET_MOLECULE:.0f} µs for {MOLECULE} atoms"
    title = f"A step on {name}, energy and forces; budgets on an H200: {budgets}"
    record.write_result("gpu", title, COMMAND, rows)
    record.write_result(
        "gpu_memory", f"Atoms of water that fit into {name}, up to {MOST_ATOMS:,} measured", COMMAND, fits
    )


if __name__ == "__main__":
    main()
