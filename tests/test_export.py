"""symmd export and symmd info of what it wrote: content, self-check, refusals."""

from __future__ import annotations

import copy
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import symmd_md
from model_cases import CONFIGS, make_config, make_network
from symmd_md import _engine, cli, kernels, operators
from symmd_md.data import build_graph
from symmd_md.data.frame import cell_heights
from symmd_md.errors import ConfigurationError, ModelFileError
from symmd_md.export import command, model_file_bytes, read_model_file, write_model_file
from symmd_md.export.command import random_weights, run_export, trained
from symmd_md.export.self_check import (
    Exported,
    check_structures,
    engines,
    script_module,
    self_check,
    worst_of_each,
)
from symmd_md.model import SymmdNetwork
from symmd_md.train import run_config, train
from symmd_md.train.checkpoint import read_checkpoint, write_checkpoint
from symmd_md.train.load import load_network
from training_cases import child_environment, make_frames, run_mapping, write_frames

needs_operators = pytest.mark.skipif(not kernels.available(), reason="the operator library was not built")
MODEL = {"species": ["H", "O"], "channels": 16, "heads": 2, "cutoff": 4.0, "radial_knots": 64}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short training run in float32."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_frames(folder / "springs.xyz", make_frames())
    train(run_config(run_mapping(data, max_epochs=2, precision="float32")), folder / "run")
    return folder / "run"


@pytest.fixture
def checkpoint(run_folder: Path, tmp_path: Path) -> Path:
    """A checkpoint in a folder of its own."""
    return Path(shutil.copy(run_folder / "best.ckpt", tmp_path / "best.ckpt"))


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({"model": MODEL}))
    return path


@pytest.fixture
def no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package looks for the operator library in an empty folder."""
    (tmp_path / "empty").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(symmd_md, "__path__", [str(tmp_path / "empty")])
        operators.reason_not_loaded.cache_clear()
        yield
    operators.reason_not_loaded.cache_clear()


@pytest.fixture
def symmd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run ``symmd`` in this process; gives what it prints, or its error where ``code`` is not 0."""
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: str | Path, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["symmd", *map(str, arguments)])
        found = 0
        try:
            cli.main()
        except SystemExit as end:
            found = int(end.code or 0)
        printed = capsys.readouterr()
        assert found == code, printed.err
        return printed.err if code else printed.out

    return run


# What is written


@needs_operators
def test_a_model_stands_beside_its_checkpoint_and_says_where_it_comes_from(
    checkpoint: Path, symmd: Callable[..., str]
) -> None:
    printed = symmd("export", checkpoint)
    path = checkpoint.parent / "model.pt"
    model = read_model_file(path)
    assert model.header["validated_precisions"] == ["float32", "float64"]
    provenance = model.header["provenance"]
    content = read_checkpoint(checkpoint)
    assert provenance["origin"] == "checkpoint"
    assert provenance["checkpoint"] == str(checkpoint)
    assert provenance["symmd_version"] == symmd_md.__version__
    assert provenance["exported"].startswith("20")
    assert provenance["config"] == content["config"]
    assert provenance["config"]["data"]["train"].endswith("springs.xyz")
    assert provenance["training"]["epoch"] == content["provenance"]["epoch"]
    errors = content["provenance"]["valid_errors"]
    assert provenance["training"]["valid_errors"]["forces_rmse"] == errors["forces_rmse"]
    for part in ("H, C, O", "4 Å", "validation RMSE, forces", "2,906", model.sha256[:16], "TorchScript"):
        assert part in printed
    # Two precisions of the engine (energy and forces; and virial), and the module that the archive holds.
    assert printed.count("│ engine ") == 5
    assert printed.count("│ TorchScript ") == 2


def test_the_weights_are_the_averaged_ones_that_eval_uses(checkpoint: Path) -> None:
    written = run_export(checkpoint, output=checkpoint.parent / "model.safetensors")
    model = read_model_file(written.model)
    network = load_network(checkpoint)
    assert {tensor.dtype for tensor in model.tensors.values()} == {torch.float32}
    assert torch.equal(model.tensors["embedding"], network.embedding)
    assert torch.equal(model.tensors["readout_inner"], network.readout_inner)
    table = network.layers[0].radial.table()
    torch.testing.assert_close(model.tensors["layers.0.radial_table"].flatten(1), table, rtol=1e-4, atol=1e-5)
    assert model.statistics == network.statistics
    assert written.sha256 == model.sha256


def test_a_checkpoint_in_double_precision_stays_double(tmp_path: Path) -> None:
    data = write_frames(tmp_path / "data.xyz", make_frames())
    train(run_config(run_mapping(data, max_epochs=1)), tmp_path / "run")
    written = run_export(tmp_path / "run" / "last.ckpt", output=tmp_path / "model.safetensors", portable=True)
    assert read_model_file(written.model).tensors["embedding"].dtype == torch.float64
    assert {(item.exported, item.precision) for item in written.comparisons} == {
        ("engine", "float32"), ("engine", "float64"), ("portable", "float64")
    }  # fmt: skip


@needs_operators
def test_the_archive_is_torchscript_and_the_portable_module_needs_torch_alone(
    checkpoint: Path, symmd: Callable[..., str]
) -> None:
    printed = symmd("export", checkpoint, "-o", checkpoint.parent / "small.pt", "--portable")
    assert printed.count("│ portable ") == 2
    assert "small_portable.pt" in printed
    atoms = make_frames(1)[0]
    numbers, positions = torch.from_numpy(atoms.numbers), torch.from_numpy(atoms.positions)
    module = torch.jit.load(checkpoint.parent / "small.pt")
    engine = _engine.Engine(checkpoint.parent / "small.pt", threads=1)
    expected = engine.compute(engine.species_of(atoms.numbers), atoms.positions)
    np.testing.assert_allclose(
        module.compute(numbers, positions)["forces"].numpy(), expected["forces"], rtol=0, atol=1e-6
    )
    code = (
        "import sys, torch\n"
        "module = torch.jit.load('small_portable.pt')\n"
        f"numbers = torch.tensor({atoms.numbers.tolist()})\n"
        f"positions = torch.tensor({atoms.positions.tolist()}, dtype=torch.float64)\n"
        "print(module.compute(numbers, positions)['forces'].tolist())\n"
        "assert not any(name.startswith('symmd') for name in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=checkpoint.parent, check=True
    )
    np.testing.assert_allclose(json.loads(done.stdout), expected["forces"], rtol=0, atol=1e-5)


def test_an_export_replaces_an_older_one(checkpoint: Path, symmd: Callable[..., str]) -> None:
    path = checkpoint.parent / "model.safetensors"
    path.write_bytes(b"old")
    symmd("export", checkpoint, "-o", path)
    assert read_model_file(path).config.species == ("H", "C", "O")
    assert {item.name for item in path.parent.iterdir()} == {"best.ckpt", "model.safetensors"}


def test_random_weights_are_the_same_each_time_and_leave_the_random_numbers_alone(
    configuration: Path, symmd: Callable[..., str]
) -> None:
    folder = configuration.parent
    state = torch.get_rng_state()
    for name in ("one", "two"):
        printed = symmd("export", "--random", configuration, "-o", folder / f"{name}.safetensors")
        assert f"random weights (seed 0) for {configuration}" in printed
    assert torch.equal(torch.get_rng_state(), state)
    one, two = (read_model_file(folder / f"{name}.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one.tensors[name], two.tensors[name]) for name in one.tensors)
    assert one.header["provenance"]["origin"] == "random weights"
    assert one.header["provenance"]["seed"] == 0
    assert one.statistics.energy_scale == 1.0
    assert one.statistics.mean_neighbours == 20.0
    assert one.header["reference_energies"] == {"H": 0.0, "O": 0.0}


def test_errors_without_labels_are_written_as_nothing(checkpoint: Path) -> None:
    content = read_checkpoint(checkpoint)
    content["provenance"]["valid_errors"]["stress_rmse"] = math.nan
    write_checkpoint(checkpoint, content)
    written = run_export(checkpoint, output=checkpoint.parent / "model.safetensors")
    header = read_model_file(written.model).header
    assert header["provenance"]["training"]["valid_errors"]["stress_rmse"] is None


# Self-check


def exported_bytes(network: SymmdNetwork) -> bytes:
    return model_file_bytes(network, {})


@pytest.mark.parametrize(
    ("name", "precision"), [*((name, torch.float32) for name in CONFIGS), ("default", torch.float64)]
)
def test_the_self_check_passes_for_every_kind_of_network(name: str, precision: torch.dtype) -> None:
    network = make_network(CONFIGS[name]).to(precision)
    comparisons = self_check(network, engines(exported_bytes(network)))
    worst = worst_of_each(comparisons)
    assert [(item.precision, item.quantity) for item in worst] == [
        ("float32", "energy"), ("float32", "forces"),
        ("float64", "energy"), ("float64", "forces"), ("float64", "virial"),
    ]  # fmt: skip
    assert max(item.error for item in worst if item.precision == "float64") < 1e-12
    assert max(item.error for item in worst if item.quantity == "forces") < 2e-5


@pytest.mark.parametrize(
    ("name", "change", "precisions"),
    [
        ("embedding", 1e-3, {"float32", "float64"}),
        ("readout_outer", 1e-4, {"float32", "float64"}),
        ("readout_outer", 1e-8, {"float64"}),
    ],
)
def test_the_self_check_notices_a_slightly_different_model(
    name: str, change: float, precisions: set[str]
) -> None:
    network = make_network(make_config())
    other = copy.deepcopy(network)
    with torch.no_grad():
        getattr(other, name).mul_(1.0 + change)
    candidates = engines(exported_bytes(other))
    with pytest.raises(
        ModelFileError, match=r"nothing was written: \d+ of \d+ comparisons differ, most of all"
    ):
        self_check(network, candidates)
    for candidate in candidates:
        if candidate.precision in precisions:
            with pytest.raises(ModelFileError, match=rf"\(engine, {candidate.precision}\), by .* is allowed"):
                self_check(network, [candidate])
        else:
            self_check(network, [candidate])


def test_the_self_check_notices_numbers_that_are_none(configuration: Path) -> None:
    source = random_weights(configuration)
    good = engines(exported_bytes(source.network))[0]

    def compute(frame: object) -> dict[str, np.ndarray]:
        return {name: values * np.nan for name, values in good.compute(frame).items()}  # type: ignore[arg-type]

    with pytest.raises(ModelFileError, match=r"by nan eV"):
        self_check(source.network, [Exported("engine", "float32", compute)])


def test_the_self_check_takes_random_structures_that_a_network_has_no_answer_for() -> None:
    network = make_network(make_config(species=("H", "C", "N", "O"), layers=3))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.4)
    network.float()
    comparisons = self_check(network, engines(exported_bytes(network)))
    forces = [item for item in comparisons if item.precision == "float32" and item.quantity == "forces"]
    assert max(item.error for item in forces) > 1e-3


@pytest.mark.parametrize("cutoff", [0.5, 1.5, 4.0, 20.0])
def test_structures_of_the_self_check_fit_the_model(cutoff: float) -> None:
    species = ("H", "C", "O", "Si", "Cu", "Cs", "Au", "Na", "Cl", "Fe", "Ni", "Ti")
    network = make_network(make_config(species=species, cutoff=cutoff, layers=1)).requires_grad_(False)
    structures = dict(check_structures(network))
    assert list(structures) == ["molecule", "box", *(f"atom {symbol}" for symbol in species)]
    assert set(structures["molecule"].numbers) == {1, 6, 8, 14, 29, 55, 79, 11, 17, 26, 28, 22}
    box = structures["box"]
    assert box.pbc.all()
    assert cell_heights(box.cell, box.pbc).max() < 2 * cutoff
    for name in ("molecule", "box"):
        assert len(build_graph(structures[name], species, cutoff).edge_receiver) >= len(
            structures[name].numbers
        )
    again = dict(check_structures(network))
    np.testing.assert_array_equal(again["box"].positions, box.positions)


def test_a_failed_self_check_leaves_the_old_file(
    checkpoint: Path, symmd: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoint.parent / "model.safetensors"
    path.write_bytes(b"old")

    def wrong(network: SymmdNetwork, *arguments: object) -> bytes:
        other = copy.deepcopy(network)
        other.readout_outer.mul_(1.01)
        return model_file_bytes(other, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "model_file_bytes", wrong)
    error = symmd("export", checkpoint, "-o", path, code=2)
    assert error.startswith("symmd: what was exported does not compute what the network does")
    assert error.count("\n") == 1
    assert path.read_bytes() == b"old"
    assert {item.name for item in path.parent.iterdir()} == {"best.ckpt", "model.safetensors"}


@needs_operators
def test_the_module_in_the_archive_is_checked_too(configuration: Path) -> None:
    from symmd_md.export.torchscript import engine_module

    source = random_weights(configuration)
    other = copy.deepcopy(source.network)
    other.readout_outer.mul_(1.01)
    module = engine_module(exported_bytes(other))
    with pytest.raises(ModelFileError, match=r"\(TorchScript, float32\)"):
        self_check(source.network, [script_module("TorchScript", module, "float32")])


# Refusals


def test_without_the_operator_library_the_bare_model_is_the_way(
    no_library: None, checkpoint: Path, symmd: Callable[..., str]
) -> None:
    path = checkpoint.parent / "model.safetensors"
    error = symmd("export", checkpoint, code=2)
    assert error == (
        f"symmd: {path.with_suffix('.pt')} cannot be written because the operator library "
        "libsymmd_torch.so was not built; build it for your torch with: python -m symmd_md.build_operators; "
        f"or export the bare model, which all front ends but TorchScript read: -o {path}\n"
    )
    symmd("export", checkpoint, "-o", path, "--portable")
    assert read_model_file(path).header["validated_precisions"] == ["float32", "float64"]
    assert (path.parent / "model_portable.pt").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected either a checkpoint or --random CONFIG, found neither; name one of them"),
        (["best.ckpt", "--random", "small.yaml"], "--random CONFIG, found both; name one of them"),
        (["absent.ckpt", "-o", "x.safetensors"], "checkpoint absent.ckpt does not exist"),
        (["cut.ckpt", "-o", "x.safetensors"], "cut.ckpt is damaged"),
        (["small.yaml", "-o", "x.safetensors"], "small.yaml is not a SymMD checkpoint"),
        ([".", "-o", "x.safetensors"], ". is a folder; name a checkpoint in it"),
        (["best.ckpt", "-o", "."], ". is a folder; name a file in it, such as model.pt"),
        (["best.ckpt", "-o", "x.bin"], "expected an output that ends with .pt (TorchScript archive) or"),
        (["best.ckpt", "-o", "small.yaml/x.safetensors"], "small.yaml"),
        (["--random", "absent.yaml", "-o", "x.safetensors"], "file absent.yaml does not exist"),
        (["--random", "best.ckpt", "-o", "x.safetensors"], "best.ckpt is not valid YAML"),
        (["--random", "none.yaml", "-o", "x.safetensors"], "'model.species' is empty: name the elements"),
        (["--random", "wrong.yaml", "-o", "x.safetensors"], "unknown key 'model.chanels'; did you mean"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    arguments: list[str],
    message: str,
    checkpoint: Path,
    configuration: Path,
    symmd: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = checkpoint.parent
    (folder / "cut.ckpt").write_bytes(checkpoint.read_bytes()[:-100])
    (folder / "none.yaml").write_text("model: {channels: 16}\n")
    (folder / "wrong.yaml").write_text("model: {chanels: 16}\n")
    before = {path.name for path in folder.iterdir()}
    monkeypatch.chdir(folder)
    error = symmd("export", *arguments, code=2)
    assert error.startswith("symmd: ")
    assert message in error
    assert error.count("\n") == 1
    assert {path.name for path in folder.iterdir()} == before


def test_a_full_disk_leaves_the_old_file(checkpoint: Path) -> None:
    path = checkpoint.parent / "model.safetensors"
    path.write_bytes(b"old")
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); "
    limited += "from symmd_md import cli; cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", limited, "export", str(checkpoint), "-o", str(path)],
        capture_output=True,
        text=True,
        env=child_environment(),
    )
    assert (done.returncode, done.stderr) == (2, "symmd: File too large\n")
    assert path.read_bytes() == b"old"
    assert {item.name for item in path.parent.iterdir()} == {"best.ckpt", "model.safetensors"}


def test_export_explains_itself_with_units(symmd: Callable[..., str]) -> None:
    printed = " ".join(symmd("export", "--help").split())
    for part in ("1e-10", "eV/atom", "eV/Å", "--portable", "--random", ".safetensors"):
        assert part in printed


# symmd info


@needs_operators
def test_info_of_a_model_says_all_that_info_of_its_checkpoint_says(
    checkpoint: Path, symmd: Callable[..., str]
) -> None:
    symmd("export", checkpoint)
    path = checkpoint.parent / "model.pt"
    of_model, of_checkpoint = symmd("info", path), symmd("info", checkpoint)
    tables = ("Model", "Constants of the training set", "Parameters and FLOPs", "Training set", "Training")
    for part in (
        *tables,
        "E0 of H",
        "learning_rate",
        "springs.xyz",
        "validation forces_rmse",
        "torch_version",
    ):
        assert part in of_checkpoint
        assert part in of_model
    model = read_model_file(path)
    for part in (
        *("TorchScript archive", "float32, float64", model.sha256, "engine here loads it", "yes"),
        *("instruction set here", _engine.Engine.instruction_set, "exported", str(checkpoint)),
    ):
        assert part in of_model
    assert "12.0 neighbours" in symmd("info", path, "--neighbours", "12")


def test_info_knows_a_file_by_its_content(
    checkpoint: Path, configuration: Path, symmd: Callable[..., str]
) -> None:
    bare = checkpoint.parent / "model.yaml"
    run_export(None, configuration, checkpoint.parent / "model.safetensors").model.rename(bare)
    printed = symmd("info", bare)
    assert "bare safetensors" in printed
    assert "random weights" in printed
    assert "Provenance" in symmd("info", checkpoint.rename(checkpoint.with_name("model.pt")))


def test_info_of_a_model_of_others(tmp_path: Path, symmd: Callable[..., str]) -> None:
    network = make_network(make_config())
    path = tmp_path / "model.safetensors"
    odd = {"config": [1, 2], "training": "none", "note": "[/red] is text", "deep": {"a": {"b": 1.5}}}
    for provenance in ({}, odd, {"origin": "checkpoint"}, {"config": {"data": 3}, "training": {}}):
        write_model_file(network, path, provenance)
        printed = symmd("info", path)
        assert "float64" in printed
    write_model_file(network, path, odd)
    printed = symmd("info", path)
    assert "[/red] is text" in printed
    assert "deep, a, b" in printed


def test_info_of_a_damaged_model_is_one_line(
    configuration: Path, symmd: Callable[..., str], tmp_path: Path
) -> None:
    path = run_export(None, configuration, tmp_path / "model.safetensors").model
    content = path.read_bytes()
    for damaged in (content[:-10], b"", b"text", content[:200] + b"x" + content[201:]):
        path.write_bytes(damaged)
        error = symmd("info", path, code=2)
        assert error.startswith(f"symmd: cannot use model file {path}: ")
        assert error.count("\n") == 1


def test_info_of_a_portable_module_says_that_it_is_none(
    configuration: Path, symmd: Callable[..., str], tmp_path: Path
) -> None:
    written = run_export(None, configuration, tmp_path / "model.safetensors", portable=True)
    assert written.portable == tmp_path / "model_portable.pt"
    assert "not a SymMD model" in symmd("info", written.portable, code=2)


def test_a_checkpoint_with_another_network_is_refused(checkpoint: Path) -> None:
    content = read_checkpoint(checkpoint)
    del content["averaged"]["embedding"]
    write_checkpoint(checkpoint, content)
    with pytest.raises(symmd_md.errors.CheckpointError, match="does not fit the network"):
        trained(checkpoint)


def test_random_weights_need_species(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("")
    with pytest.raises(ConfigurationError, match=r"'model\.species' is empty"):
        random_weights(path)
