"""The model file: what is written is what is read; archives, damage, paths, and writing."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.build
import numpy as np
import pytest
import safetensors.torch
import torch
from ase.data import chemical_symbols

from model_cases import CONFIGS, SPECIES, STATISTICS, graph_of, make_config, make_network
from model_file_cases import ENTRY, PROVENANCE, SMALL, Archive, Parts, assert_refused, read, small_parts
from symmd_md import _engine, kernels
from symmd_md.errors import ModelFileError
from symmd_md.export import model_file_bytes, network_from_model_file, read_model_file, write_model_file
from symmd_md.export.model_file import TabulatedRadial
from symmd_md.model import ModelStatistics, SymmdNetwork
from symmd_md.train.checkpoint import write_checkpoint


@pytest.fixture
def parts() -> Parts:
    """A valid model in pieces that may be changed."""
    return small_parts()


# Round trip


@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_network_read_back_gives_the_same_energies_and_forces(
    name: str, precision: torch.dtype, tmp_path: Path
) -> None:
    # torch multiplies matrices in another order where a gradient may be asked for.
    network = make_network(CONFIGS[name]).to(precision).requires_grad_(False)
    write_model_file(network, tmp_path / "model.safetensors", PROVENANCE)
    again = network_from_model_file(tmp_path / "model.safetensors")
    graph = graph_of(ase.build.molecule("CH3CH2OH"), network.config).to(dtype=precision)
    # The file's tables are worked out in fp64 and rounded once.
    for layer in network.layers:
        layer.radial = TabulatedRadial(copy.deepcopy(layer.radial).double().table().to(precision))
    expected, found = network(graph), again(graph)
    assert found.forces.dtype == precision
    assert torch.equal(found.energy, expected.energy)
    assert torch.equal(found.forces, expected.forces)
    assert again.statistics == network.statistics
    layer_cutoffs = tuple(network.config.cutoff_of_layer(layer) for layer in range(network.config.layers))
    assert again.config == make_config(**{**vars(network.config), "layer_cutoffs": layer_cutoffs})


@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
def test_tensors_are_the_networks_to_the_last_bit(precision: torch.dtype, tmp_path: Path) -> None:
    network = make_network(CONFIGS["default"]).to(precision)
    path = tmp_path / "model.safetensors"
    write_model_file(network, path, PROVENANCE)
    ours, library = read_model_file(path).tensors, safetensors.torch.load_file(path)
    assert list(ours) == sorted(library)
    for name, tensor in ours.items():
        assert tensor.dtype == precision
        assert torch.equal(tensor, library[name])
    state = network.state_dict()
    assert torch.equal(ours["embedding"], state["embedding"])
    assert torch.equal(ours["layers.1.queries"], state["layers.1.queries.weight"])
    assert torch.equal(ours["layers.1.sink"], state["layers.1.edge_pass.sink"])
    assert torch.equal(ours["layers.0.mix.3"], state["layers.0.mix.2.weight"])
    assert torch.equal(ours["layers.0.cube"], state["layers.0.products.cube.weight"])
    assert torch.equal(ours["readout_inner"], state["readout_inner"])
    # Worked out in fp64 and rounded once.
    table = network.layers[1].radial.double().table().to(precision)
    assert torch.equal(ours["layers.1.radial_table"].flatten(1), table)


def test_summary_holds_header_and_shapes(tmp_path: Path) -> None:
    network = make_network(SMALL).float()
    write_model_file(network, tmp_path / "model.safetensors", PROVENANCE, {"float64", "float32"})
    summary = _engine.model_file_summary(tmp_path / "model.safetensors")
    assert set(summary) == {"format_version", "header", "dtype", "tensors", "sha256"}
    assert (summary["format_version"], summary["dtype"]) == (1, "float32")
    header = summary["header"]
    assert header["provenance"] == PROVENANCE
    assert header["validated_precisions"] == ["float32", "float64"]
    assert header["species"] == list(SPECIES)
    assert header["layer_cutoffs"] == [3.5, 3.5]
    assert header["reference_energies"] == STATISTICS.reference_energies
    assert header["hyperparameters"]["heads"] == 4
    assert summary["tensors"]["layers.0.radial_table"] == (34, 2, 16)
    assert summary["tensors"]["layers.1.skip"] == (1, 3, 16, 16)
    assert re.fullmatch("[0-9a-f]{64}", summary["sha256"])
    assert "readouts.1" not in summary["tensors"]


def test_a_file_made_by_the_document_is_the_writers(parts: Parts) -> None:
    written = read(model_file_bytes(make_network(SMALL), PROVENANCE))
    compact = json.dumps(parts.header, ensure_ascii=False, separators=(",", ":"))
    assert read(Parts(compact, parts.tensors).built()) == written


def test_the_same_network_gives_the_same_bytes() -> None:
    first, second = (model_file_bytes(make_network(SMALL), PROVENANCE) for _ in range(2))
    assert first == second


def test_a_network_with_compiled_operators_is_the_same_model() -> None:
    assert kernels.available()
    plain = model_file_bytes(make_network(SMALL), PROVENANCE)
    assert model_file_bytes(kernels.use_fused(make_network(SMALL)), PROVENANCE) == plain


def test_reading_draws_no_random_numbers(tmp_path: Path) -> None:
    write_model_file(make_network(SMALL), tmp_path / "model.safetensors", PROVENANCE)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    network_from_model_file(tmp_path / "model.safetensors")
    assert torch.equal(torch.rand(3), expected)


def test_constants_keep_every_digit(parts: Parts) -> None:
    numbers = {"H": -13.587222780835477, "C": -1029.4889999999998, "O": 5e-324}
    statistics = ModelStatistics(numbers, 0.1 + 0.2, 1e300)
    network = SymmdNetwork(SMALL, statistics)
    header = read(model_file_bytes(network, {}))["header"]
    assert header["reference_energies"] == numbers
    assert (header["energy_scale"], header["mean_neighbours"]) == (0.1 + 0.2, 1e300)


@pytest.mark.parametrize("length", [0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 128, 1000])
def test_checksums_of_any_length(length: int, parts: Parts) -> None:
    parts.header["provenance"] = {}
    base = len(json.dumps(parts.header))
    parts.header["provenance"] = {"fill": "x" * length}
    assert len(json.dumps(parts.header)) == base + len('"fill": ""') + length
    read(parts.built())


def test_every_element_is_known(parts: Parts) -> None:
    parts.header["species"] = chemical_symbols[1:119]
    parts.header["reference_energies"] = dict.fromkeys(chemical_symbols[1:119], 0.0)
    for name, array in parts.tensors.items():
        axis = next((axis for axis, size in enumerate(array.shape) if size == 3), None)
        if axis is not None and name.split(".")[-1] in {"embedding", "square", "cube", "skip"}:
            parts.tensors[name] = np.repeat(array.take([0], axis), 118, axis)
    assert read(parts.built())["tensors"]["embedding"] == (118, 16)


# The archive


class Identity(torch.nn.Module):
    """Something for TorchScript to hold."""

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """Its argument."""
        return positions


def test_a_torchscript_archive_is_read(tmp_path: Path) -> None:
    network = make_network(SMALL)
    content = model_file_bytes(network, PROVENANCE)
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.script(Identity()), str(path), _extra_files={"symmd.safetensors": content})
    assert _engine.model_file_summary(path) == read(content)
    assert torch.equal(torch.jit.load(path)(torch.ones(2)), torch.ones(2))
    assert torch.equal(network_from_model_file(path).embedding, network.embedding)


@pytest.mark.parametrize("settings", [{}, {"wide": True}, {"comment": b"PK\x05\x06" + b"c" * 300}])
def test_other_archives_are_read(parts: Parts, settings: dict[str, Any]) -> None:
    content = parts.built()
    assert read(Archive(content, **settings).built()) == read(content)


DAMAGED = "it is a damaged zip archive, {}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "x"}, r"it is a zip archive without an entry '\*/extra/symmd.safetensors', so not a .*"),
        ({"copies": 2}, DAMAGED.format("it holds the model twice")),
        ({"method": 8}, f"its entry '{ENTRY}' is compressed, but a model must be stored as it is"),
        ({"flags": 1}, DAMAGED.format("its model is encrypted")),
        ({"disk": 1}, DAMAGED.format("it is one part of several")),
        ({"disk": 1, "wide": True}, DAMAGED.format("it is one part of several")),
        ({"entries": 2}, DAMAGED.format("its central directory breaks off")),
        ({"entries": 2**63, "wide": True}, DAMAGED.format("its central directory breaks off")),
        ({"entries": 0}, DAMAGED.format("its central directory is longer than its entries")),
        ({"directory": 2**31}, DAMAGED.format("its central directory lies outside it")),
        ({"directory": 2**64 - 8, "wide": True}, DAMAGED.format("its central directory lies outside it")),
        ({"position": 9}, DAMAGED.format("the header of its model is missing")),
        ({"position": 2**64 - 16, "wide": True}, DAMAGED.format("the header of its model is missing")),
        ({"local_name": "model/extra/symmd.safetensorz"},
         DAMAGED.format("the header of its model has another name than the directory")),
        ({"size": 2**30}, DAMAGED.format("its model reaches beyond it")),
        ({"size": 2**64 - 1, "wide": True}, DAMAGED.format("its model reaches beyond it")),
        ({"size": 2**32 - 1}, DAMAGED.format("the zip64 sizes of an entry are missing")),
    ],
)  # fmt: skip
def test_wrong_archives_are_refused(parts: Parts, settings: dict[str, Any], message: str) -> None:
    assert_refused(Archive(parts.built(), **settings).built(), message)


def test_an_archive_without_its_end_is_refused(parts: Parts) -> None:
    whole = Archive(parts.built()).built()
    assert_refused(whole[:-1], DAMAGED.format("it has no end record"))
    wide = Archive(parts.built(), wide=True).built()
    assert_refused(wide[:-42] + wide[-22:], DAMAGED.format("its zip64 locator is missing"))
    assert_refused(
        wide[:-42] + b"PK\6\7" + bytes(16) + wide[-22:], DAMAGED.format("its zip64 end record is missing")
    )


# Damage


def test_a_file_cut_anywhere_is_refused(parts: Parts) -> None:
    for content in (parts.built(), Archive(parts.built()).built()):
        for length in [*range(0, 4000, 37), *range(4000, len(content), 997), len(content) - 1]:
            with pytest.raises(ModelFileError, match="cannot use model file"):
                read(content[:length])


def test_a_byte_changed_anywhere_is_refused(parts: Parts) -> None:
    content = parts.built()
    for position in [*range(0, 4000, 7), *range(4000, len(content), 499), len(content) - 1]:
        changed = bytearray(content)
        changed[position] ^= 1
        with pytest.raises(ModelFileError, match="cannot use model file"):
            read(bytes(changed))


def test_a_changed_weight_is_noticed(parts: Parts) -> None:
    content = bytearray(parts.built())
    content[-1] ^= 1
    assert_refused(
        bytes(content),
        "it is damaged: the SHA-256 of its content is not the one that it was written with",
    )


def test_a_changed_header_is_noticed(parts: Parts) -> None:
    sha256 = read(parts.built())["sha256"]
    parts.header["reference_energies"]["H"] += 1.0
    parts.metadata["sha256"] = sha256
    assert_refused(parts.built(), "it is damaged: the SHA-256 .*")


def test_a_swap_of_two_tensors_is_noticed(parts: Parts) -> None:
    sha256 = read(parts.built())["sha256"]
    tensors = parts.tensors
    tensors["layers.1.values"], tensors["layers.1.queries"] = (
        tensors["layers.1.queries"],
        tensors["layers.1.values"],
    )
    parts.metadata["sha256"] = sha256
    assert_refused(parts.built(), "it is damaged: the SHA-256 .*")


# Paths


@pytest.mark.parametrize("function", [_engine.model_file_summary, _engine.load_model_file, read_model_file])
def test_files_that_are_none_are_refused(function: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"none.pt: it does not exist; name a file that symmd export"):
        function(tmp_path / "none.pt")
    with pytest.raises(ModelFileError, match="it is not a regular file; name a file that symmd export"):
        function(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="pipe: it is not a regular file"):
        function(tmp_path / "pipe")
    with (tmp_path / "sparse.pt").open("wb") as stream:
        stream.truncate(2**32 + 1)
    with pytest.raises(ModelFileError, match="it has 4294967297 bytes, more than the 4 GiB of the largest"):
        function(tmp_path / "sparse.pt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"")
    (tmp_path / "model.pt").chmod(0)
    with pytest.raises(ModelFileError, match="it cannot be opened; check that it may be read"):
        _engine.model_file_summary(tmp_path / "model.pt")


def test_a_checkpoint_is_recognised(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "best.ckpt", {"averaged": {}})
    with pytest.raises(ModelFileError, match="it is a training checkpoint; make a model of it with symmd"):
        _engine.model_file_summary(tmp_path / "best.ckpt")


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    torch.save({"embedding": torch.ones(2)}, tmp_path / "weights.pt")
    with pytest.raises(ModelFileError, match="it is a zip archive without an entry"):
        _engine.model_file_summary(tmp_path / "weights.pt")


def test_a_path_need_not_be_text(parts: Parts, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/model-\xff.pt"
    with pytest.raises(ModelFileError, match=r"model-\udcff[.]pt: it does not exist"):
        _engine.model_file_summary(os.fsdecode(path))
    Path(os.fsdecode(path)).write_bytes(parts.built())
    assert _engine.model_file_summary(os.fsdecode(path)) == read(parts.built())


# Writing


def test_writing_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    write_model_file(make_network(SMALL), path, PROVENANCE)
    before = path.read_bytes()

    def fail(*arguments: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_model_file(make_network(SMALL, seed=1), path, PROVENANCE)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def refused_writing(tmp_path: Path, network: SymmdNetwork, provenance: dict[str, Any], message: str) -> None:
    """Nothing is written, and the reason is said."""
    with pytest.raises(ModelFileError, match=message):
        write_model_file(network, tmp_path / "model.safetensors", provenance)
    assert not list(tmp_path.iterdir())


def test_a_diverged_network_is_not_written(tmp_path: Path) -> None:
    network = make_network(SMALL)
    with torch.no_grad():
        network.layers[1].skip.weight[0, 1, 2, 3] = torch.nan
    message = "tensor 'layers.1.skip' holds NaN or infinity at number 291: the training diverged"
    refused_writing(tmp_path, network, {}, message)


def test_a_network_without_scale_is_not_written(tmp_path: Path) -> None:
    network = SymmdNetwork(SMALL, ModelStatistics({}, 0.0, 1.0))
    refused_writing(tmp_path, network, {}, "'energy_scale' in its header must be positive, found 0")


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, "\ud800", Path()])
def test_a_provenance_that_is_not_json_is_not_written(value: object, tmp_path: Path) -> None:
    message = "the provenance of the model does not fit into JSON, give plain finite values: "
    refused_writing(tmp_path, make_network(SMALL), {"any": value}, message)


def test_a_provenance_that_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    network = make_network(SMALL)
    nested: Any = []
    for _ in range(40):
        nested = [nested]
    message = "its model header is not valid JSON .* nested more than 32 deep"
    refused_writing(tmp_path, network, {"any": nested}, message)
    message = r"has \d+ bytes, more than the 1048576 .* shorten its provenance$"
    refused_writing(tmp_path, network, {"any": "x" * 2**20}, message)
