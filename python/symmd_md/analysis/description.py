"""``symmd info`` and ``symmd data summary``: what a model and a data set are made of."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from symmd_md._engine import Engine
from symmd_md.configuration import from_mapping, read_yaml
from symmd_md.data import FrameCollection, GraphDataset, LabelKeys, prepare, set_statistics, set_summary
from symmd_md.data.frame import formula_symbols
from symmd_md.errors import ConfigurationError, SymmdError
from symmd_md.export import ModelFile, read_model_file
from symmd_md.export.model_file import DTYPES, LONGEST_HEADER
from symmd_md.model import ModelConfig, ModelStatistics
from symmd_md.models import model_path
from symmd_md.train.checkpoint import MAGIC, read_checkpoint
from symmd_md.train.config import read_run_config
from symmd_md.train.load import checkpoint_statistics

YAML_SUFFIXES = {".yaml", ".yml"}
MODEL_SUFFIXES = {".pt", ".safetensors"}
ZIP_MAGIC = b"PK\x03\x04"
PROVENANCE_TITLE = "Provenance (errors in meV/atom, meV/Å, meV/Å³)"
DEFAULT_NEIGHBOURS = 20.0
DEFAULT_SPECIES_COUNT = 4
"""A configuration may leave the species to the training set; four is an organic molecule."""


def describe(
    path: Path,
    neighbours: float | None,
    atoms: int | None = None,
    device: str | None = None,
    console: Console | None = None,
) -> None:
    """Print what a configuration, checkpoint or model file holds; ``neighbours`` of an atom set the FLOPs.

    Of a model file also the memory for so many ``atoms``, and whether they fit into a ``device``.
    """
    console = console or Console()
    path = model_path(path)
    start = _start(path)
    if device is not None and atoms is None:
        raise ConfigurationError("--device says whether atoms fit there; give their number with --atoms")
    if atoms is not None and not _begins_as_model(start):
        raise ConfigurationError(f"--atoms is for model files, found {path}; make one with: symmd export")
    if start.startswith(MAGIC):
        _describe_checkpoint(path, neighbours, console)
    elif _begins_as_model(start):
        _describe_model(path, neighbours, console)
        if atoms is not None:
            _describe_memory(path, atoms, neighbours, device, console)
    elif path.suffix.lower() in YAML_SUFFIXES:
        config = from_mapping(ModelConfig, read_yaml(path).get("model") or {}, "model")
        console.print(_settings_table("Model", dataclasses.asdict(config)))
        count = len(config.species) or DEFAULT_SPECIES_COUNT
        console.print(
            accounting_table(config, DEFAULT_NEIGHBOURS if neighbours is None else neighbours, count)
        )
    elif path.suffix.lower() in MODEL_SUFFIXES:
        read_model_file(path)  # says what is wrong with it
    else:
        read_checkpoint(path)


def _start(path: Path) -> bytes:
    if not path.is_file():
        return b""
    with path.open("rb") as stream:
        return stream.read(max(len(MAGIC), 9))


def _begins_as_model(start: bytes) -> bool:
    """As a zip archive, or as safetensors: the length of a header, and its brace."""
    header = int.from_bytes(start[:8], "little")
    return start.startswith(ZIP_MAGIC) or (start[8:9] == b"{" and header <= LONGEST_HEADER)


def _describe_checkpoint(path: Path, neighbours: float | None, console: Console) -> None:
    content = read_checkpoint(path)
    config = from_mapping(ModelConfig, content["config"]["model"], "model")
    _describe_network(config, checkpoint_statistics(content), neighbours, console)
    console.print(_settings_table("Training set", content["config"]["data"]))
    console.print(_settings_table("Training", content["config"]["training"]))
    console.print(_settings_table(PROVENANCE_TITLE, _flattened(_named_errors(content["provenance"]))))


def _describe_model(path: Path, neighbours: float | None, console: Console) -> None:
    model = read_model_file(path)
    _describe_network(model.config, model.statistics, neighbours, console)
    provenance = dict(model.header["provenance"])  # of any form: others write model files too
    config = provenance.pop("config", None)
    for section, title in (("data", "Training set"), ("training", "Training")):
        settings = config.get(section) if isinstance(config, dict) else None
        if isinstance(settings, dict):
            console.print(_settings_table(title, settings))
    if isinstance(provenance.get("training"), dict):
        provenance["training"] = _named_errors(provenance["training"])
    console.print(_settings_table(PROVENANCE_TITLE, _flattened(provenance)))
    console.print(_settings_table("Model file", _file_settings(path, model)))


def _describe_memory(
    path: Path, atoms: int, neighbours: float | None, device: str | None, console: Console
) -> None:
    from symmd_md.analysis.memory import memory_settings

    if neighbours is None:
        neighbours = read_model_file(path).statistics.mean_neighbours
    title = f"Memory of the engine in float32 for {atoms:,} atoms with {neighbours:.1f} neighbours"
    console.print(_settings_table(title, memory_settings(path, atoms, neighbours, device)))


def _file_settings(path: Path, model: ModelFile) -> dict[str, Any]:
    """Form, precision and digest of a model file, and whether the engine on this machine runs it."""
    archive = _start(path).startswith(ZIP_MAGIC)
    dtype = next(iter(model.tensors.values())).dtype
    try:
        Engine(path)
        runs = "yes"
    except SymmdError as error:
        runs = f"no: {error}"
    return {
        "form": "TorchScript archive" if archive else "bare safetensors",
        "size": f"{path.stat().st_size / 1024:,.0f} kB",
        "precision of the weights": {"F32": "float32", "F64": "float64"}[DTYPES[dtype]],
        "engine compared with network in": model.header["validated_precisions"],
        "SHA-256": model.sha256,
        "engine here loads it": runs,
        "instruction set here": Engine.instruction_set,
    }


def _named_errors(provenance: dict[str, Any]) -> dict[str, Any]:
    """A training's provenance with each validation error by a name of its own."""
    others = {name: value for name, value in provenance.items() if name != "valid_errors"}
    errors = provenance.get("valid_errors")
    if not isinstance(errors, dict):
        return provenance
    return others | {f"validation {name}": value for name, value in errors.items()}


def _flattened(settings: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= {f"{name}, {inner}": item for inner, item in _flattened(value).items()}
        else:
            flat[name] = value
    return flat


def _describe_network(
    config: ModelConfig, statistics: ModelStatistics, neighbours: float | None, console: Console
) -> None:
    console.print(_settings_table("Model", dataclasses.asdict(config)))
    console.print(_statistics_table(config, statistics))
    if neighbours is None:
        neighbours = statistics.mean_neighbours
    console.print(accounting_table(config, neighbours, len(config.species)))


def accounting_table(config: ModelConfig, neighbours: float, species_count: int) -> Table:
    """Parameters and floating-point operations of an atom for energy and for forces, by layer and part."""
    from symmd_md.analysis.accounting import account

    rows = account(config, neighbours=neighbours, species_count=species_count)
    table = Table(
        title=f"Parameters and FLOPs per atom ({neighbours:.1f} neighbours, {species_count} species)"
    )
    table.add_column("layer")
    table.add_column("part")
    table.add_column("parameters", justify="right")
    table.add_column("for the energy", justify="right")
    table.add_column("for forces, more", justify="right")
    for row in rows:
        table.add_row(
            *(str(row.layer), row.part, f"{row.parameters:,}"),
            *(f"{row.flops_per_atom:,.0f}", f"{row.force_flops_per_atom:,.0f}"),
        )
    table.add_section()
    energy, forces = sum(row.flops_per_atom for row in rows), sum(row.force_flops_per_atom for row in rows)
    parameters = sum(row.parameters for row in rows)
    table.add_row("total", "", f"{parameters:,}", f"{energy:,.0f}", f"{forces:,.0f}")
    return table


def _settings_table(title: str, settings: dict[str, Any]) -> Table:
    table = Table(title=Text(title), show_header=False)
    for _ in range(2):
        table.add_column(overflow="fold")
    for name, value in settings.items():
        if isinstance(value, (list, tuple)):
            value = ", ".join(str(item) for item in value)
        elif isinstance(value, float):
            value = f"{value:.6g}"
        table.add_row(Text(name), Text("–" if value is None or value == "" else str(value)))
    return table


def _statistics_table(config: ModelConfig, statistics: ModelStatistics) -> Table:
    table = Table(title="Constants of the training set", show_header=False)
    for symbol in config.species:
        table.add_row(f"E0 of {symbol}", f"{statistics.reference_energies.get(symbol, 0.0):.6f} eV")
    table.add_row("energy scale σ", f"{statistics.energy_scale:.6g} eV")
    table.add_row("mean neighbours n̄", f"{statistics.mean_neighbours:.4g}")
    return table


def summarise_data(
    path: Path, cutoff: float, keys: dict[str, str] | None = None, console: Console | None = None
) -> None:
    """Print counts, labels and ranges of a structure file (neighbours within ``cutoff`` Å) or run."""
    console = console or Console()
    if path.suffix.lower() in YAML_SUFFIXES:
        if keys:
            raise ConfigurationError(
                f"{path} names its labels itself; remove --{next(iter(keys))}-key or name a structure file"
            )
        config = read_run_config(path)
        console.print(prepare(config.data, config.model).summary.table())
        return
    frames = FrameCollection([path], LabelKeys(**(keys or {})))
    numbers = np.unique(np.concatenate([frame.numbers for frame in frames]))
    species = tuple(formula_symbols(numbers))
    found = set_statistics(GraphDataset(frames, species, cutoff, cache_bytes=0), require_labels=False)
    console.print(_settings_table(f"{path}", set_summary(found)))
