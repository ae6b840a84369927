"""Memory that the engine needs for a number of atoms, on the CPU and on a GPU (``symmd info --atoms``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from symmd_md._engine import Engine, device_memory_plan
from symmd_md.errors import EngineError

SKIN = 1.0
"""Å by which lists are longer than the cutoff, the engine's default."""
SAMPLES = (512, 1000)
"""Atoms of the crystals from which the memory of the CPU's engine is extrapolated, cubes of whole numbers."""
JITTER = 0.1
"""Of the spacing of a crystal: how far its atoms are out of place, so that the rows of its list differ."""


def memory_settings(path: Path, atoms: int, neighbours: float, device: str | None) -> dict[str, str]:
    """What is known of the memory for ``atoms`` with so many ``neighbours`` within the cutoff, by name."""
    found = {"CPU": f"about {_size(engine_bytes(path, atoms, neighbours))}"}
    cutoff = Engine(path).model["cutoff"]
    listed = neighbours * ((cutoff + SKIN) / cutoff) ** 3
    try:
        plan = device_memory_plan(path, atoms, listed, skin=SKIN, device=device or "")
    except EngineError as error:
        return found | {"GPU": f"not known: {error}"}
    whole, chunks, free = plan["whole_bytes"], plan["chunk_bytes"], plan["free_bytes"]
    found |= {"GPU, whole step": _size(whole), "GPU, smallest chunks": _size(chunks)}
    if device is not None:
        fits = "yes" if whole <= free else "in chunks" if chunks <= free else "no"
        found |= {
            f"{device}, {plan['device']}": f"{_size(free)} free of {_size(plan['total_bytes'])}",
            "fits": fits,
        }
    return found


def engine_bytes(path: Path, atoms: int, neighbours: float) -> float:
    """Bytes of the engine on the CPU, whose memory is linear in the atoms: from crystals that it computes."""
    used = []
    for count in SAMPLES:
        engine = Engine(path, threads=1, skin=SKIN)
        positions, cell = _crystal(count, neighbours, engine.model["cutoff"])
        engine.compute(np.zeros(count, dtype=np.int32), positions, cell, [True] * 3)
        used.append(engine.memory_bytes)
    slope = (used[1] - used[0]) / (SAMPLES[1] - SAMPLES[0])
    return max(0.0, float(used[1] + slope * (atoms - SAMPLES[1])))


def _crystal(count: int, neighbours: float, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions [count, 3] and a cubic cell, Å, with so many neighbours of an atom on average."""
    density = max(neighbours, 1.0) / (4.0 / 3.0 * np.pi * cutoff**3)
    spacing = density ** (-1.0 / 3.0)
    size = round(count ** (1.0 / 3.0))
    sites = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), -1).reshape(-1, 3)
    moved = sites + np.random.default_rng(0).uniform(-JITTER, JITTER, sites.shape)
    return moved * spacing, np.eye(3) * size * spacing


def _size(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"
