"""Reweighting a model's frames to GFN2-xTB, where the answer is known. Angles in rad, energies in kJ/mol."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from ase import units

from symmd_md.errors import DataError
from symmd_md.sample.frames import frame_text

pytest.importorskip("symmd_md.free_energy", reason="symmd fes is not part of this build")

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "free_energy" / "xtb_reference.py"
KJ_PER_MOL = units.kJ / units.mol


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The benchmark as a module."""
    if not SCRIPT.exists():
        pytest.skip("benchmarks are not part of a source distribution")
    spec = importlib.util.spec_from_file_location("xtb_reference", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def model_energy(angles: np.ndarray) -> np.ndarray:
    return 8.0 * (1 - np.cos(angles[:, 0] - 1.0)) + 5.0 * (1 - np.cos(angles[:, 1]))


def difference(angles: np.ndarray) -> np.ndarray:
    return 1.5 * np.cos(angles[:, 1]) - 2.0 * np.sin(angles[:, 0])


def test_the_difference_of_the_surfaces_is_that_of_the_energies(script: ModuleType) -> None:
    # Frames spread evenly over the plane, as a filled well leaves them: the bias is minus the free energy.
    angles = np.random.default_rng(2).uniform(-np.pi, np.pi, size=(60_000, 2))
    reference = script.Reference(angles, np.zeros(len(angles)), difference(angles) * KJ_PER_MOL + 3.0)
    found = script.surfaces(
        reference, -model_energy(angles), 300.0, bins=24, blocks=5, width=np.radians(15.0)
    )
    comparison = found["comparison"]
    mesh = np.stack(
        np.meshgrid(*(axis.points for axis in comparison.first.axes), indexing="ij"), axis=-1
    ).reshape(-1, 2)
    shape = comparison.difference.shape
    region = np.isfinite(comparison.difference)
    exact = (model_energy(mesh) + difference(mesh)).reshape(shape)[region]
    apart = comparison.first.energy[region] - exact
    # 104 frames in a cell of 15°: a tenth of kT, and the blocks must say so.
    assert apart.std() == pytest.approx(0.26, abs=0.04)
    assert np.nanmedian(found["GFN2-xTB"].error[region]) == pytest.approx(apart.std(), rel=0.3)
    expected = -difference(mesh).reshape(shape)[region]
    expected -= expected.mean()
    assert np.abs(comparison.difference[region] - expected).max() < 0.3
    assert comparison.rms == pytest.approx(float(expected.std()), rel=0.05)
    row = script.row_of(reference, found, 300.0, "ala2", 60_000)
    assert row["RMS difference below 20 kJ/mol (kJ/mol)"] == round(comparison.rms, 3)
    assert row["effective frames, GFN2-xTB"] < row["frames with GFN2-xTB"] == 60_000


def test_equal_energies_give_equal_surfaces(script: ModuleType) -> None:
    angles = np.random.default_rng(3).uniform(-np.pi, np.pi, size=(5_000, 2))
    reference = script.Reference(angles, np.full(len(angles), -100.0), np.full(len(angles), -897.0))
    found = script.surfaces(reference, -model_energy(angles), 300.0, bins=12, blocks=5, width=0.1)
    assert found["comparison"].rms < 1e-9
    assert found["effective of the step"] == pytest.approx(5_000)


def test_frames_are_spread_over_the_run_after_its_beginning(script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "trajectory.xyz"
    path.write_text("".join(frame_text(np.array([1]), np.full((1, 3), float(k)), {}) for k in range(50)))
    frames, count = script.spread(path, 9, 0.2)
    assert count == 50
    places = [frame.positions[0, 0] for frame in frames]
    assert (places[0], places[-1]) == (10.0, 49.0)
    assert len(set(places)) == 9
    with pytest.raises(DataError, match="expected 41 frames after the first 20 %, found 40"):
        script.spread(path, 41, 0.2)
