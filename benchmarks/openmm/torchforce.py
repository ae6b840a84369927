"""What TorchForce costs beside the bare engine; writes benchmarks/results/openmm_torchforce.json.

    python benchmarks/openmm/torchforce.py --model MODEL [--portable MODEL_portable.pt]

22, 648 and 1536 atoms, in the environment that ``make test-torchforce`` makes (``--python`` names another
one). ``--tiny`` makes it a few steps long, to see that everything works.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from record import ROOT, write_result

from symmd_md._engine import Engine
from symmd_md.analysis.bench_structures import species_of, structure_of

ATOMS = (22, 648, 1536)
STEPS = Path(__file__).with_name("torchforce_steps.py")
"""Runs in the other environment."""


def main() -> None:
    """Read the command line, measure in the other environment, and write what it found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--portable", type=Path)
    parser.add_argument("--python", type=Path, default=ROOT / ".venv-torchforce" / "bin" / "python")
    arguments = parser.parse_args()
    rows, versions = measured(arguments.python, arguments.model, arguments.portable, arguments.tiny)
    title = (
        f"A step of OpenMM {versions['openmm']} with TorchForce of openmmtorch {versions['openmmtorch']} and "
        f"torch {versions['torch']} beside the bare engine in the same process, one thread, fastest of each"
    )
    print(json.dumps(rows, indent=2, ensure_ascii=False))
    if not arguments.tiny:
        command = "python benchmarks/openmm/torchforce.py"
        print(write_result("openmm_torchforce", title, command, rows))


def measured(
    python: Path, model: Path, portable: Path | None, tiny: bool
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows, and the versions of that environment's packages."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for atoms in ATOMS[:1] if tiny else ATOMS:
            files.append(str(Path(folder) / f"{atoms}.npz"))
            write_structure(model, atoms, files[-1])
        command = [str(python), str(STEPS), "--model", str(model.resolve()), *files]
        command += ["--portable", str(portable.resolve())] if portable is not None else []
        command += ["--tiny"] if tiny else []
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder)
    if done.returncode != 0:
        sys.exit(f"{python} {STEPS.name} ended with status {done.returncode}")
    found = json.loads(done.stdout.splitlines()[-1])
    return found["rows"], found["versions"]


def write_structure(model: Path, atoms: int, path: str) -> None:
    """That of ``symmd bench``; another element stands for one that the model does not know."""
    structure = structure_of(atoms)
    engine = Engine(model, threads=1)
    known = np.array(engine.model["atomic_numbers"])
    species, _ = species_of(structure, engine.model["species"])
    cell = structure.cell if structure.cell is not None else np.zeros((3, 3))
    np.savez(path, numbers=known[species], positions=structure.positions, cell=cell)


if __name__ == "__main__":
    main()
