"""The configuration of a network: what it refuses, and that it survives YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from model_cases import CONFIGS
from symmd_md.configuration import from_mapping, read_yaml, to_mapping
from symmd_md.errors import ConfigurationError
from symmd_md.model import ModelConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"species": ("H", "Xx")}, "'model.species' names 'Xx', which is not an element symbol"),
        ({"species": ("X",)}, "'model.species' names 'X', which is not an element symbol"),
        ({"species": ("H", "C", "H")}, "'model.species' repeats an element: H, C, H"),
        ({"layers": 0}, "'model.layers' must lie between 1 and 4; found 0"),
        ({"layers": 5}, "'model.layers' must lie between 1 and 4; found 5"),
        ({"max_degree": 4}, "'model.max_degree' must lie between 0 and 3; found 4"),
        ({"max_degree": -1}, "'model.max_degree' must lie between 0 and 3; found -1"),
        ({"hidden_degree": 4}, "'model.hidden_degree' must lie between 0 and 3; found 4"),
        ({"hidden_degree": 3}, "'model.hidden_degree' = 3 exceeds 'model.max_degree' = 2"),
        ({"body_order": 0}, "'model.body_order' must lie between 1 and 3; found 0"),
        ({"body_order": 4}, "'model.body_order' must lie between 1 and 3; found 4"),
        ({"radial_functions": 0}, "'model.radial_functions' must lie between 1 and 32; found 0"),
        ({"radial_knots": 8}, "'model.radial_knots' must lie between 16 and 4096; found 8"),
        ({"readout_hidden": 0}, "'model.readout_hidden' must lie between 1 and 4096; found 0"),
        ({"channels": 24}, "'model.channels' must be a multiple of 16; found 24"),
        ({"channels": 0}, "'model.channels' must lie between 16 and 1024; found 0"),
        ({"channels": 2048}, "'model.channels' must lie between 16 and 1024; found 2048"),
        ({"heads": 0}, "'model.heads' must lie between 1 and 1024; found 0"),
        ({"heads": 3}, "'model.heads' = 3 must divide 'model.channels' = 64"),
        ({"radial_hidden": ()}, "'model.radial_hidden' needs positive widths; found ()"),
        ({"radial_hidden": (64, 0)}, "'model.radial_hidden' needs positive widths; found (64, 0)"),
        ({"cutoff": 0.1}, "'model.cutoff' must lie between 0.5 and 20 Å; found 0.1"),
        ({"cutoff": float("nan")}, "'model.cutoff' must lie between 0.5 and 20 Å; found nan"),
        (
            {"layer_cutoffs": (5.0,)},
            "'model.layer_cutoffs' needs one length for each of the 2 layers; found 1",
        ),
        (
            {"layer_cutoffs": (5.0, 5.5)},
            "'model.layer_cutoffs' must lie between 0.5 Å and 'model.cutoff' = 5.0 Å; found 5.5",
        ),
        (
            {"layer_cutoffs": (0.2, 5.0)},
            "'model.layer_cutoffs' must lie between 0.5 Å and 'model.cutoff' = 5.0 Å; found 0.2",
        ),
    ],
)
def test_what_contradicts_itself_is_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ModelConfig(**settings)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"chanels": 32}, "unknown key 'model.chanels'; did you mean 'channels'?"),
        ({"channels": "many"}, "'model.channels' must be of type int; found 'many'"),
        ({"aggregation": "mean"}, "'model.aggregation'"),
        ({"channels": 24}, "'model.channels' must be a multiple of 16; found 24"),
    ],
)
def test_yaml_that_is_no_model_is_refused_by_name(
    tmp_path: Path, mapping: dict[str, Any], message: str
) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump({"model": mapping}), encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        from_mapping(ModelConfig, read_yaml(path)["model"], "model")
    assert message in str(caught.value)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_survives_yaml(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump(to_mapping(CONFIGS[name])), encoding="utf-8")
    assert from_mapping(ModelConfig, read_yaml(path), "model") == CONFIGS[name]


def test_defaults_are_the_production_model() -> None:
    config = ModelConfig()
    assert (config.layers, config.channels, config.heads, config.cutoff) == (2, 64, 8, 5.0)
    assert (config.max_degree, config.hidden_degree, config.body_order) == (2, 1, 3)
    assert config.aggregation == "attention"


def test_degrees_of_the_layers() -> None:
    config = ModelConfig(layers=3, max_degree=3, hidden_degree=2)
    assert [config.input_degree(layer) for layer in range(3)] == [0, 2, 2]
    assert [config.output_degree(layer) for layer in range(3)] == [2, 2, 0]
    assert [config.message_degree(layer) for layer in range(3)] == [3, 3, 3]
    linear = ModelConfig(layers=3, max_degree=3, hidden_degree=2, body_order=1)
    assert [linear.message_degree(layer) for layer in range(3)] == [2, 2, 0]


def test_cutoffs_of_the_layers() -> None:
    assert ModelConfig().cutoff_of_layer(1) == 5.0
    config = ModelConfig(layer_cutoffs=[5.0, 4.0])  # type: ignore[arg-type]
    assert config.layer_cutoffs == (5.0, 4.0)
    assert [config.cutoff_of_layer(layer) for layer in range(2)] == [5.0, 4.0]
