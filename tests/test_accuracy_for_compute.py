"""The benchmark that trains several networks for the same compute, on made-up molecules."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import ase
import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.lj import LennardJones
from torch import Tensor

from conftest import RandomAtoms
from symmd_md import kernels, operators
from symmd_md.data import build_graph, collate
from symmd_md.data.frame import checked_frame
from symmd_md.model import AtomBatch, ModelConfig, ModelStatistics, SymmdNetwork

FOLDER = Path(__file__).parents[1] / "benchmarks" / "accuracy"
SPECIES = ("H", "C", "N", "O")


def load(name: str) -> ModuleType:
    """A benchmark's script as a module."""
    if not FOLDER.exists():
        pytest.skip("benchmarks are not part of a source distribution")
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name, and the scripts import each other.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def labelled(random_molecule: RandomAtoms) -> list[ase.Atoms]:
    """Molecules of one composition with Lennard-Jones labels."""
    frames = []
    for _ in range(7):
        atoms = random_molecule(atoms=4, elements=("H",), least=1.2)
        atoms.symbols = "HCNO"
        atoms.calc = LennardJones(sigma=1.2, epsilon=0.1)
        atoms.get_forces()
        frames.append(atoms)
    return frames


@pytest.fixture
def folder(labelled: list[ase.Atoms], tmp_path: Path) -> Path:
    """The files that ``peers.write_files`` would make, with other frames."""
    parts = {"train": labelled[:5], "valid": labelled[5:]}
    for name in ("train", "valid", "test_300K", "test_600K", "test_1200K"):
        ase.io.write(tmp_path / f"{name}.xyz", parts.get(name, labelled[5:]), format="extxyz")
    return tmp_path


def test_both_networks_are_trained_tested_and_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not kernels.available():
        pytest.skip(f"needs the compiled operators: {operators.reason_not_loaded()}")
    own, report = load("own_training"), load("peers_report")
    for name in ("ours", "equiformer"):
        model = own.OWN_MODELS[name]
        (folder / name).mkdir()
        own.write_result(own.train(model, folder, max_epochs=2), folder / name / "result.json")
    results = report.read_results(folder)
    monkeypatch.setattr(report.record, "RESULTS", folder)
    assert results["ours"]["steps"] == results["equiformer"]["steps"] == 2
    rows = report.schema_rows(results)
    assert [(row["model"], row["test"]) for row in rows] == [
        (model, test) for model in ("SymMD", "Equiformer") for test in ("1200K", "300K", "600K")
    ]
    valid = results["equiformer"]["curve"][results["equiformer"]["best_epoch"] - 1]
    # The test frames are those of validation here.
    assert rows[-1]["force_rmse"] == pytest.approx(valid["valid_force_rmse"], abs=0.02)
    assert rows[-1]["training_flops"] == pytest.approx(
        2 * results["equiformer"]["flops_per_training_step"], rel=1e-3
    )
    operations = report.operation_rows(results["ours"], results["equiformer"])
    numbers = [float(row["energy and forces (MFLOP per atom)"]) for row in operations]
    plain, without_zeros, equations, other, without_radial = numbers
    assert plain > without_zeros > equations > 0
    assert other > without_radial > 0
    report.draw(results, folder / "curve.png")
    assert (folder / "curve.png").stat().st_size > 1000


def test_operations_until_the_same_error() -> None:
    report = load("peers_report")

    def run(model: str, per_step: float, *errors: float) -> dict[str, Any]:
        curve = [
            {"cpu_minutes": 1.0 + i, "step": 100 * (1 + i), "valid_force_rmse": error}
            for i, error in enumerate(errors)
        ]
        parts = ("", "_without_zeros", "_without_radial")
        counted = {f"flops_per_training_step{part}": per_step / 2 ** bool(part) for part in parts}
        return {"model": model, "curve": curve, **counted}

    rows = report.comparison_rows(run("A", 1e9, 120.0, 60.0), run("B", 3e9, 140.0, 95.0, 96.0))
    found = {
        row["validation force RMSE (meV/Å)"]: (row["A (steps)"], row["B (steps)"], row["operations (×)"])
        for row in rows
    }
    assert found == {
        "150": (100, 100, "3.00"),
        "100": (200, 200, "3.00"),
        "95.0, the best of the B": (200, 200, "3.00"),
    }


def test_the_loop_for_packages_keeps_the_best_weights(labelled: list[ase.Atoms]) -> None:
    sys.path.insert(0, str(FOLDER))
    models, training = load("package_models"), load("package_training")
    torch.manual_seed(0)
    energies = models.least_squares_energies(labelled)
    network = SymmdNetwork(
        ModelConfig(species=SPECIES, channels=16, layers=1, heads=4),
        ModelStatistics(dict(zip(SPECIES, energies, strict=True)), models.root_mean_square_force(labelled)),
    )

    def graph(atoms: ase.Atoms) -> AtomBatch:
        frame = checked_frame(
            numbers=atoms.numbers,
            positions=atoms.positions,
            cell=np.zeros((3, 3)),
            pbc=np.zeros(3, dtype=bool),
            source="test",
            energy=atoms.get_potential_energy(),
            forces=atoms.get_forces(),
        )
        return build_graph(frame, SPECIES, 5.0)

    def off(graphs: list[AtomBatch]) -> tuple[Tensor, Tensor]:
        batch = collate(graphs).to(dtype=torch.float32)
        found = network(batch, forces=True, create_graph=True)
        return (found.energy - batch.energy) / batch.atoms_per_structure, found.forces - batch.forces

    model = models.PackageModel(
        name="test",
        package="symmd-md",
        settings="",
        module=network,
        optimiser=torch.optim.Adam(network.parameters(), lr=0.003),
        ema_decay=0.9,
        gradient_norm=10.0,
        energy_weight=1.0,
        forces_weight=1.0,
        graph=graph,
        loss=lambda graphs: sum(part.square().mean() for part in off(graphs)),
        errors=lambda graphs: tuple(part.detach() for part in off(graphs)),
    )
    sets = {"train": [graph(atoms) for atoms in labelled[:4]], "valid": [graph(a) for a in labelled[4:]]}
    result = training.train(model, sets, minutes=0.01)
    assert result["curve"][-1]["step"] == result["steps"] >= 1
    best = result["curve"][result["best_epoch"] - 1]
    found = training.errors(model, sets["valid"])
    assert found["force_rmse"] == pytest.approx(best["valid_force_rmse"], abs=0.01)
    assert json.dumps(result)
