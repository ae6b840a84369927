"""Seconds to the first forces in a process without torch: ``fresh_process.py MODEL STRUCTURE.npz``."""

from __future__ import annotations

import json
import sys
import time


def main() -> None:
    """Print seconds of the import, of loading the model, and of the first step."""
    started = time.perf_counter()
    import numpy as np

    from symmd_md._engine import Engine

    imported = time.perf_counter()
    engine = Engine(sys.argv[1], threads=1)
    loaded = time.perf_counter()
    with np.load(sys.argv[2]) as file:
        atoms = dict(file)
    before = time.perf_counter()
    engine.compute(atoms["species"], atoms["positions"], atoms["cell"], (True, True, True))
    first = time.perf_counter() - before
    assert "torch" not in sys.modules
    print(json.dumps({"import": imported - started, "load": loaded - imported, "first": first}))


if __name__ == "__main__":
    main()
