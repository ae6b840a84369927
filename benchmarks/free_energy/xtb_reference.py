"""The free-energy surface of GFN2-xTB itself, from frames of a biased run with the model.

``python benchmarks/free_energy/xtb_reference.py surface RUN -o FOLDER`` takes trajectory.xyz and HILLS of a
well-tempered metadynamics on (φ, ψ) (``symmd demo --long -o RUN``), computes frames spread over it with
GFN2-xTB, and gives every frame the weight exp((V − (E_xTB − E_model)) / kT), V being the bias at the end of
the run. As the frames come from the model's dynamics this is exact where the model visits what GFN2-xTB
would; the number of effective frames and the spread of E_xTB − E_model say how well that holds. Errors from
blocks are too small, by up to a half: the bias at the end is made of all blocks and hides what they differ in
(docs/free_energy.md). The difference of the two surfaces has the bias in common and knows no such error.
Frames that are computed lie in FOLDER, and an interrupted call is continued by the same call.

``python benchmarks/free_energy/xtb_reference.py speed`` measures steps per second of dynamics with GFN2-xTB
and with the model, both through ASE.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.md.langevin import Langevin
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import record

from symmd_md.analysis.bench_structures import alanine_dipeptide
from symmd_md.data import iterate_frames
from symmd_md.engines.ase import SymmdCalculator
from symmd_md.errors import DataError
from symmd_md.files import write_atomically
from symmd_md.sample.frames import Conformation, frame_text, iterate_conformations
from symmd_md.sample.labels import label
from symmd_md.sample.methods import Method
from symmd_md.sample.restraint import dihedral_angle
from symmd_md.train.progress import counting_bar

FloatArray = NDArray[np.float64]

PHI, PSI = (1, 3, 4, 5), (3, 4, 5, 7)
METHOD = Method("GFN2-xTB")
KJ_PER_MOL = units.kJ / units.mol
"""eV in a kJ/mol."""
SAME_ENERGY = 0.5
"""eV: frames of another molecule or a damaged file differ by more from the model, the mean taken off."""


@dataclass(frozen=True)
class Reference:
    """Frames of a biased run with both energies."""

    angles: FloatArray
    """[frames, 2] φ and ψ (rad)."""
    model: FloatArray
    """[frames] eV."""
    xtb: FloatArray
    """[frames] eV."""

    @property
    def difference(self) -> FloatArray:
        """[frames] E_xTB − E_model less its mean (kJ/mol)."""
        apart = self.xtb - self.model
        return (apart - apart.mean()) / KJ_PER_MOL


def spread(path: Path, count: int, skip: float) -> tuple[list[Conformation], int]:
    """``count`` frames in equal steps over a trajectory after its first part ``skip``; how many it has."""
    frames = list(iterate_conformations(path))
    begin = math.floor(skip * len(frames))
    if len(frames) - begin < count:
        raise DataError(
            f"{path}: expected {count} frames after the first {100 * skip:g} %, found {len(frames) - begin}; "
            "ask for fewer --frames or make a longer run"
        )
    chosen = np.linspace(begin, len(frames) - 1, count).round().astype(int)
    return [frames[index] for index in chosen.tolist()], len(frames)


def labelled(
    frames: list[Conformation], folder: Path, processes: int
) -> tuple[list[Conformation], FloatArray]:
    """The frames that GFN2-xTB converged for, with its energies (eV); goes on where another call ended."""
    text = "".join(
        frame_text(frame.numbers, frame.positions, {"frame": index}) for index, frame in enumerate(frames)
    )
    chosen, output = folder / "frames.xyz", folder / "xtb.xyz"
    write_atomically(chosen, text.encode("utf-8"))
    with counting_bar("frames with GFN2-xTB") as bar:
        task = bar.add_task("frames", total=len(frames))
        summary = label(chosen, output, METHOD, processes, lambda done: bar.update(task, completed=done))
    for sentence in summary.failures:
        print(f"skipped: {sentence}")
    kept = [int(conformation.notes["source_frame"]) for conformation in iterate_conformations(output)]
    energies = np.array([frame.energy for frame in iterate_frames(output)], dtype=np.float64)
    return [frames[index] for index in kept], energies


def reference_of(frames: list[Conformation], xtb: FloatArray, model: str) -> Reference:
    """Angles and the model's energies of frames whose GFN2-xTB energies [frames] (eV) are known."""
    calculator = SymmdCalculator(model, precision="float64", threads=1)
    angles, energies = [], []
    for frame in frames:
        angles.append([np.radians(dihedral_angle(frame.positions, atoms)) for atoms in (PHI, PSI)])
        energies.append(calculator.get_potential_energy(frame.atoms()))
    reference = Reference(np.array(angles), np.array(energies), xtb)
    worst = np.abs(reference.difference).max() * KJ_PER_MOL
    if worst > SAME_ENERGY:
        raise DataError(
            f"expected frames that the model knows, found one where it is {worst:.2f} eV from GFN2-xTB; "
            "is the trajectory of this molecule and model?"
        )
    return reference


def surfaces(
    reference: Reference, bias: FloatArray, temperature: float, bins: int, blocks: int, width: float
) -> dict[str, Any]:
    """Both surfaces on one grid with errors from blocks, and how far apart they are below 20 kJ/mol.

    ``bias`` [frames] in kJ/mol at the end of the run; ``width``: of the window around each point (rad).
    """
    from symmd_md.free_energy import Axis, compare, gather, thermal_energy

    thermal = thermal_energy(temperature)
    axes = tuple(Axis(name, -math.pi, math.pi, bins, True) for name in ("phi", "psi"))
    found = {}
    for name, energy in (("model", np.zeros(len(bias))), ("GFN2-xTB", reference.difference)):
        weights = (bias - energy) / thermal
        gathered = gather(reference.angles, weights, axes, temperature, blocks)
        found[name] = gathered.smoothed((width, width))
    model, xtb = found["model"].surface(), found["GFN2-xTB"].surface()
    # The weights of the model alone against those of both: what the step from one to the other costs.
    ratio = np.exp(-(reference.difference - reference.difference.min()) / thermal)
    return {
        "comparison": compare(xtb, model, 20.0),
        "model": model.at_zero(),
        "GFN2-xTB": xtb.at_zero(),
        "effective": {name: blocks_of.effective_samples for name, blocks_of in found.items()},
        "effective of the step": float(ratio.sum() ** 2 / np.square(ratio).sum()),
    }


def row_of(
    reference: Reference, found: dict[str, Any], temperature: float, model: str, all_frames: int
) -> dict[str, Any]:
    """The line of the result."""
    comparison = found["comparison"]
    region = np.isfinite(comparison.difference)
    error = found["GFN2-xTB"].error
    largest, (phi, psi) = comparison.largest
    return {
        "model": model,
        "temperature (K)": temperature,
        "frames of the run": all_frames,
        "frames with GFN2-xTB": len(reference.xtb),
        "effective frames, model": round(found["effective"]["model"]),
        "effective frames, GFN2-xTB": round(found["effective"]["GFN2-xTB"]),
        "effective share of the step between them": round(
            found["effective of the step"] / len(reference.xtb), 3
        ),
        "spread of E(xTB) − E(model) (meV/atom)": round(
            float(reference.difference.std()) * KJ_PER_MOL * 1e3 / 22, 3
        ),
        "RMS difference below 20 kJ/mol (kJ/mol)": round(comparison.rms, 3),
        "largest difference (kJ/mol)": round(largest, 2),
        "at (φ, ψ) (°)": f"({np.degrees(phi):.0f}, {np.degrees(psi):.0f})",
        "points of the grid compared": comparison.points,
        "median error of a point, GFN2-xTB (kJ/mol)": round(float(np.nanmedian(error[region])), 3),
    }


def run_surface(arguments: argparse.Namespace) -> None:
    """Compute frames, reweight, compare, and write everything."""
    from symmd_md.free_energy import bias_at, read_hills, write_surface
    from symmd_md.free_energy.plots import draw_comparison

    folder: Path = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    frames, all_frames = spread(arguments.run / "trajectory.xyz", arguments.frames, arguments.skip)
    kept, xtb = labelled(frames, folder, arguments.processes)
    reference = reference_of(kept, xtb, arguments.model)
    hills = read_hills([arguments.run / "HILLS"])
    bias = bias_at(hills, reference.angles)
    found = surfaces(
        reference, bias, arguments.temperature, arguments.bins, arguments.blocks, np.radians(arguments.width)
    )
    for name, file in (("model", "model.dat"), ("GFN2-xTB", "xtb.dat")):
        write_surface(found[name], folder / file)
    draw_comparison(found["comparison"], ("GFN2-xTB", arguments.model), folder / "comparison.png")
    row = row_of(reference, found, arguments.temperature, arguments.model, all_frames)
    title = "The surface of GFN2-xTB by reweighting, and the model's"
    command = "python benchmarks/free_energy/xtb_reference.py surface RUN -o FOLDER"
    write = folder if arguments.keep else record.RESULTS
    print(json.dumps(row, indent=2, ensure_ascii=False))
    print(record.write_result("free_energy_xtb", title, command, [row], write))


def run_speed(arguments: argparse.Namespace) -> None:
    """Steps per second of both, in turns."""
    structure = alanine_dipeptide()
    runs = {}
    methods: dict[str, Calculator] = {
        "GFN2-xTB (tblite)": METHOD.calculator(),
        f"{arguments.model} (engine)": SymmdCalculator(arguments.model, threads=1),
    }
    for name, calculator in methods.items():
        atoms = Atoms(numbers=structure.numbers, positions=structure.positions, calculator=calculator)
        generator = np.random.default_rng(0)
        dynamics = Langevin(
            atoms, 1.0 * units.fs, temperature_K=300, friction=0.01 / units.fs, fixcm=False, rng=generator
        )
        dynamics.run(arguments.steps // 10)
        runs[name] = dynamics
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(5):
        for name, dynamics in runs.items():
            began = time.perf_counter()
            dynamics.run(arguments.steps)
            rates[name].append(arguments.steps / (time.perf_counter() - began))
    rows = [
        {
            "forces from": name,
            "steps per second": round(float(np.median(found))),
            "ns/day at 1 fs": round(float(np.median(found)) * 86400e-6, 2),
        }
        for name, found in rates.items()
    ]
    title = "Langevin dynamics of alanine dipeptide through ASE, one thread"
    command = "OMP_NUM_THREADS=1 python benchmarks/free_energy/xtb_reference.py speed"
    print(json.dumps(rows, indent=2, ensure_ascii=False))
    if not arguments.keep:
        print(record.write_result("free_energy_xtb_speed", title, command, rows))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    surface = commands.add_parser("surface", help="the surface of GFN2-xTB beside the model's")
    surface.add_argument("run", type=Path, help="folder with trajectory.xyz and HILLS")
    surface.add_argument("-o", "--output", type=Path, required=True)
    surface.add_argument("--frames", type=int, default=10000)
    surface.add_argument(
        "--skip", type=float, default=0.2, help="first part of the run, while the bias grows"
    )
    surface.add_argument("--temperature", type=float, default=300.0, help="K, of the run")
    surface.add_argument("--bins", type=int, default=36, help="points of the grid along each angle")
    surface.add_argument("--width", type=float, default=30.0, help="window around a point (degrees)")
    surface.add_argument("--blocks", type=int, default=10)
    surface.add_argument("--processes", type=int, default=2)
    speed = commands.add_parser("speed", help="steps per second of GFN2-xTB and of the model")
    speed.add_argument("--steps", type=int, default=500, help="of each of five turns")
    for command in (surface, speed):
        command.add_argument("--model", default="ala2", help="model file or name")
        command.add_argument("--keep", action="store_true", help="leave benchmarks/results as it is (a try)")
    arguments = parser.parse_args()
    {"surface": run_surface, "speed": run_speed}[arguments.command](arguments)


if __name__ == "__main__":
    main()
