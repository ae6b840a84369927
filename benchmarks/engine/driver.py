"""The program engine_breakdown: building it, giving it structures, and reading what it counted."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from symmd_md.analysis.bench_structures import Structure, species_of

NAME = "engine_breakdown"
REGISTER_BYTES = {"zmm": 64, "ymm": 32, "xmm": 16}
ARITHMETIC = re.compile(r"^v?(add|sub|mul|div|sqrt)(ps|pd|ss|sd)$")
FUSED = re.compile(r"^vfn?m(add|sub)(132|213|231)(ps|pd|ss|sd)$")


@dataclass(frozen=True)
class Executed:
    """What one kernel executes."""

    instructions: float
    flops: float


def build(folder: Path) -> Path:
    """The program, made by the build in ``folder`` if it is older than its sources."""
    # cmake came with this Python's packages, which need not be on the path.
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    cmake = shutil.which("cmake", path=beside)
    if cmake is None or not (folder / "CMakeCache.txt").exists():
        raise SystemExit(f"expected cmake and a build of the project in {folder}; run 'make setup' first")
    subprocess.run([cmake, "--build", str(folder), "--target", NAME], check=True, stdout=subprocess.DEVNULL)
    return folder / "benchmarks" / "engine" / NAME


def write_structure(structure: Structure, species: Sequence[str], path: Path) -> None:
    """The file that the program reads (breakdown.cpp)."""
    kinds, _ = species_of(structure, species)
    periodic = structure.cell is not None
    cell = structure.cell if structure.cell is not None else np.zeros((3, 3))
    parts = (
        np.array([structure.atoms, periodic], dtype="<i8"),
        *(cell.astype("<f8"), structure.positions.astype("<f8"), kinds.astype("<i4")),
    )
    path.write_bytes(b"".join(part.tobytes() for part in parts))


def run(program: Path, model: Path, structure: Path, task: str) -> Any:
    """What the program prints; ``task``: a number of repeats, or ``instructions``."""
    printed = subprocess.run(
        [str(program), str(model), str(structure), task], check=True, stdout=subprocess.PIPE
    ).stdout
    return json.loads(printed)


def executed(program: Path, counted: Any) -> dict[str, Executed]:
    """By part, for each of its edges or, without edges, for each atom; empty if nothing was counted."""
    parts = {name: part for name, part in counted["parts"].items() if part["total"] > 0}
    objdump = shutil.which("objdump")
    if not parts or objdump is None:
        return {}
    used = [int(address, 16) for part in parts.values() for address in part["addresses"]]
    inside = [address for address in used if address < program.stat().st_size]
    listing = subprocess.run(
        [
            *(objdump, "-d", "--no-show-raw-insn", f"--start-address={min(inside)}"),
            *(f"--stop-address={max(inside) + 16}", str(program)),
        ],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    flops = {}
    for line in listing.splitlines():
        address, tab, instruction = line.partition(":\t")
        if tab:
            flops[address.strip()] = instruction_flops(instruction)
    result = {}
    for name, part in parts.items():
        each = part["edges"] or counted["atoms"]
        operations = sum(flops.get(address, 0) * count for address, count in part["addresses"].items())
        result[name] = Executed(part["total"] / each, operations / each)
    return result


def instruction_flops(instruction: str) -> int:
    """Floating-point operations of one x86 instruction, in all its lanes: a multiply-add is two."""
    mnemonic, _, operands = instruction.strip().partition(" ")
    fused, plain = FUSED.match(mnemonic), ARITHMETIC.match(mnemonic)
    found = fused or plain
    if found is None:
        return 0
    kind = found.groups()[-1]
    lanes = 1
    if kind[0] == "p":
        widest = max((size for name, size in REGISTER_BYTES.items() if f"%{name}" in operands), default=16)
        lanes = widest // (4 if kind == "ps" else 8)
    return lanes * (2 if fused else 1)
