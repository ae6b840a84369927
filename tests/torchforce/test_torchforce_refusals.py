"""What torch_force and its forces refuse, and in which words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchforce_cases import (
    NM,
    app,
    assert_same,
    context_of,
    expected,
    found_in,
    model,
    openmm,
    structure,
    system_of,
    topology_of,
)

from symmd_md import operators
from symmd_md.errors import ConfigurationError, DataError, EngineError, ModelFileError
from symmd_md.openmm import torch_force


@pytest.mark.parametrize("portable", [False, True], ids=["engine", "portable"])
def test_an_unknown_element(portable: bool) -> None:
    with pytest.raises(
        EngineError, match=r"\.pt: the model knows H, C, O, found an atom with atomic number 14; use a model"
    ):
        torch_force(model(portable=portable), [1, 14])


def test_settings() -> None:
    with pytest.raises(
        ConfigurationError, match="precision must be one of single, mixed, double; found 'half'"
    ):
        torch_force(model(), [1, 6], precision="half")
    with pytest.raises(ConfigurationError, match=r"threads must lie between 0 .*, found -1"):
        torch_force(model(), [1, 6], threads=-1)
    with pytest.raises(
        ConfigurationError, match=r"is a portable model, .* found precision 'double', leave it"
    ):
        torch_force(model(portable=True), [1, 6], precision="double")


def test_topologies() -> None:
    with pytest.raises(DataError, match="expected the topology of a System with particles, found no atom"):
        torch_force(model(), [])
    topology = app.Topology()
    residue = topology.addResidue("WAT", topology.addChain())
    topology.addAtom("O", app.element.oxygen, residue)
    topology.addAtom("M", None, residue)
    with pytest.raises(DataError, match=r"expected an element for every atom .* none for atom 2 \(M\)"):
        torch_force(model(), topology)


class Stranger(torch.nn.Module):
    """A module that is none of ours."""

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """Something."""
        return positions.sum()


def test_files(tmp_path: Path) -> None:
    with pytest.raises(
        ModelFileError, match=r"absent\.pt: expected a model file, found nothing; check the path"
    ):
        torch_force(tmp_path / "absent.pt", [1])
    with pytest.raises(
        ModelFileError, match="nowhere: expected a model file or the name of a model that ships"
    ):
        torch_force("nowhere", [1])
    (tmp_path / "text.pt").write_text("no archive")
    with pytest.raises(
        ModelFileError, match=r"text\.pt: expected the TorchScript archive model\.pt of symmd exp"
    ):
        torch_force(tmp_path / "text.pt", [1])
    (tmp_path / "half.pt").write_bytes(model().read_bytes()[:20000])
    with pytest.raises(ModelFileError, match=r"half\.pt: expected the TorchScript archive"):
        torch_force(tmp_path / "half.pt", [1])
    torch.jit.script(Stranger()).save(tmp_path / "stranger.pt")
    with pytest.raises(ModelFileError, match="found TorchScript without the method set_atoms"):
        torch_force(tmp_path / "stranger.pt", [1])


@pytest.mark.parametrize("portable", [False, True], ids=["engine", "portable"])
@pytest.mark.parametrize("forces", [True, False], ids=["forces", "gradient"])
def test_a_running_simulation(forces: bool, portable: bool) -> None:
    """An error is OpenMM's exception with the sentence in it, and the Context goes on afterwards."""
    atoms = structure(False)
    force = torch_force(
        model(portable=portable), topology_of(atoms), forces=forces, precision=None if portable else "double"
    )
    context = context_of(atoms, system_of(atoms, force))
    for _ in range(2):
        assert_same(found_in(context), expected(atoms))
        wrong = atoms.positions.copy()
        wrong[3] = wrong[5]
        context.setPositions(wrong / NM)
        with pytest.raises(openmm.OpenMMException, match="coincid"):
            found_in(context)
        context.setPositions(atoms.positions / NM)


@pytest.mark.parametrize("portable", [False, True], ids=["engine", "portable"])
@pytest.mark.parametrize("periodic", [False, True], ids=["open", "periodic"])
def test_a_parameter_that_the_force_was_made_without(periodic: bool, portable: bool) -> None:
    """It would multiply the energy, whatever it was meant for."""
    atoms = structure(periodic)
    force = torch_force(model(portable=portable), topology_of(atoms))
    force.addGlobalParameter("another", 0.5)
    with pytest.raises(
        openmm.OpenMMException, match=r"made without a global parameter, found one; give torch_force its name"
    ):
        found_in(context_of(atoms, system_of(atoms, force)))


def test_a_system_of_another_size() -> None:
    atoms = structure(False)
    force = torch_force(model(), atoms.numbers[:5])
    with pytest.raises(
        openmm.OpenMMException, match=r"made for 5 atoms, found a System of 9 particles; give torch_force the"
    ):
        found_in(context_of(atoms, system_of(atoms, force)))


def test_a_box_without_volume() -> None:
    atoms = structure(True)
    context = context_of(atoms, system_of(atoms, torch_force(model(), topology_of(atoms))))
    flat = np.diag([0.6, 0.6, 1e-9])
    context.setPeriodicBoxVectors(*flat)
    with pytest.raises(openmm.OpenMMException, match=r"(volume|depend|cell)"):
        found_in(context)


def child(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a new process, in which nothing is imported yet."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "operators.library = lambda: None",
            "the operator library libsymmd_torch.so was not built; build it for your",
        ),
        ("operators.built_for = lambda path: 'torch 1.2.3'", "is for torch 1.2.3, found torch 2"),
    ],
)
def test_without_operators_a_portable_model_runs_and_an_other_names_the_command(
    change: str, message: str
) -> None:
    code = (
        "import sys\nfrom symmd_md import operators\n" + change + "\n"
        "from symmd_md.openmm import torch_force\nfrom symmd_md.errors import ConfigurationError\n"
        "torch_force(sys.argv[2], [1, 6])\n"
        "try:\n    torch_force(sys.argv[1], [1, 6])\nexcept ConfigurationError as error:\n    print(error)\n"
    )
    done = child(code, str(model()), str(model(portable=True)))
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()[-1]
    assert message in said
    assert said.endswith(f"build it for your torch with: {operators.BUILD_COMMAND}")


@pytest.mark.parametrize("absent", ["torch", "openmmtorch"])
def test_a_missing_package_is_named_with_the_command(absent: str) -> None:
    code = (
        "import sys, importlib.abc\n"
        "class Absent(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == sys.argv[1]:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from symmd_md.openmm import torch_force\n"
        "torch_force('model.pt', [1])\n"
    )
    done = child(code, absent)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"ModuleNotFoundError: torch_force needs the Python package '{absent}', which is not installed; "
        "install what it needs, in an environment of its own, with: pip install torch==2.9.1 openmm==8.5.2 "
        "openmmtorch==1.5"
    )
