"""Writing and reading the model file of docs/model_file.md. Energies in eV, lengths in Å."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import symmd_md._engine as _engine
from symmd_md.configuration import from_mapping
from symmd_md.errors import ModelFileError
from symmd_md.files import write_atomically
from symmd_md.model import ModelConfig, ModelStatistics, SymmdNetwork
from symmd_md.models import model_path

FORMAT_VERSION = "1"
LONGEST_HEADER = 1 << 20
"""Bytes of the safetensors header, and so of the model's header in it, that the engine reads."""
UNITS = {"length": "angstrom", "energy": "eV"}
DTYPES = {torch.float32: "F32", torch.float64: "F64"}
RADIAL_TABLE = "radial_table"

Precision = Literal["float32", "float64"]


@dataclass(frozen=True)
class ModelFile:
    """A model file that was read and checked by the engine's reader."""

    header: dict[str, Any]
    """The JSON header as docs/model_file.md describes it."""
    tensors: dict[str, Tensor]
    """Tensors by name, all in the precision that they are stored in."""
    sha256: str
    """64 hexadecimal digits, over header and tensors."""

    @property
    def config(self) -> ModelConfig:
        """Hyperparameters of the network; ``layer_cutoffs`` are always written out."""
        outside = {name: self.header[name] for name in ("species", "cutoff", "layer_cutoffs")}
        return from_mapping(ModelConfig, self.header["hyperparameters"] | outside, "model")

    @property
    def statistics(self) -> ModelStatistics:
        """E0 (eV), energy scale (eV) and mean neighbour count."""
        names = [entry.name for entry in dataclasses.fields(ModelStatistics)]
        return from_mapping(ModelStatistics, {name: self.header[name] for name in names}, "statistics")


class TabulatedRadial(nn.Module):
    """A radial function known by its spline table alone, in the place of the network that made it (eq. 7)."""

    values: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values)

    def table(self) -> Tensor:
        """[2 (knots + 1), paths × channels]: what ``RadialNetwork.table`` of the exported network gave."""
        return self.values


def write_model_file(
    network: SymmdNetwork,
    path: Path,
    provenance: dict[str, Any],
    validated_precisions: Collection[Precision] = (),
) -> None:
    """Write a bare ``.safetensors`` model in the network's precision; ``path`` is never half a file.

    ``provenance``: where the weights come from, anything that JSON holds. ``validated_precisions``: those in
    which the engine was compared with this network.
    """
    write_atomically(Path(path), model_file_bytes(network, provenance, validated_precisions))


def model_file_bytes(
    network: SymmdNetwork, provenance: dict[str, Any], validated_precisions: Collection[Precision] = ()
) -> bytes:
    """What ``write_model_file`` writes. The same network and provenance give the same bytes.

    That is why the safetensors library does not write it: that puts the metadata in a new order each time.
    """
    header = _json(_header(network, provenance, validated_precisions), "the provenance of the model")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _named_tensors(network)}
    digest = hashlib.sha256(f"symmd {FORMAT_VERSION}\n".encode())
    digest.update(f"header {len(header.encode())}\n{header}".encode())
    entries: dict[str, Any] = {}
    data: list[bytes] = []
    start = 0
    for name, tensor in sorted(tensors.items()):
        dtype, shape = DTYPES[tensor.dtype], list(tensor.shape)
        # The format is little-endian on every machine.
        content = tensor.numpy().astype(f"<f{tensor.element_size()}", copy=False).tobytes()
        digest.update(f"\n{name} {dtype} {','.join(map(str, shape))}\n".encode())
        digest.update(content)
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + len(content)]}
        data.append(content)
        start += len(content)
    metadata = {
        "format": "symmd",
        "format_version": FORMAT_VERSION,
        "header": header,
        "sha256": digest.hexdigest(),
    }
    described = _json({"__metadata__": metadata} | entries, "the header of the model").encode()
    described += b" " * (-len(described) % 8)
    if len(described) > LONGEST_HEADER:
        raise ModelFileError(
            f"the header of the model has {len(described)} bytes, more than the {LONGEST_HEADER} that "
            "are read; shorten its provenance"
        )
    written = b"".join((len(described).to_bytes(8, "little"), described, *data))
    # Nothing is handed out that the engine would refuse: NaN in a weight, a provenance nested too deep.
    _engine.model_file_summary(written, "of this network")
    return written


def read_model_file(path: Path) -> ModelFile:
    """Read a bare ``.safetensors`` model or a ``model.pt`` with the engine's reader, which checks it all."""
    summary, arrays = _engine.load_model_file(model_path(path))
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return ModelFile(header=summary["header"], tensors=tensors, sha256=summary["sha256"])


def network_from_model_file(path: Path) -> SymmdNetwork:
    """The exported network in the precision of the file, its radial networks replaced by their tables."""
    model = read_model_file(path)
    # Making a network draws random weights; a caller's random numbers must not depend on that.
    with torch.random.fork_rng(devices=[]):
        network = SymmdNetwork(model.config, model.statistics)
    network.to(next(iter(model.tensors.values())).dtype)
    layers: Any = network.layers
    for index, layer in enumerate(layers):
        layer.radial = TabulatedRadial(model.tensors[f"layers.{index}.{RADIAL_TABLE}"].flatten(1))
    with torch.no_grad():
        for name, weight in _weights(network):
            weight.copy_(model.tensors[name])
    network.requires_grad_(False)
    return network.eval()


def _weights(network: SymmdNetwork) -> Iterator[tuple[str, Tensor]]:
    """Learned tensors by their names in the file, all but the radial functions."""
    yield "embedding", network.embedding
    layers: Any = network.layers
    for index, layer in enumerate(layers):
        prefix = f"layers.{index}."
        yield prefix + "values", layer.values.weight
        if layer.queries is not None:
            yield prefix + "queries", layer.queries.weight
            yield prefix + "sink", layer.edge_pass.sink
        if layer.blend is not None:
            yield prefix + "blend", layer.blend.weight
            yield prefix + "square", layer.products.square.weight
            if layer.products.cube is not None:
                yield prefix + "cube", layer.products.cube.weight
        for power, mix in enumerate(layer.mix, 1):
            yield f"{prefix}mix.{power}", mix.weight
        yield prefix + "skip", layer.skip.weight
    for index, readout in enumerate(network.readouts):
        yield f"readouts.{index}", readout
    yield "readout_inner", network.readout_inner
    yield "readout_outer", network.readout_outer


def _named_tensors(network: SymmdNetwork) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the file; the radial functions as [2 (knots + 1), paths, channels] tables (eq. 7).

    Tables are worked out in fp64 and rounded once: a force takes differences of a table's values over a short
    spacing, and tables of an fp32 network would carry more noise than all other fp32 arithmetic together.
    """
    yield from _weights(network)
    layers: Any = network.layers
    for index, layer in enumerate(layers):
        table = copy.deepcopy(layer.radial).double().table().to(network.embedding.dtype)
        yield f"layers.{index}.{RADIAL_TABLE}", table.unflatten(1, (-1, network.config.channels))


def _header(
    network: SymmdNetwork, provenance: dict[str, Any], validated_precisions: Collection[Precision]
) -> dict[str, Any]:
    config, statistics = network.config, network.statistics
    hyperparameters = dataclasses.asdict(config)
    for outside in ("species", "cutoff", "layer_cutoffs"):
        del hyperparameters[outside]
    return {
        "species": config.species,
        "cutoff": config.cutoff,
        "layer_cutoffs": [config.cutoff_of_layer(layer) for layer in range(config.layers)],
        "hyperparameters": hyperparameters,
        "units": UNITS,
        "reference_energies": {
            symbol: statistics.reference_energies.get(symbol, 0.0) for symbol in config.species
        },
        "energy_scale": statistics.energy_scale,
        "mean_neighbours": statistics.mean_neighbours,
        "validated_precisions": sorted(validated_precisions),
        "provenance": provenance,
    }


def _json(content: dict[str, Any], subject: str) -> str:
    try:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
        return text
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"{subject} does not fit into JSON, give plain finite values: {error}") from None
