"""Runs that must not go on: diverged ones, ones without their labels, and ones in a folder in use."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from symmd_md.errors import ConfigurationError, DataError, SymmdError
from symmd_md.train import run_config, train
from symmd_md.train import trainer as trainer_module
from symmd_md.train.checkpoint import read_checkpoint, write_checkpoint
from symmd_md.train.folder import run_folder
from symmd_md.train.loss import SUMS, Errors
from training_cases import child_environment, make_frames, run_mapping, small_run, write_frames


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_frames(tmp_path / "data.xyz", make_frames())


def renamed(frames: list[Atoms], **names: str) -> list[Atoms]:
    """Frames with their energy and forces under other names; an absent name drops the label."""
    for atoms in frames:
        if "energy" in names:
            atoms.info[names["energy"]] = atoms.get_potential_energy()
        if "forces" in names:
            atoms.arrays[names["forces"]] = atoms.get_forces()
        atoms.calc = None
    return frames


def test_a_run_that_diverges_in_its_first_epoch_leaves_no_model(tmp_path: Path, data: Path) -> None:
    config = small_run(data, learning_rate=1e8, warmup_steps=0, max_epochs=1, precision="float32")
    with pytest.raises(SymmdError, match=r"training diverged in epoch 1: .* lower 'training.learning_rate'"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "best.ckpt").exists()
    content = read_checkpoint(tmp_path / "run" / "last.ckpt")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in content["averaged"].values())


@pytest.mark.parametrize(("last_step", "what"), [(3, "a weight is not finite"), (2, "the loss is nan")])
def test_an_infinite_gradient_is_divergence(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, last_step: int, what: str
) -> None:
    original = trainer_module.Trainer._add_gradient

    def with_infinity(self: trainer_module.Trainer, share: list[int], structures: int) -> None:
        original(self, share, structures)
        if self.step == last_step - 1:
            self.parameters.gradients[0] = math.inf

    monkeypatch.setattr(trainer_module.Trainer, "_add_gradient", with_infinity)
    with pytest.raises(SymmdError, match=f"training diverged in epoch 1: {what}"):
        train(small_run(data, max_epochs=1), tmp_path / "run")
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["state"]["step"] == 0


def test_a_run_stopped_after_it_diverged_keeps_the_last_good_checkpoint(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = trainer_module.Trainer.train_step

    def poisoned_and_stopped(self: trainer_module.Trainer, indices: list[int]) -> None:
        original(self, indices)
        self.parameters.values[0] = math.nan
        self.stop_wanted = True

    monkeypatch.setattr(trainer_module.Trainer, "train_step", poisoned_and_stopped)
    with pytest.raises(SymmdError, match="a weight is not finite"):
        train(small_run(data), tmp_path / "run")
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["state"]["step"] == 0


def test_no_labels_are_not_a_loss_of_zero() -> None:
    sums = torch.zeros(SUMS)
    sums[0] = 3
    assert math.isnan(Errors.from_sums(sums).loss)
    sums[2], sums[1] = 3, 6.0
    assert Errors.from_sums(sums).loss == 2.0


def test_a_wrong_energy_key_is_refused_with_the_keys_that_are_there(tmp_path: Path) -> None:
    path = write_frames(
        tmp_path / "data.xyz", renamed(make_frames(), energy="dft_energy", forces="dft_forces")
    )
    mapping = run_mapping(path)
    mapping["data"] |= {"energy_key": "Energy", "forces_key": "dft_forces"}
    with pytest.raises(DataError) as caught:
        train(run_config(mapping), tmp_path / "run")
    message = str(caught.value)
    assert f"no frame of {path} has the energy key 'Energy'; found dft_energy, dft_forces" in message
    assert "correct 'data.energy_key'" in message
    assert "'training.energy_weight: 0'" in message
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_energies_that_are_truly_absent_need_no_weight(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = make_frames()
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, forces=atoms.get_forces())
    path = write_frames(tmp_path / "data.xyz", frames)
    with pytest.raises(DataError, match="has the energy key 'energy'; found forces"):
        train(small_run(path, max_epochs=1), tmp_path / "run")
    train(small_run(path, max_epochs=1, energy_weight=0.0), tmp_path / "other")
    assert "training on 7 structures with 0 energies, 7 forces, 0 stresses" in capsys.readouterr().out


def test_a_key_of_the_user_that_no_frame_has_is_refused(tmp_path: Path, data: Path) -> None:
    mapping = run_mapping(data)
    mapping["data"]["stress_key"] = "virial"
    with pytest.raises(
        DataError, match=r"has the stress key 'virial'; found .*; correct 'data.stress_key' or"
    ):
        train(run_config(mapping), tmp_path / "run")


def test_a_folder_in_use_is_refused(tmp_path: Path, data: Path) -> None:
    output = tmp_path / "run"
    with (
        run_folder(output, False),
        pytest.raises(
            ConfigurationError, match="is in use by another run; wait for its end or choose another folder"
        ),
    ):
        train(small_run(data, max_epochs=1), output)
    assert train(small_run(data, max_epochs=1), output).epochs == 1


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, data: Path) -> None:
    config = small_run(data, max_epochs=1)
    train(config, tmp_path / "run")
    before = read_checkpoint(tmp_path / "run" / "last.ckpt")["provenance"]["valid_errors"]
    train(config, tmp_path / "run", resume=True)
    after = read_checkpoint(tmp_path / "run" / "last.ckpt")["provenance"]["valid_errors"]
    assert before is not None
    assert {k: v for k, v in after.items() if v == v} == {k: v for k, v in before.items() if v == v}


def test_resume_refuses_another_count_of_processes(tmp_path: Path, data: Path) -> None:
    train(small_run(data, max_epochs=1), tmp_path / "run")
    path = tmp_path / "run" / "last.ckpt"
    content = read_checkpoint(path)
    content["provenance"]["processes"] = 2
    write_checkpoint(path, content)
    with pytest.raises(ConfigurationError, match="was trained by 2 processes, found 1; resume with as many"):
        train(small_run(data, max_epochs=2), tmp_path / "run", resume=True)


def test_a_moved_data_file_may_be_resumed_with(tmp_path: Path, data: Path) -> None:
    train(small_run(data, max_epochs=2), tmp_path / "straight")
    train(small_run(data, max_epochs=1, schedule="cosine"), tmp_path / "moved")
    moved = data.rename(tmp_path / "elsewhere.xyz")
    assert train(small_run(moved, max_epochs=2), tmp_path / "moved", resume=True).epochs == 2
    write_frames(moved, make_frames(seed=5))
    with pytest.raises(SymmdError, match="restore the data"):
        train(small_run(moved, max_epochs=3), tmp_path / "moved", resume=True)
    (tmp_path / "moved" / "split.json").unlink()
    with pytest.raises(ConfigurationError, match=r"was trained with another 'data.train'"):
        train(small_run(data, max_epochs=3), tmp_path / "moved", resume=True)


def test_the_origin_of_reference_energies_is_told(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mapping: dict[str, Any] = run_mapping(data, max_epochs=1)
    train(run_config(mapping), tmp_path / "fitted")
    printed = capsys.readouterr().out
    assert "reference energies: least squares" in printed
    assert "such a model knows only the compositions it was trained on" in printed
    mapping["data"]["reference_energies"] = {"H": -1.0, "C": -2.0, "O": -3.0}
    train(run_config(mapping), tmp_path / "given")
    printed = capsys.readouterr().out
    assert "reference energies: given\n" in printed
    assert "1 epoch in" in printed


def test_two_processes_with_bad_data_print_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "data.xyz"
    path.write_text("this is no structure\n")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(run_mapping(path)))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = ["-m", "symmd_md", "train", str(file), "-o", str(tmp_path / "two")]
    done = subprocess.run(
        launcher + arguments,
        env=child_environment(GLOO_SOCKET_IFNAME="lo"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert done.stderr.count(f"symmd: {path}, frame 0") == 1
    assert "symmd_md/data" not in done.stderr
    assert "exitcode  : 2" in done.stderr
