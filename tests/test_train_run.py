"""Whole small runs: they learn, resume bit for bit, stop when they should, and refuse what they must."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import symmd_md.operators
from symmd_md.data import build_graph, read_frames
from symmd_md.errors import CheckpointError, ConfigurationError, SymmdError
from symmd_md.train import load_network, read_run_config, run_config, train
from symmd_md.train import trainer as trainer_module
from symmd_md.train.checkpoint import read_checkpoint
from symmd_md.train.kernels import choose_kernels
from symmd_md.train.logs import COLUMNS, read_log
from training_cases import (
    assert_same_run,
    child_environment,
    make_frames,
    run_mapping,
    small_run,
    symmd_command,
    write_frames,
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_frames(tmp_path / "data.xyz", make_frames())


def log_of(folder: Path) -> list[dict[str, float]]:
    return read_log(folder / "log.csv")


def test_a_run_learns_and_leaves_its_files(tmp_path: Path, data: Path) -> None:
    output = tmp_path / "run"
    result = train(small_run(data, max_epochs=25, tensorboard=True), output)
    assert (result.reason, result.epochs) == ("epochs", 25)
    rows = log_of(output)
    assert [row["epoch"] for row in rows] == list(range(1, 26))
    assert [row["step"] for row in rows] == [3 * epoch for epoch in range(1, 26)]
    assert rows[-1]["train_forces_rmse_meV_per_A"] < 0.5 * rows[0]["train_forces_rmse_meV_per_A"]
    best = min(row["valid_loss"] for row in rows)
    assert result.best_loss == pytest.approx(best, rel=1e-5)
    assert rows[result.best_epoch - 1]["valid_loss"] == best
    names = {path.name for path in output.iterdir()}
    expected = {
        ".lock",
        "config.yaml",
        "split.json",
        "last.ckpt",
        "best.ckpt",
        "log.csv",
        "learning_curve.png",
        "tensorboard",
    }
    assert names == expected
    assert (output / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(output / "tensorboard")).Reload()
    assert {"learning_rate", "minutes", "train/loss", "valid/forces_rmse_meV_per_A"} <= set(
        events.Tags()["scalars"]
    )
    resolved = read_run_config(output / "config.yaml")
    assert resolved.model.species == ("H", "C", "O")


def test_best_checkpoint_gives_the_validation_errors_of_its_epoch(tmp_path: Path, data: Path) -> None:
    output = tmp_path / "run"
    result = train(small_run(data, max_epochs=3), output)
    network = load_network(output / "best.ckpt")
    assert not network.training
    split = yaml.safe_load((output / "split.json").read_text())
    frames = read_frames(data)
    errors = []
    for index in split["valid"]:
        graph = build_graph(frames[index], network.config.species, network.config.cutoff)
        errors.append((network(graph).forces - graph.forces).numpy())
    row = log_of(output)[result.best_epoch - 1]
    rmse = 1e3 * np.sqrt(np.mean(np.square(errors)))
    assert row["valid_forces_rmse_meV_per_A"] == pytest.approx(rmse, rel=1e-5)


def test_a_run_resumed_between_epochs_equals_a_straight_one(tmp_path: Path, data: Path) -> None:
    settings = {"random_rotations": True, "schedule": "plateau", "plateau_patience": 1, "learning_rate": 0.05}
    train(small_run(data, max_epochs=6, **settings), tmp_path / "straight")
    train(small_run(data, max_epochs=3, **settings), tmp_path / "resumed")
    torch.manual_seed(99)
    result = train(small_run(data, max_epochs=6, **settings), tmp_path / "resumed", resume=True)
    assert result.epochs == 6
    assert_same_run(tmp_path / "straight", tmp_path / "resumed")


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_run_stopped_inside_an_epoch_equals_a_straight_one(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    config = small_run(data, max_epochs=4, random_rotations=True, precision=precision)
    train(config, tmp_path / "straight")
    step = trainer_module.Trainer.train_step

    def interrupted_step(self: trainer_module.Trainer, indices: list[int]) -> None:
        step(self, indices)
        if self.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module.Trainer, "train_step", interrupted_step)
        result = train(config, tmp_path / "resumed")
    assert (result.reason, result.epochs) == ("interrupted", 1)
    state = read_checkpoint(tmp_path / "resumed" / "last.ckpt")["state"]
    assert (state["epoch"], state["batch"], state["step"]) == (1, 2, 5)
    assert train(config, tmp_path / "resumed", resume=True).reason == "epochs"
    assert_same_run(tmp_path / "straight", tmp_path / "resumed")


def test_a_run_killed_by_signal_9_and_resumed_equals_a_straight_one(tmp_path: Path, data: Path) -> None:
    killed, file = tmp_path / "killed", tmp_path / "config.yaml"
    mapping = run_mapping(data, max_epochs=300, schedule="constant")
    file.write_text(yaml.safe_dump(mapping))
    command = symmd_command("train", str(file), "-o", str(killed))
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=child_environment())
    while child.poll() is None and len(log_of(killed)) < 4:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert child.returncode == -signal.SIGKILL
    (killed / ".last.ckpt.abc.partial").write_bytes(b"half of a checkpoint")
    with (killed / "log.csv").open("a") as stream:
        stream.write("1000,3000,9.9,0.01")
    done = read_checkpoint(killed / "last.ckpt")["state"]["epoch"]
    mapping["training"]["max_epochs"] = done + 3
    train(run_config(mapping), killed, resume=True)
    assert not list(killed.glob(".*partial"))
    train(run_config(mapping), tmp_path / "straight")
    assert_same_run(tmp_path / "straight", killed)


def test_sigterm_from_another_thread_ends_cleanly(tmp_path: Path, data: Path) -> None:
    output = tmp_path / "run"

    def send() -> None:
        while len(log_of(output)) < 2:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=send)
    watcher.start()
    result = train(small_run(data, max_epochs=100_000), output)
    watcher.join()
    assert result.reason == "interrupted"
    assert read_checkpoint(output / "last.ckpt")["state"]["epoch"] == result.epochs == len(log_of(output))


def test_early_stopping_counts_epochs_without_improvement(tmp_path: Path, data: Path) -> None:
    config = small_run(data, max_epochs=500, patience=2, learning_rate=0.3, ema_decay=0.0)
    result = train(config, tmp_path / "run")
    assert result.reason == "patience"
    assert result.epochs == result.best_epoch + 2
    losses = [row["valid_loss"] for row in log_of(tmp_path / "run")]
    assert int(np.argmin(losses)) == result.best_epoch - 1
    resumed = train(dataclasses_patience(config, 4), tmp_path / "run", resume=True)
    assert resumed.epochs > result.epochs


def dataclasses_patience(config: Any, patience: int) -> Any:
    training = dataclasses.replace(config.training, patience=patience)
    return dataclasses.replace(config, training=training)


def test_the_time_limit_ends_the_run_and_its_cosine(tmp_path: Path, data: Path) -> None:
    config = small_run(data, max_epochs=None, max_minutes=0.01, learning_rate_floor=1e-4)
    result = train(config, tmp_path / "run")
    rows = log_of(tmp_path / "run")
    assert result.reason == "minutes"
    assert result.minutes >= 0.01
    assert all(row["minutes"] < 0.01 for row in rows[:-1])
    assert rows[-1]["learning_rate"] < 0.1 * max(row["learning_rate"] for row in rows)


def test_checkpoint_minutes_spares_writes(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    from symmd_md.train import run

    original = run._Run._write_last
    monkeypatch.setattr(run._Run, "_write_last", lambda self: (written.append(1), original(self))[1])
    train(small_run(data, max_epochs=5, checkpoint_minutes=60.0), tmp_path / "run")
    assert len(written) == 2
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["state"]["epoch"] == 5


def test_energies_alone_are_enough(tmp_path: Path) -> None:
    frames = make_frames()
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy())
    mapping = run_mapping(write_frames(tmp_path / "data.xyz", frames))
    mapping["data"]["require_forces"] = False
    train(run_config(mapping), tmp_path / "run")
    row = log_of(tmp_path / "run")[-1]
    assert row["train_energy_mae_meV_per_atom"] > 0
    assert math.isnan(row["train_forces_mae_meV_per_A"])


def test_stress_is_trained_where_labels_exist(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    frames: list[Atoms] = []
    for index in range(10):
        atoms = bulk("Cu", cubic=True) * (2, 1, 1)
        atoms.set_cell(atoms.cell.array * (1 + 0.03 * generator.normal()), scale_atoms=True)
        atoms.rattle(0.05, rng=generator)
        reference = atoms.copy()
        reference.calc = EMT()
        labels = {"energy": reference.get_potential_energy(), "forces": reference.get_forces()}
        if index % 2:
            labels["stress"] = reference.get_stress()
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    data = write_frames(tmp_path / "data.xyz", frames)
    train(small_run(data, max_epochs=2), tmp_path / "with")
    train(small_run(data, max_epochs=2, stress_weight=0.0), tmp_path / "without")
    assert log_of(tmp_path / "with")[-1]["train_stress_rmse_meV_per_A3"] > 0
    assert math.isnan(log_of(tmp_path / "without")[-1]["train_stress_rmse_meV_per_A3"])


def test_seed_decides_the_run(tmp_path: Path, data: Path) -> None:
    for name, seed in (("first", 1), ("second", 1), ("third", 2)):
        train(small_run(data, max_epochs=1, seed=seed), tmp_path / name)
    assert_same_run(tmp_path / "first", tmp_path / "second")
    assert log_of(tmp_path / "first")[0]["train_loss"] != log_of(tmp_path / "third")[0]["train_loss"]


def test_a_used_folder_is_refused(tmp_path: Path, data: Path) -> None:
    train(small_run(data, max_epochs=1), tmp_path / "run")
    with pytest.raises(
        ConfigurationError, match=r"already holds a run \(last.ckpt\); go on with it by --resume"
    ):
        train(small_run(data, max_epochs=1), tmp_path / "run")


def test_resume_needs_a_checkpoint(tmp_path: Path, data: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no last.ckpt to resume from; start the run without"):
        train(small_run(data), tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


def test_resume_refuses_another_model_data_or_seed_by_name(tmp_path: Path, data: Path) -> None:
    train(small_run(data, max_epochs=1), tmp_path / "run")
    mapping = run_mapping(data, seed=3)
    mapping["model"]["channels"] = 32
    mapping["data"]["seed"] = 2
    with pytest.raises(ConfigurationError) as caught:
        train(run_config(mapping), tmp_path / "run", resume=True)
    for name in ("'model.channels'", "'data.seed'", "'training.seed'"):
        assert name in str(caught.value)
    assert "restore the old value" in str(caught.value)


def test_resume_refuses_other_data_under_the_same_name(tmp_path: Path, data: Path) -> None:
    train(small_run(data, max_epochs=1), tmp_path / "run")
    write_frames(data, make_frames(seed=5))
    (tmp_path / "run" / "split.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"was trained on data with a force scale of .* restore the data"
    ):
        train(small_run(data, max_epochs=2), tmp_path / "run", resume=True)
    write_frames(data, make_frames(count=8))
    mapping = run_mapping(data)
    (tmp_path / "run" / "split.json").unlink()
    with pytest.raises(SymmdError, match=r"valid_size|train_size"):
        train(run_config(mapping), tmp_path / "run", resume=True)


def test_resume_takes_the_resolved_configuration_too(tmp_path: Path, data: Path) -> None:
    train(small_run(data, max_epochs=1), tmp_path / "run")
    resolved = read_run_config(tmp_path / "run" / "config.yaml")
    assert train(resolved, tmp_path / "run", resume=True).epochs == 1


def test_divergence_is_one_error_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = trainer_module.Trainer.train_step

    def poisoned_step(self: trainer_module.Trainer, indices: list[int]) -> None:
        step(self, indices)
        if self.epoch == 1:
            self.parameters.values.fill_(math.nan)

    monkeypatch.setattr(trainer_module.Trainer, "train_step", poisoned_step)
    with pytest.raises(
        SymmdError, match=r"training diverged in epoch 2: the loss is nan; lower 'training.learning"
    ):
        train(small_run(data), tmp_path / "run")
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["state"]["epoch"] == 1


def test_log_columns_carry_units(tmp_path: Path, data: Path) -> None:
    train(small_run(data, max_epochs=1), tmp_path / "run")
    header = (tmp_path / "run" / "log.csv").read_text().splitlines()[0].split(",")
    assert header == COLUMNS
    assert {"train_energy_mae_meV_per_atom", "valid_forces_rmse_meV_per_A", "minutes"} <= set(header)


def test_load_network_refuses_what_is_not_a_model(tmp_path: Path, data: Path) -> None:
    from symmd_md.train.checkpoint import write_checkpoint

    write_checkpoint(tmp_path / "empty.ckpt", {"other": 1})
    with pytest.raises(CheckpointError, match=r"lacks the entry 'config'"):
        load_network(tmp_path / "empty.ckpt")
    train(small_run(data, max_epochs=1), tmp_path / "run")
    content = read_checkpoint(tmp_path / "run" / "best.ckpt")
    content["config"]["model"]["channels"] = 32
    write_checkpoint(tmp_path / "mixed.ckpt", content)
    with pytest.raises(CheckpointError, match=r"does not fit the network of its own configuration"):
        load_network(tmp_path / "mixed.ckpt")


def test_last_and_best_load_in_the_precision_of_training(tmp_path: Path, data: Path) -> None:
    train(small_run(data, max_epochs=1, precision="float32"), tmp_path / "run")
    for name in ("last.ckpt", "best.ckpt"):
        network = load_network(tmp_path / "run" / name)
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
        assert network.statistics.reference_energies.keys() == {"H", "C", "O"}


def test_fused_kernels_that_are_not_there_are_one_error(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "the operator library libsymmd_torch.so was not built"
    monkeypatch.setattr(symmd_md.operators, "reason_not_loaded", lambda: reason)
    train(small_run(data, max_epochs=1), tmp_path / "run")
    network = load_network(tmp_path / "run" / "best.ckpt")
    cpu = torch.device("cpu")
    assert choose_kernels(network, "auto", cpu) == "plain"
    with pytest.raises(ConfigurationError, match=reason):
        choose_kernels(network, "fused", cpu)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_that_is_not_there_is_one_error(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"'training.device' is cuda but torch finds no GPU"):
        train(small_run(data, device="cuda"), tmp_path / "run")


def test_a_run_may_begin_with_the_weights_of_another(tmp_path: Path, data: Path) -> None:
    first = tmp_path / "first"
    train(small_run(data, max_epochs=12), first)
    before = load_network(first / "best.ckpt")
    other = write_frames(tmp_path / "other.xyz", make_frames(seed=5))
    config = small_run(other, max_epochs=3, initial=first / "best.ckpt", learning_rate=1e-5)
    train(
        dataclasses.replace(config, training=dataclasses.replace(config.training, max_epochs=1)),
        tmp_path / "on",
    )
    after = load_network(tmp_path / "on" / "best.ckpt")
    assert after.statistics == before.statistics
    largest = max(
        float((one - two).abs().max())
        for one, two in zip(before.parameters(), after.parameters(), strict=True)
    )
    assert 0.0 < largest < 1e-3
    train(config, tmp_path / "on", resume=True)
    train(config, tmp_path / "straight")
    assert_same_run(tmp_path / "on", tmp_path / "straight")


def test_a_run_with_another_network_than_its_initial_one_is_refused(tmp_path: Path, data: Path) -> None:
    first = tmp_path / "first"
    train(small_run(data, max_epochs=1), first)
    mapping = run_mapping(data, max_epochs=1, initial=str(first / "best.ckpt"))
    mapping["model"]["cutoff"] = 4.25
    with pytest.raises(CheckpointError, match=r"has 'model\.cutoff' = .*, this run 4\.25"):
        train(run_config(mapping), tmp_path / "on")
