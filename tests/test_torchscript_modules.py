"""The TorchScript modules that make a model.pt, with our operators and without, against the plain network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch

from kernel_cases import CASES, hessian_product, structures
from model_cases import SPECIES, assert_close, batch_of, make_config, make_network
from operator_cases import (
    KJ_PER_MOL,
    NM,
    SCRIPT_ERRORS,
    arguments,
    expected,
    plain_gradients,
    random_crystals,
)
from symmd_md import kernels, operators
from symmd_md.export import model_file_bytes, read_model_file
from symmd_md.export.torchscript import (
    PortableModule,
    engine_module,
    model_pt_bytes,
    portable_module,
    save_model_pt,
)
from symmd_md.model import SymmdNetwork
from training_cases import child_environment

NAN = float("nan")


@pytest.fixture(scope="module", autouse=True)
def library() -> None:
    assert kernels.available(), operators.reason_not_loaded()


@pytest.mark.parametrize("name", CASES)
def test_the_portable_network_is_the_plain_one(name: str) -> None:
    network = make_network(CASES[name])
    module = PortableModule(network)
    for atoms in structures():
        found = module.compute(*arguments(atoms))
        for key, value in expected(network, atoms).items():
            assert_close(found[key], value, 1e-12)


def test_the_portable_network_finds_all_neighbours() -> None:
    network = make_network(make_config(layers=1))
    module = PortableModule(network)
    module.network.pairs_at_once = 700
    for atoms in random_crystals(16):
        found = module.compute(
            torch.tensor(atoms.numbers),
            torch.tensor(atoms.positions),
            torch.tensor(atoms.cell.array),
            atoms.pbc.tolist(),
        )
        for key, value in expected(network, atoms).items():
            assert_close(found[key], value, 1e-12)


def scripted_modules(network: SymmdNetwork) -> dict[str, Any]:
    """Both modules as TorchScript, the engine in double precision."""
    engine = engine_module(model_file_bytes(network, {}))
    engine.use_precision("float64")
    return {"engine": engine, "portable": portable_module(network)}


@pytest.mark.parametrize("kind", ["engine", "portable"])
def test_scripted_modules(kind: str) -> None:
    """Three times: TorchScript compiles anew for what it saw in the first two."""
    network = make_network(CASES["L2-h1"])
    module = scripted_modules(network)[kind]
    for atoms in structures() * 3:
        numbers, positions, cell, periodic = arguments(atoms, gradients=True)
        wanted = expected(network, atoms)
        for key, value in module.compute(numbers, positions, cell, periodic).items():
            assert_close(value, wanted[key], 1e-12 if kind == "portable" else 1e-10)
            assert not value.requires_grad
        module.set_atoms(numbers)
        energy = module(positions, cell)
        energy.backward()
        assert_close(energy, wanted["energy"])
        assert_close(positions.grad, -wanted["forces"])
        if cell is not None:
            assert_close(cell.grad, plain_gradients(network, atoms)[1])


@pytest.mark.parametrize("kind", ["engine", "portable"])
def test_units(kind: str) -> None:
    network = make_network(make_config())
    module = scripted_modules(network)[kind]
    module.use_units(NM, KJ_PER_MOL)
    atoms = structures()[2]
    wanted = expected(network, atoms)
    numbers, positions, cell, _ = arguments(atoms)
    assert cell is not None
    positions, cell = (positions / NM).requires_grad_(), (cell / NM).requires_grad_()
    found = module.compute(numbers, positions, cell)
    scales = {"energy": 1.0, "atom_energy": 1.0, "forces": NM, "virial": 1.0}
    for key, value in wanted.items():
        assert_close(found[key], value * scales[key] / KJ_PER_MOL)
    module.set_atoms(numbers)
    module(positions, cell).backward()
    assert_close(positions.grad, -wanted["forces"] * NM / KJ_PER_MOL)
    assert_close(cell.grad, plain_gradients(network, atoms)[1] * NM / KJ_PER_MOL)
    with pytest.raises(SCRIPT_ERRORS, match="units must be positive"):
        module.use_units(0.0, 1.0)


def test_the_portable_module_in_single_precision_and_twice_differentiated() -> None:
    network = make_network(CASES["L2-h1"])
    atoms = structures()[0]
    wanted = expected(network, atoms)
    numbers, positions, _, _ = arguments(atoms)
    single = portable_module(make_network(CASES["L2-h1"]).float())
    for key, value in single.compute(numbers, positions).items():
        assert_close(value, wanted[key], 1e-4)
    module = PortableModule(network)
    module.set_atoms(numbers)
    positions.requires_grad_()
    (first,) = torch.autograd.grad(module(positions), positions, create_graph=True)
    direction = torch.sin(torch.arange(positions.numel())).reshape(positions.shape).to(positions)
    (second,) = torch.autograd.grad((first * direction).sum(), positions)
    assert_close(second, hessian_product(network, batch_of([atoms], network.config)))


@pytest.mark.parametrize("kind", ["engine", "portable"])
def test_modules_refuse_in_a_sentence(kind: str) -> None:
    module = scripted_modules(make_network(make_config()))[kind]
    numbers, positions, _, _ = arguments(ase.Atoms("OHH", positions=np.eye(3)))
    module.set_atoms(torch.tensor([8, 1]))
    with pytest.raises(SCRIPT_ERRORS, match=r"bound to 2 atoms, found positions of shape \[3, 3\]"):
        module(positions)
    with pytest.raises(SCRIPT_ERRORS, match=r"atomic_numbers must be integers"):
        module.set_atoms(torch.ones(3))
    for changed, message in (
        (
            (torch.tensor([8, 1, 14]), positions),
            "the model knows H, C, O, found an atom with atomic number 14",
        ),
        ((torch.tensor([8, 1, -1]), positions), "found an atom with atomic number -1"),
        ((numbers, positions * NAN), "finite"),
        ((numbers, positions * 0), "coincid"),
        ((numbers, positions[:, :2]), r"positions must be .*\[atoms, 3\]"),
        ((numbers, positions, None, [True] * 3), "a periodic structure needs a cell"),
        ((numbers, positions, positions[0]), "cell must be"),
        ((numbers, positions, torch.ones(3, 3).double()), "(span a volume|linearly|dependent|depend)"),
        ((numbers, positions, positions, [True]), "pbc must say of three cell vectors"),
    ):
        with pytest.raises(SCRIPT_ERRORS, match=message):
            module.compute(*changed)
    assert module.compute(numbers, positions)["forces"].shape == (3, 3)


def test_settings_of_the_engine_module() -> None:
    module = engine_module(model_file_bytes(make_network(make_config()), {}))
    numbers, positions, _, _ = arguments(structures()[0])
    module.set_atoms(numbers)
    single = float(module(positions))
    module.use_precision("float64")
    assert single != float(module(positions))
    module.use_threads(2)
    assert abs(single - float(module(positions))) < 1e-4
    with pytest.raises(SCRIPT_ERRORS, match="precision must be float32 or float64, found half"):
        module.use_precision("half")
    with pytest.raises(SCRIPT_ERRORS, match="threads must lie between 0"):
        module.use_threads(-1)


def test_the_engine_reads_the_file_that_torch_reads(tmp_path: Path) -> None:
    network = make_network(make_config())
    content = model_file_bytes(network, {"from": "a test"})
    for module in (engine_module(content), portable_module(network)):
        path = tmp_path / "model.pt"
        save_model_pt(module, content, path)
        assert path.read_bytes()[:2] == model_pt_bytes(module, content)[:2] == b"PK"
        assert str(Path(__file__).parents[1]).encode() not in path.read_bytes()
        model = read_model_file(path)
        assert model.header["provenance"] == {"from": "a test"}
        assert torch.equal(model.tensors["embedding"], network.embedding)
        entries = {"symmd.safetensors": ""}
        torch.jit.load(path, _extra_files=entries)
        assert entries["symmd.safetensors"] == content
    assert [item.name for item in tmp_path.iterdir()] == ["model.pt"]


FRESH = """
import json, sys, torch
library, *paths = sys.argv[1:]
for path in paths:
    if "portable" not in path:
        torch.ops.load_library(library)
    module = torch.jit.load(path)
    # What LibTorch's Module::to(torch::kDouble) does to all tensors of a module.
    for part in module.modules():
        for name, tensor in part.named_buffers(recurse=False):
            setattr(part, name, tensor.double())
    numbers, *lengths = json.loads(sys.stdin.readline())
    numbers = torch.tensor(numbers)
    positions, cell = (torch.tensor(value, dtype=torch.float64) for value in lengths)
    positions.requires_grad_()
    found = module.compute(numbers, positions, cell, [True, True, True])
    module.set_atoms(numbers)
    energy = module(positions, cell)
    energy.backward()
    found["gradient"] = positions.grad
    print(json.dumps({key: value.tolist() for key, value in found.items()}))
assert not any(name.startswith("symmd") for name in sys.modules), "symmd_md was imported"
"""


def test_modules_in_a_process_without_this_package(tmp_path: Path) -> None:
    network = make_network(CASES["L2-h1"])
    content = model_file_bytes(network, {})
    modules = scripted_modules(network)
    paths = [tmp_path / "portable.pt", tmp_path / "engine.pt"]
    for path in paths:
        save_model_pt(modules[path.stem], content, path)
    atoms = structures()[2]
    line = json.dumps([atoms.numbers.tolist(), atoms.positions.tolist(), atoms.cell.array.tolist()])
    library = operators.library()
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(library), *map(str, paths)],
        input=f"{line}\n{line}\n", capture_output=True, text=True, cwd=tmp_path, env=child_environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    wanted = expected(network, atoms)
    wanted["gradient"] = -wanted["forces"]
    for line in done.stdout.splitlines():
        found = json.loads(line)
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            assert_close(torch.tensor(found[key], dtype=torch.float64), value)


def test_species_are_known_by_their_atomic_number() -> None:
    """The order of species in a model is not that of the periodic table."""
    config = make_config(species=SPECIES[::-1])
    network = make_network(config)
    atoms = structures()[0]
    wanted = expected(network, atoms)
    for module in scripted_modules(network).values():
        assert_close(module.compute(*arguments(atoms))["atom_energy"], wanted["atom_energy"])
