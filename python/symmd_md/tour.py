"""``symmd tour``: make reference data, train a small potential on them, and show how good it became.

The reference is ASE's effective-medium potential (EMT) of copper and gold, which needs no files and labels a
structure in milliseconds. Whatever else is done here is done by the functions behind the other commands.
"""

from __future__ import annotations

import io
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin
from rich.console import Console
from rich.table import Table

from symmd_md.analysis.errors import Evaluation
from symmd_md.analysis.report import evaluate_checkpoint, write_report
from symmd_md.errors import ConfigurationError
from symmd_md.files import write_atomically
from symmd_md.train import read_run_config, train
from symmd_md.train.progress import counting_bar

LATTICE_CONSTANTS = {"Cu": 3.61, "Au": 4.08}
"""Of the pure metals (Å); an alloy takes the mean by composition."""

HEADER = "# The run of symmd tour."
"""First line of the configuration, by which a later tour knows the folder as its own."""

CONFIGURATION = (
    HEADER
    + """
# Edit it and train again with: symmd train {path} -o FOLDER
# Lengths in Å, energies in eV. Keys that are left out have their defaults.

data:
  train: {train}
  valid_size: {valid_size}         # frames kept out of the training to choose the best weights
  seed: 0                # of the split
  reference_energies: least_squares  # energy of each free atom, here fitted to the training set

model:
  cutoff: 5.0            # atoms closer than this exchange messages in each layer
  layers: 2              # messages reach layers × cutoff far
  channels: {channels}           # width of the network, a multiple of 16
  heads: 4               # of the attention; divides the channels
  max_degree: 2          # highest degree of the harmonics; 0 gives an invariant network
  hidden_degree: 1       # highest degree of the features between layers
  body_order: 3          # powers of the summed messages: 1 (off), 2 or 3
  aggregation: attention # or convolution

training:
  max_epochs: {epochs}
  batch_size: 5          # structures in a step
  learning_rate: 0.01    # rises over warmup_steps, then falls along a cosine
  warmup_steps: 50
  energy_weight: 1.0     # of squared errors in (eV/atom)²,
  forces_weight: 1.0     # (eV/Å)²
  stress_weight: 100.0   # and (eV/Å³)²
  precision: float32
  seed: 0                # of the first weights and of the order of the structures
"""
)


@dataclass(frozen=True)
class TourSize:
    """How much work the tour is."""

    train_alloys: int = 30
    """Alloys (one cell and one trajectory each) that the training and validation frames come from."""
    test_alloys: int = 10
    """Alloys that only the held-out frames come from."""
    frames_per_alloy: int = 6
    repeats: int = 2
    """Cubic cells of four atoms along each axis."""
    epochs: int = 40
    channels: int = 16


def make_alloy(generator: np.random.Generator, repeats: int) -> Atoms:
    """Face-centred cubic Cu–Au with random composition, occupation and strain (up to 3 %), periodic."""
    gold = generator.uniform(0.2, 0.8)
    constant = (1.0 - gold) * LATTICE_CONSTANTS["Cu"] + gold * LATTICE_CONSTANTS["Au"]
    alloy = bulk("Cu", "fcc", a=constant, cubic=True) * (repeats, repeats, repeats)
    alloy.symbols[generator.random(len(alloy)) < gold] = "Au"
    strain = generator.uniform(-0.03, 0.03, size=(3, 3))
    alloy.set_cell(alloy.cell.array @ (np.eye(3) + 0.5 * (strain + strain.T)), scale_atoms=True)
    return alloy


def sample_alloy(generator: np.random.Generator, repeats: int, frames: int) -> list[Atoms]:
    """Frames of one alloy from Langevin dynamics at a random temperature; EMT labels (eV, eV/Å, eV/Å³)."""
    alloy = make_alloy(generator, repeats)
    alloy.calc = EMT()
    temperature = generator.uniform(300.0, 1200.0)
    dynamics = Langevin(
        alloy, 5.0 * units.fs, temperature_K=temperature, friction=0.02 / units.fs, fixcm=False, rng=generator
    )
    dynamics.run(60)  # six relaxation times of the thermostat bring the resting crystal to its temperature
    labelled = []
    for _ in range(frames):
        dynamics.run(12)
        frame = Atoms(alloy.numbers, positions=alloy.positions, cell=alloy.cell, pbc=True)
        frame.calc = SinglePointCalculator(
            frame,
            energy=alloy.get_potential_energy(),
            forces=alloy.get_forces(),
            stress=alloy.get_stress(),
        )
        labelled.append(frame)
    return labelled


def write_frames(frames: list[Atoms], path: Path) -> None:
    """Write labelled frames as extended XYZ."""
    text = io.StringIO()
    ase.io.write(text, frames, format="extxyz")
    write_atomically(path, text.getvalue().encode("utf-8"))


def write_configuration(path: Path, train_frames: Path, size: TourSize) -> None:
    """Write the commented configuration that the tour trains with."""
    text = CONFIGURATION.format(
        path=path,
        train=json.dumps(str(train_frames)),
        valid_size=max(1, size.train_alloys * size.frames_per_alloy // 9),
        channels=size.channels,
        epochs=size.epochs,
    )
    write_atomically(path, text.encode("utf-8"))


def result_table(evaluation: Evaluation) -> Table:
    """Errors on the held-out frames beside the spread of their labels about the mean."""
    table = Table(title=f"{evaluation.structures} held-out structures of alloys unseen in training")
    table.add_column("quantity")
    for name in ("MAE", "RMSE", "spread of labels"):
        table.add_column(name, justify="right")
    table.add_column("unit")
    for name, pairs, unit in (
        ("energy", evaluation.energy_per_atom, "meV/atom"),
        ("forces", evaluation.forces, "meV/Å"),
        ("stress", evaluation.stress, "meV/Å³"),
    ):
        spread = 1e3 * float(pairs.label.std())
        table.add_row(name, f"{pairs.mae:.2f}", f"{pairs.rmse:.2f}", f"{spread:.1f}", unit)
    return table


def _start_afresh(output: Path) -> None:
    """Remove what an earlier tour trained here; anything else in its place is refused."""
    run, configuration = output / "run", output / "config.yaml"
    if not run.exists():
        return
    own = configuration.is_file() and configuration.read_text(encoding="utf-8").startswith(HEADER)
    if not own:
        raise ConfigurationError(
            f"{run} exists but was not made by symmd tour; choose another folder with -o FOLDER"
        )
    shutil.rmtree(run)


def run_tour(output: Path, size: TourSize | None = None) -> Evaluation:
    """Make data, train, test on held-out alloys; print errors (meV/atom, meV/Å, meV/Å³) and what was written.

    ``output`` then holds data/, config.yaml, run/ (checkpoints, logs, learning curve) and test/ (errors,
    parity plot). An earlier tour in the same folder is replaced. Returns the held-out errors.
    """
    size = size or TourSize()
    output = Path(output)
    console = Console()
    started = time.monotonic()
    _start_afresh(output)

    generator = np.random.default_rng(0)
    sets: dict[str, Path] = {}
    for name, alloys in (("train", size.train_alloys), ("test", size.test_alloys)):
        frames: list[Atoms] = []
        with counting_bar(f"making {name} data", console) as bar:
            for _ in bar.track(range(alloys)):
                frames += sample_alloy(generator, size.repeats, size.frames_per_alloy)
        print(f"{name} data: {len(frames)} structures of {alloys} Cu–Au alloys, labelled by EMT")
        sets[name] = output / "data" / f"{name}.xyz"
        write_frames(frames, sets[name])

    configuration = output / "config.yaml"
    write_configuration(configuration, sets["train"], size)
    train(read_run_config(configuration), output / "run")
    model = output / "run" / "best.ckpt"
    evaluation = evaluate_checkpoint(model, sets["test"])
    written = write_report(evaluation, model, sets["test"], output / "test")

    console.print(result_table(evaluation))
    print(f"learning curve: {output / 'run' / 'learning_curve.png'}")
    print(f"errors, and labels against predictions: {', '.join(str(path) for path in written)}")
    print(f"configuration to edit and train again: {configuration}")
    print(f"done in {(time.monotonic() - started) / 60:.1f} minutes")
    return evaluation
