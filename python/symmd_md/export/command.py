"""``symmd export``: from a checkpoint to a model file that was compared with its network."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

import symmd_md
from symmd_md import _engine, kernels
from symmd_md.configuration import from_mapping, read_yaml
from symmd_md.errors import ConfigurationError
from symmd_md.export.model_file import Precision, model_file_bytes
from symmd_md.export.self_check import Comparison, Exported, engines, script_module, self_check, worst_of_each
from symmd_md.files import write_atomically
from symmd_md.model import ModelConfig, ModelStatistics, SymmdNetwork
from symmd_md.train.checkpoint import read_checkpoint
from symmd_md.train.load import network_of

DEFAULT_NAME = "model.pt"
ARCHIVE, BARE = ".pt", ".safetensors"
RANDOM_SEED = 0
VALIDATION_UNITS = {"energy": "meV/atom", "forces": "meV/Å", "stress": "meV/Å³"}
CHECKED: tuple[Precision, ...] = ("float32", "float64")


@dataclass(frozen=True)
class Source:
    """A network, and where its weights come from."""

    network: SymmdNetwork
    provenance: dict[str, Any]
    """Plain values for the header of the model file."""
    path: Path
    """Checkpoint or configuration."""


@dataclass(frozen=True)
class Export:
    """What was written."""

    source: Source
    model: Path
    portable: Path | None
    sha256: str
    comparisons: list[Comparison]

    def summary(self) -> Table:
        """What is in the file, with units."""
        config, statistics = self.source.network.config, self.source.network.statistics
        table = Table(title=Text(str(self.model)), show_header=False)
        rows = _origin(self.source.provenance) | {
            "species": ", ".join(config.species),
            "cutoff": f"{config.cutoff:g} Å",
            "layers": str(config.layers),
            "channels, heads": f"{config.channels}, {config.heads}",
            "degrees of messages, features": f"{config.max_degree}, {config.hidden_degree}",
            "body order": str(config.body_order),
            "parameters": f"{sum(item.numel() for item in self.source.network.parameters()):,}",
            "energy scale σ": f"{statistics.energy_scale:.6g} eV",
            "precision of the weights": _precision(self.source.network),
        }
        for path in filter(None, (self.model, self.portable)):
            rows[path.name] = f"{path.stat().st_size / 1024:,.0f} kB"
        rows["SHA-256"] = f"{self.sha256[:16]}…"
        for name, value in rows.items():
            table.add_row(name, Text(value))  # brackets in the name of a file are no markup
        return table

    def self_check(self) -> Table:
        """The largest differences between what was written and the network in fp64."""
        table = Table(title="Self-check against the network in float64")
        for name in ("exported", "precision", "quantity"):
            table.add_column(name)
        for name in ("error", "allowed"):
            table.add_column(name, justify="right")
        table.add_column("structure")
        for found in worst_of_each(self.comparisons):
            table.add_row(
                *(found.exported, found.precision, f"{found.quantity} ({found.unit})"),
                *(f"{found.error:.1e}", f"{found.allowed:.1e}", found.structure),
            )
        return table


def run_export(
    checkpoint: Path | None,
    random: Path | None = None,
    output: Path | None = None,
    portable: bool = False,
    console: Console | None = None,
) -> Export:
    """Make, compare and write a model file of a checkpoint or of random weights, and print its tables."""
    if (checkpoint is None) == (random is None):
        found = "neither" if checkpoint is None else "both"
        raise ConfigurationError(
            f"expected either a checkpoint or --random CONFIG, found {found}; name one of them"
        )
    named = checkpoint or random
    assert named is not None
    path = output or named.parent / DEFAULT_NAME
    _refuse_unusable(path)
    source = trained(checkpoint) if checkpoint is not None else random_weights(named)
    exported = export_model(source, path, portable)
    console = console or Console()
    console.print(exported.summary())
    console.print(exported.self_check())
    return exported


def trained(path: Path) -> Source:
    """The network of a checkpoint with its averaged weights, as ``symmd eval`` uses it."""
    content = read_checkpoint(path)
    network = network_of(content, path)
    provenance = {
        "origin": "checkpoint",
        "checkpoint": str(path),
        **_exporter(),
        "training": content.get("provenance"),
        "config": content["config"],
    }
    return Source(network, _finite(provenance), path)


def random_weights(path: Path) -> Source:
    """The network that the section ``model`` of a configuration describes, as training would start it.

    E0 are 0, the energy scale is 1 eV and the mean neighbour count 20; the same file gives the same weights.
    """
    config = from_mapping(ModelConfig, read_yaml(path).get("model") or {}, "model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        network = SymmdNetwork(config, ModelStatistics())
    network.requires_grad_(False)
    provenance = {
        "origin": "random weights",
        "configuration": str(path),
        "seed": RANDOM_SEED,
        **_exporter(),
    }
    return Source(network.eval(), provenance, path)


def export_model(source: Source, path: Path, portable: bool = False) -> Export:
    """Write ``path`` (and NAME_portable.pt beside it) once everything agrees with the network."""
    content = model_file_bytes(source.network, source.provenance, CHECKED)
    written = {path: content}
    candidates: list[Exported] = engines(content)
    if path.suffix == ARCHIVE:
        written[path] = _archive(content)
        candidates.append(script_module("TorchScript", _loaded(written[path]), "float32"))
    beside: Path | None = None
    if portable:
        from symmd_md.export.torchscript import portable_module

        beside = path.with_name(f"{path.stem}_portable{ARCHIVE}")
        written[beside] = _saved(portable_module(source.network))
        portable_of = _loaded(written[beside])
        candidates.append(script_module("portable", portable_of, _precision(source.network)))
    comparisons = self_check(source.network, candidates)
    # The engine reads the archive itself, not the bytes that went into it.
    summary = _engine.model_file_summary(written[path], str(path))
    for target, data in written.items():
        write_atomically(target, data)
    return Export(source, path, beside, summary["sha256"], comparisons)


def _archive(content: bytes) -> bytes:
    from symmd_md.export.torchscript import engine_module, model_pt_bytes

    return model_pt_bytes(engine_module(content), content)


def _saved(module: torch.jit.ScriptModule) -> bytes:
    stream = io.BytesIO()
    torch.jit.save(module, stream)
    return stream.getvalue()


def _loaded(data: bytes) -> torch.jit.ScriptModule:
    return torch.jit.load(io.BytesIO(data), map_location="cpu")


def _refuse_unusable(path: Path) -> None:
    """What can be known to fail at the end is refused at the beginning."""
    if path.is_dir():
        raise ConfigurationError(f"{path} is a folder; name a file in it, such as {path / DEFAULT_NAME}")
    if path.suffix not in (ARCHIVE, BARE):
        raise ConfigurationError(
            f"expected an output that ends with {ARCHIVE} (TorchScript archive) or {BARE} (the bare model), "
            f"found {path}; rename it"
        )
    if path.suffix == ARCHIVE:
        try:
            kernels.require()
        except ConfigurationError as error:
            raise ConfigurationError(
                f"{path} cannot be written because {error}; or export the bare model, which all front ends "
                f"but TorchScript read: -o {path.with_suffix(BARE)}"
            ) from None


def _exporter() -> dict[str, Any]:
    written = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"exported": written, "symmd_version": symmd_md.__version__}


def _origin(provenance: dict[str, Any]) -> dict[str, str]:
    if provenance["origin"] != "checkpoint":
        return {"made of": f"random weights (seed {provenance['seed']}) for {provenance['configuration']}"}
    training = provenance["training"] or {}
    rows = {"made of": provenance["checkpoint"], "trained for": f"{training.get('epoch', '?')} epochs"}
    errors = training.get("valid_errors") or {}
    for quantity, unit in VALIDATION_UNITS.items():
        error = errors.get(f"{quantity}_rmse")
        if error is not None:
            rows[f"validation RMSE, {quantity}"] = f"{error:.4g} {unit}"
    return rows


def _precision(network: SymmdNetwork) -> Precision:
    return "float64" if network.embedding.dtype == torch.float64 else "float32"


def _finite(value: Any) -> Any:
    """JSON has no NaN, which an error without labels is."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
