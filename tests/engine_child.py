"""Computes structures in a process of its own: ``python engine_child.py FOLDER`` prints results as JSON.

The instruction set is chosen once for a process. FOLDER has ``structures.npz`` and the models named in it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from symmd_md import _engine


def main(folder: Path) -> None:
    """Every model in both precisions on every structure, in one thread."""
    content = np.load(folder / "structures.npz")
    results = {}
    for model in content["models"]:
        for precision in ("float32", "float64"):
            engine = _engine.Engine(folder / str(model), precision=precision, threads=1)
            for name in content["names"]:
                numbers, positions, cell, pbc = (
                    content[f"{name}.{part}"] for part in ("numbers", "positions", "cell", "pbc")
                )
                found = engine.compute(
                    engine.species_of(numbers), positions, cell, pbc.tolist(), virial=True, atom_virial=True
                )
                results[f"{precision} {model} {name}"] = {
                    key: np.asarray(value).tolist() for key, value in found.items()
                }
    print(json.dumps({"instruction_set": _engine.Engine.instruction_set, "results": results}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
