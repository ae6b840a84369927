"""``symmd info`` and ``symmd data summary``: what a model and a data set are made of."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from symmd_md.configuration import from_mapping, read_yaml
from symmd_md.data import FrameCollection, GraphDataset, SetStatistics, prepare, set_statistics
from symmd_md.data.frame import formula_symbols
from symmd_md.model import ModelConfig, ModelStatistics
from symmd_md.train.checkpoint import MAGIC, read_checkpoint
from symmd_md.train.config import read_run_config
from symmd_md.train.load import checkpoint_statistics

YAML_SUFFIXES = {".yaml", ".yml"}
DEFAULT_NEIGHBOURS = 20.0
DEFAULT_SPECIES_COUNT = 4
"""A configuration may leave the species to the training set; four is an organic molecule."""


def describe(path: Path, neighbours: float | None, console: Console | None = None) -> None:
    """Print what a configuration or a checkpoint holds; ``neighbours`` of an atom set the FLOPs."""
    console = console or Console()
    if path.is_file() and _begins_as_checkpoint(path):
        _describe_checkpoint(path, neighbours, console)
    elif path.suffix.lower() in YAML_SUFFIXES:
        config = from_mapping(ModelConfig, read_yaml(path).get("model") or {}, "model")
        console.print(_settings_table("Model", dataclasses.asdict(config)))
        count = len(config.species) or DEFAULT_SPECIES_COUNT
        console.print(accounting_table(config, neighbours or DEFAULT_NEIGHBOURS, count))
    else:
        read_checkpoint(path)


def _begins_as_checkpoint(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def _describe_checkpoint(path: Path, neighbours: float | None, console: Console) -> None:
    content = read_checkpoint(path)
    config = from_mapping(ModelConfig, content["config"]["model"], "model")
    statistics = checkpoint_statistics(content)
    console.print(_settings_table("Model", dataclasses.asdict(config)))
    console.print(_statistics_table(config, statistics))
    console.print(accounting_table(config, neighbours or statistics.mean_neighbours, len(config.species)))
    provenance = dict(content["provenance"])
    errors = provenance.pop("valid_errors") or {}
    provenance |= {f"validation {name}": value for name, value in errors.items()}
    console.print(_settings_table("Training set", content["config"]["data"]))
    console.print(_settings_table("Training", content["config"]["training"]))
    console.print(_settings_table("Provenance (errors in meV/atom, meV/Å, meV/Å³)", provenance))


def accounting_table(config: ModelConfig, neighbours: float, species_count: int) -> Table:
    """Parameters and floating-point operations for energy, per atom, by layer and part."""
    from symmd_md.model.accounting import account

    rows = account(config, neighbours=neighbours, species_count=species_count)
    table = Table(
        title=f"Parameters and FLOPs per atom ({neighbours:.1f} neighbours, {species_count} species)"
    )
    table.add_column("layer")
    table.add_column("part")
    table.add_column("parameters", justify="right")
    table.add_column("FLOPs per atom", justify="right")
    for row in rows:
        table.add_row(str(row.layer), row.part, f"{row.parameters:,}", f"{row.flops_per_atom:,.0f}")
    table.add_section()
    parameters, flops = sum(row.parameters for row in rows), sum(row.flops_per_atom for row in rows)
    table.add_row("total", "", f"{parameters:,}", f"{flops:,.0f}")
    return table


def _settings_table(title: str, settings: dict[str, Any]) -> Table:
    table = Table(title=title, show_header=False)
    for name, value in settings.items():
        if isinstance(value, (list, tuple)):
            value = ", ".join(str(item) for item in value)
        elif isinstance(value, float):
            value = f"{value:.6g}"
        table.add_row(name, "–" if value is None or value == "" else str(value))
    return table


def _statistics_table(config: ModelConfig, statistics: ModelStatistics) -> Table:
    table = Table(title="Constants of the training set", show_header=False)
    for symbol in config.species:
        table.add_row(f"E0 of {symbol}", f"{statistics.reference_energies.get(symbol, 0.0):.6f} eV")
    table.add_row("energy scale σ", f"{statistics.energy_scale:.6g} eV")
    table.add_row("mean neighbours n̄", f"{statistics.mean_neighbours:.4g}")
    return table


def summarise_data(path: Path, cutoff: float, console: Console | None = None) -> None:
    """Print counts, labels and ranges of a structure file (neighbours within ``cutoff`` Å) or run."""
    console = console or Console()
    if path.suffix.lower() in YAML_SUFFIXES:
        config = read_run_config(path)
        console.print(prepare(config.data, config.model).summary.table())
        return
    frames = FrameCollection([path])
    numbers = np.unique(np.concatenate([frame.numbers for frame in frames]))
    species = tuple(formula_symbols(numbers))
    found = set_statistics(GraphDataset(frames, species, cutoff, cache_bytes=0))
    console.print(_settings_table(f"{path}", set_summary(found, cutoff)))


def set_summary(found: SetStatistics, cutoff: float) -> dict[str, str]:
    """Counts, labels and ranges of one set of structures, by a name with its unit."""
    low, high = found.energy_per_atom_range
    fewest, mean, most = found.neighbours
    return {
        "structures": str(found.frames),
        "atoms": f"{found.atoms}, {found.atoms_range[0]} to {found.atoms_range[1]} in a structure",
        "elements": ", ".join(f"{symbol} {count}" for symbol, count in found.element_counts.items()),
        "periodic structures": str(found.periodic_frames),
        "energy labels": str(found.energy_labels),
        "force labels": str(found.force_labels),
        "stress labels": str(found.stress_labels),
        "energy per atom (eV)": f"{low:.4f} to {high:.4f}" if found.energy_labels else "",
        "force component, RMS (eV/Å)": f"{found.force_rms:.4f}" if found.force_labels else "",
        "force component, largest (eV/Å)": f"{found.force_max:.4f}" if found.force_labels else "",
        f"neighbours within {cutoff:g} Å, fewest / mean / most": f"{fewest} / {mean:.1f} / {most}",
    }
