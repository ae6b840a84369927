"""Small labelled structures from an analytic pair potential, and small runs on them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

import symmd_md
from symmd_md.train import RunConfig, run_config
from symmd_md.train.checkpoint import read_checkpoint
from symmd_md.train.logs import COLUMNS, read_log

STIFFNESS, DISTANCE = 1.5, 1.6


def pair_energy_and_forces(positions: np.ndarray) -> tuple[float, np.ndarray]:
    """Springs between all atoms of an open structure: energy (eV) and forces (eV/Å)."""
    difference = positions[:, None] - positions[None]
    distance = np.linalg.norm(difference, axis=-1)
    first, second = np.triu_indices(len(positions), 1)
    stretch = distance[first, second] - DISTANCE
    forces = np.zeros_like(positions)
    pull = 2 * STIFFNESS * (stretch / distance[first, second])[:, None] * difference[first, second]
    np.add.at(forces, first, -pull)
    np.add.at(forces, second, pull)
    return float(STIFFNESS * (stretch**2).sum()), forces


def make_frames(count: int = 10, seed: int = 0, offset: float = -1000.0) -> list[Atoms]:
    """Molecules of three atoms, with energy (eV, a large offset included) and forces (eV/Å)."""
    generator = np.random.default_rng(seed)
    corners = np.array([[0.0, 0.0, 0.0], [1.4, 0.0, 0.0], [0.0, 1.4, 0.0]])
    frames = []
    for index in range(count):
        positions = corners + 0.15 * generator.normal(size=(3, 3))
        energy, forces = pair_energy_and_forces(positions)
        atoms = Atoms("OHH" if index % 2 else "OHC", positions=positions)
        atoms.calc = SinglePointCalculator(atoms, energy=energy + offset, forces=forces)
        frames.append(atoms)
    return frames


def write_frames(path: Path, frames: list[Atoms]) -> Path:
    """Write extended XYZ and return its path."""
    ase.io.write(path, frames, format="extxyz")
    return path


def run_mapping(data: Path, **training: Any) -> dict[str, Any]:
    """The mapping of a small run on the file ``data``: one layer, 16 channels, fp64, one thread."""
    settings = {
        "max_epochs": 4,
        "batch_size": 3,
        "warmup_steps": 4,
        "precision": "float64",
        "threads": 1,
        "device": "cpu",
        "kernels": "plain",
        "tensorboard": False,
    }
    return {
        "data": {"train": str(data), "train_size": 7, "valid_size": 3, "seed": 1},
        "model": {
            "channels": 16,
            "heads": 2,
            "layers": 1,
            "max_degree": 1,
            "hidden_degree": 0,
            "body_order": 2,
            "cutoff": 4.0,
            "radial_hidden": [8],
            "radial_knots": 32,
            "readout_hidden": 8,
        },
        "training": {**settings, **training},
    }


def small_run(data: Path, **training: Any) -> RunConfig:
    """A small run on the file ``data``."""
    return run_config(run_mapping(data, **training))


def child_environment(**more: str) -> dict[str, str]:
    """The environment of a child process that finds this package and uses one thread."""
    package = str(Path(symmd_md.__file__).resolve().parents[1])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def symmd_command(*arguments: str) -> list[str]:
    """The command line of ``symmd`` in a child process."""
    return [sys.executable, "-m", "symmd_md", *arguments]


def assert_same_run(first: Path, second: Path) -> None:
    """Both folders hold the same run bit for bit: every tensor, every counter, every logged number."""
    one, two = (read_checkpoint(folder / "last.ckpt") for folder in (first, second))
    for content in (one, two):
        content["state"].pop("minutes")
        content.pop("provenance")
    assert_same(one["averaged"], two["averaged"])
    assert_same(one["state"], two["state"])
    assert_same(
        read_checkpoint(first / "best.ckpt")["averaged"], read_checkpoint(second / "best.ckpt")["averaged"]
    )
    rows, others = read_log(first / "log.csv"), read_log(second / "log.csv")
    assert len(rows) == len(others) > 0
    for row, other in zip(rows, others, strict=True):
        for column in COLUMNS:
            if column != "minutes":
                np.testing.assert_array_equal(row[column], other[column], err_msg=column)


def assert_same(one: Any, two: Any) -> None:
    """Nested tensors and values are equal bit for bit."""
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_same(one[key], two[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two)
        for item, other in zip(one, two, strict=True):
            assert_same(item, other)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, two)
    else:
        assert one == two
