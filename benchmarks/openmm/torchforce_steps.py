"""The measurement of torchforce.py, run by the Python that has TorchForce; prints one line of JSON."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openmm

from symmd_md._engine import Engine
from symmd_md.openmm import torch_force

PLATFORM = "CPU"
MASS = 12.0
"""u of all atoms, which hardly move."""
WARM_UP_STEPS = 3
BLOCK_SECONDS, BLOCKS = 0.2, 15
SLOW_SECONDS = 1.0
"""A step that takes longer is timed once in each of two turns."""


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--portable", type=Path)
    parser.add_argument("structures", nargs="+", type=Path)
    arguments = parser.parse_args()
    rows = []
    for path in arguments.structures:
        rows += measured(np.load(path), arguments.model, arguments.portable, arguments.tiny)
    versions = {name: version(name) for name in ("openmm", "openmmtorch", "torch")}
    print(json.dumps({"rows": rows, "versions": versions}))


def measured(structure: Any, model: Path, portable: Path | None, tiny: bool) -> list[dict[str, Any]]:
    """Times of a step in turns, so that a busy moment of the machine does not hit one side alone."""
    sides: dict[str, Callable[[int], float]] = {
        "bare engine": engine_calls(structure, model),
        "OpenMM without forces": openmm_steps(structure, None, False),
        "TorchForce, forces by the model": openmm_steps(structure, model, True),
        "TorchForce, forces by autograd": openmm_steps(structure, model, False),
    }
    if portable is not None:
        sides["TorchForce, portable, forces by the model"] = openmm_steps(structure, portable, True)
        sides["TorchForce, portable, forces by autograd"] = openmm_steps(structure, portable, False)
    once = {side: run(1) for side, run in sides.items()}
    # TorchScript specialises its code in the first two calls.
    once |= {side: run(WARM_UP_STEPS) for side, run in sides.items() if once[side] < SLOW_SECONDS}
    found: dict[str, list[float]] = {side: [] for side in sides}
    for block in range(2 if tiny else BLOCKS):
        for side, run in sides.items():
            if once[side] < SLOW_SECONDS:
                found[side].append(run(2 if tiny else max(2, round(BLOCK_SECONDS / once[side]))))
            elif block < 2:
                found[side].append(run(1))
    best = {side: 1e6 * min(times) for side, times in found.items()}
    return [
        {
            "atoms": len(structure["numbers"]),
            "side": side,
            "time (µs/step)": round(time_of_side, 1),
            "beyond the engine (µs/step)": round(time_of_side - best["bare engine"], 1),
            "against the engine": f"{time_of_side / best['bare engine']:.2f}×",
        }
        for side, time_of_side in best.items()
    ]


def engine_calls(structure: Any, model: Path) -> Callable[[int], float]:
    """Seconds of a call for energy and forces; Python's part of it is two microseconds."""
    engine = Engine(model, threads=1)
    species, periodic = engine.species_of(structure["numbers"]), bool(structure["cell"].any())
    positions, cell = structure["positions"], structure["cell"] if periodic else None

    def run(calls: int) -> float:
        begin = time.perf_counter()
        for _ in range(calls):
            engine.compute(species, positions, cell, (periodic,) * 3)
        return (time.perf_counter() - begin) / calls

    return run


def openmm_steps(structure: Any, model: Path | None, forces: bool) -> Callable[[int], float]:
    """Seconds of a step of Verlet, so short that the list of neighbours stays as it is."""
    system = openmm.System()
    for _ in structure["numbers"]:
        system.addParticle(MASS)
    periodic = bool(structure["cell"].any())
    if periodic:
        system.setDefaultPeriodicBoxVectors(*structure["cell"] / 10.0)
    if model is not None:
        numbers = structure["numbers"].tolist()
        system.addForce(torch_force(model, numbers, periodic=periodic, forces=forces, threads=1))
    platform = openmm.Platform.getPlatformByName(PLATFORM)
    integrator = openmm.VerletIntegrator(1e-6)
    context = openmm.Context(system, integrator, platform, {"Threads": "1"})
    context.setPositions(structure["positions"] / 10.0)

    def run(steps: int) -> float:
        begin = time.perf_counter()
        integrator.step(steps)
        seconds = (time.perf_counter() - begin) / steps
        assert context.getStepCount() > 0
        return seconds

    return run


if __name__ == "__main__":
    main()
