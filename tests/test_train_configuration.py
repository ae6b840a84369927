"""The training section: defaults that follow from others, and refusals by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from symmd_md.errors import ConfigurationError
from symmd_md.train import TrainingConfig, read_run_config, run_config
from symmd_md.train.config import changed_keys, write_run_config
from training_cases import run_mapping


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"lerning_rate": 0.1}, "unknown key 'training.lerning_rate'; did you mean 'learning_rate'"),
        ({"batch_size": 0}, "'training.batch_size' must be positive; found 0"),
        ({"max_epochs": -1}, "'training.max_epochs' must be positive; found -1"),
        ({"weight_decay": -0.1}, "'training.weight_decay' must not be negative; found -0.1"),
        ({"learning_rate": 1e-6}, "'training.learning_rate_floor' = 1e-05 exceeds 'training.learning_rate'"),
        ({"huber_delta": 0.1}, "'training.huber_delta' is given but 'training.loss' is mse"),
        ({"plateau_patience": 3}, "'training.plateau_patience' is given but 'training.schedule' is cosine"),
        ({"schedule": "plateau", "plateau_factor": 1.5}, "'training.plateau_factor' must be below 1"),
        ({"ema_decay": 1.0}, "'training.ema_decay' must be below 1; found 1.0"),
        ({"energy_weight": 0, "forces_weight": 0, "stress_weight": 0}, "must be positive; all are 0"),
        ({"loss": "mae"}, "'training.loss' must be one of mse, huber; found 'mae'"),
        ({"precision": "float16"}, "'training.precision' must be one of float32, float64"),
        ({"seed": 1.5}, "'training.seed' must be of type int; found 1.5"),
    ],
)
def test_bad_keys_are_refused_by_name(training: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        run_config({"data": {"train": "x.xyz"}, "training": training})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_section_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="unknown key 'trainig'; did you mean 'training'"):
        run_config({"data": {"train": "x.xyz"}, "trainig": {}})


def test_defaults_that_depend_on_other_keys() -> None:
    assert TrainingConfig().max_epochs == 500
    assert TrainingConfig(max_minutes=5.0).max_epochs is None
    assert TrainingConfig(batch_size=3).valid_batch_size == 12
    assert TrainingConfig().huber_delta is None
    assert TrainingConfig(loss="huber").huber_delta == 0.01
    plateau = TrainingConfig(schedule="plateau")
    assert (plateau.plateau_factor, plateau.plateau_patience) == (0.5, 20)


@pytest.mark.parametrize("training", [{}, {"loss": "huber"}, {"schedule": "plateau", "max_minutes": 2}])
def test_written_configuration_reads_back_the_same(tmp_path: Path, training: dict[str, Any]) -> None:
    config = run_config(run_mapping(tmp_path / "data.xyz", **training))
    write_run_config(config, tmp_path / "config.yaml")
    assert read_run_config(tmp_path / "config.yaml") == config


def test_changes_that_a_resume_allows_and_refuses(tmp_path: Path) -> None:
    old = run_config(run_mapping(tmp_path / "data.xyz"))
    allowed = run_config(run_mapping(tmp_path / "data.xyz", max_epochs=9, max_minutes=3.0, patience=2))
    assert changed_keys(old, allowed) == []
    mapping = run_mapping(tmp_path / "other.xyz", seed=5)
    mapping["model"]["channels"] = 32
    assert changed_keys(old, run_config(mapping)) == ["model.channels", "data.train", "training.seed"]
    assert changed_keys(old, run_config(mapping), moved_data=True) == ["model.channels", "training.seed"]
    mapping["data"]["train"] = [str(tmp_path / "data.xyz"), str(tmp_path / "more.xyz")]
    assert "data.train" in changed_keys(old, run_config(mapping), moved_data=True)


def test_a_key_given_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("data: {train: x.xyz}\ntraining:\n  batch_size: 5\n  seed: 1\n  batch_size: 8\n")
    with pytest.raises(
        ConfigurationError, match=r"config.yaml: the key 'batch_size' is given twice, .* line 5"
    ):
        read_run_config(path)
    path.write_text("a: &a {x: 1}\ndata: {<<: *a, x: 2}\n")
    with pytest.raises(ConfigurationError, match="unknown key 'a'"):
        read_run_config(path)


def test_a_mapping_that_could_also_be_a_word_is_told_what_is_wrong_in_it() -> None:
    data = {"train": "x.xyz", "reference_energies": {"H": "abc"}}
    with pytest.raises(ConfigurationError, match=r"'data.reference_energies.H' must be of type float; found"):
        run_config({"data": data})


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: Is a directory"), ("a: [1\nb: }", "is not valid YAML: while parsing")],
)
def test_a_file_that_is_no_configuration_is_one_line(
    tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path
    if content is not None:
        path = tmp_path / "wrong.yaml"
        path.write_text(content)
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_run_config(path)
    assert "\n" not in str(caught.value)
