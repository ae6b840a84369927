"""The tour: its reference data are right, and a small one runs from data to pictures."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.calculators.emt import EMT

from symmd_md.errors import ConfigurationError
from symmd_md.tour import TourSize, make_alloy, run_tour, sample_alloy, write_frames
from symmd_md.train import read_run_config

SMALL = TourSize(train_alloys=2, test_alloys=1, frames_per_alloy=4, repeats=1, epochs=2, channels=16)


def test_alloy_is_periodic_and_strained(rng: np.random.Generator) -> None:
    alloy = make_alloy(rng, 2)
    assert len(alloy) == 32
    assert alloy.pbc.all()
    assert {"Cu", "Au"} == set(alloy.symbols)
    off_diagonal = alloy.cell.array[~np.eye(3, dtype=bool)]
    assert 0 < np.abs(off_diagonal).max() < 0.5


def test_labels_are_those_of_the_structure_beside_them(rng: np.random.Generator, tmp_path: Path) -> None:
    write_frames(sample_alloy(rng, 1, 3), tmp_path / "frames.xyz")
    frames = ase.io.read(tmp_path / "frames.xyz", ":")
    assert len(frames) == 3
    for frame in frames:
        again = frame.copy()
        again.calc = EMT()
        assert frame.get_potential_energy() == pytest.approx(again.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(frame.get_forces(), again.get_forces(), atol=1e-6)
        np.testing.assert_allclose(frame.get_stress(), again.get_stress(), atol=1e-6)


def test_same_seed_gives_the_same_frames() -> None:
    one, two = (sample_alloy(np.random.default_rng(3), 1, 2)[-1] for _ in range(2))
    np.testing.assert_array_equal(one.positions, two.positions)


def test_tour_runs_from_data_to_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_tour(tmp_path, size=SMALL)
    for name in ("data/train.xyz", "data/test.xyz", "run/best.ckpt", "run/log.csv", "test/errors.json"):
        assert (tmp_path / name).stat().st_size > 0
    for name in ("run/learning_curve.png", "test/parity.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    config = read_run_config(tmp_path / "config.yaml")
    assert config.model.channels == 16
    assert config.training.max_epochs == 2
    printed = capsys.readouterr().out
    for unit in ("meV/atom", "meV/Å", "meV/Å³"):
        assert unit in printed
    assert str(tmp_path / "run" / "learning_curve.png") in printed


def test_second_tour_replaces_the_first(tmp_path: Path) -> None:
    run_tour(tmp_path, size=SMALL)
    (tmp_path / "run" / "kept.txt").write_text("from the first")
    run_tour(tmp_path, size=SMALL)
    assert (tmp_path / "run" / "best.ckpt").exists()
    assert not (tmp_path / "run" / "kept.txt").exists()


def test_folder_of_another_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="was not made by symmd tour; choose another folder"):
        run_tour(tmp_path, size=SMALL)
    assert (tmp_path / "run" / "mine.txt").read_text() == "mine"
