"""What SymmdForce refuses, in one sentence that says what was expected, what was found and what to do."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ase
import numpy as np
import pytest

from model_cases import make_config, make_network
from openmm_cases import (
    PLATFORMS,
    SymmdForce,
    app,
    context_of,
    energy_of,
    liquid,
    molecule,
    openmm,
    simulated,
    unit,
    write_model,
)
from symmd_md.errors import DataError, ModelFileError, SymmdError
from symmd_md.export.model_file import write_model_file


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path)


def topology_of(symbols: str, box: bool = False) -> app.Topology:
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    for symbol in ase.Atoms(symbols).get_chemical_symbols():
        element = None if symbol == "X" else app.Element.getBySymbol(symbol)
        topology.addAtom(symbol, element, residue)
    if box:
        topology.setPeriodicBoxVectors(np.eye(3) * unit.nanometer)
    return topology


Build = Callable[[Path], object]

CONSTRUCTIONS: dict[str, tuple[type[Exception], str, Build]] = {
    "unknown element": (
        DataError,
        r"the model \S*two.safetensors knows H, C, O, found Au at atom 2 of the topology; use a model",
        lambda model: SymmdForce(model, topology_of("HCAu")),
    ),
    "virtual site": (
        DataError,
        r"particle 1 of the topology has no element, .*; name the particles that are atoms with atoms=",
        lambda model: SymmdForce(model, topology_of("HXC")),
    ),
    "periodic without a box": (
        DataError,
        "a periodic SymmdForce needs a topology with a box, found one without; .* or say periodic=False",
        lambda model: SymmdForce(model, topology_of("HC"), periodic=True),
    ),
    "atom behind the last": (
        DataError,
        "atoms must be indices from 0 to 1 of the topology, found 2",
        lambda model: SymmdForce(model, topology_of("HC"), [0, 2]),
    ),
    "atom before the first": (
        DataError,
        "atoms must be indices from 0 to 1 of the topology, found -1",
        lambda model: SymmdForce(model, topology_of("HC"), [-1]),
    ),
    "no atoms": (
        DataError,
        r"SymmdForce needs at least one atom, found atoms=\[\]; None stands for all",
        lambda model: SymmdForce(model, topology_of("HC"), []),
    ),
    "empty topology": (
        DataError,
        "SymmdForce needs at least one atom, found a topology without any",
        lambda model: SymmdForce(model, app.Topology()),
    ),
    "an atom twice": (
        openmm.OpenMMException,
        "SymmdForce: expected each particle once, found particle 1 twice",
        lambda model: SymmdForce(model, topology_of("HCO"), [1, 0, 1]),
    ),
    "atoms that are no numbers": (
        TypeError,
        "cannot be interpreted as an integer",
        lambda model: SymmdForce(model, topology_of("HCO"), [0.5]),  # type: ignore[list-item]
    ),
    "no model file": (
        ModelFileError,
        "cannot read model file absent.pt: No such file or directory; name a file that symmd export wrote",
        lambda model: SymmdForce("absent.pt", topology_of("HC")),
    ),
    "no model": (
        ModelFileError,
        "cannot use model file .*test_openmm_refusals.py: ",
        lambda model: SymmdForce(__file__, topology_of("HC")),
    ),
    "precision": (
        openmm.OpenMMException,
        "SymmdForce: the precision must be single, mixed or double, found 'half'",
        lambda model: SymmdForce(model, topology_of("HC"), precision="half"),
    ),
    "threads": (
        openmm.OpenMMException,
        r"SymmdForce: threads must lie between 0 \(all\) and 1024, found -1",
        lambda model: SymmdForce(model, topology_of("HC"), threads=-1),
    ),
    "scale without a name": (
        openmm.OpenMMException,
        "SymmdForce: the parameter of the scale needs a name, found an empty one",
        lambda model: SymmdForce(model, topology_of("HC"), scaleParameter=""),
    ),
    "derivative by another parameter": (
        openmm.OpenMMException,
        "SymmdForce: the energy depends on the parameter 'symmd_scale' alone, found 'lambda'",
        lambda model: SymmdForce(model, topology_of("HC")).addEnergyParameterDerivative("lambda"),
    ),
}


@pytest.mark.parametrize("name", CONSTRUCTIONS)
def test_what_a_force_refuses(model: Path, name: str) -> None:
    kind, message, build = CONSTRUCTIONS[name]
    with pytest.raises(kind, match=message) as caught:
        build(model)
    assert "\n" not in str(caught.value)
    if not issubclass(kind, (openmm.OpenMMException, TypeError)):
        assert isinstance(caught.value, SymmdError)


def test_topology_of_another_system(model: Path) -> None:
    system = openmm.System()
    for _ in range(4):
        system.addParticle(1.0)
    system.addForce(SymmdForce(model, topology_of("HCO")))
    message = (
        "SymmdForce: expected as many atoms as the System has particles, 4, found 3; use the topology that"
    )
    with pytest.raises(openmm.OpenMMException, match=message):
        context_of(system, np.eye(4, 3))


def test_particles_that_the_system_has_not(model: Path) -> None:
    system = openmm.System()
    system.addParticle(1.0)
    system.addForce(SymmdForce(model, topology_of("HCO"), [0, 2]))
    with pytest.raises(openmm.OpenMMException, match="expected particles from 0 to 0 of the System, found 2"):
        context_of(system, np.eye(1, 3))


def test_force_without_a_model() -> None:
    system = openmm.System()
    system.addParticle(1.0)
    system.addForce(openmm.XmlSerializer.deserialize('<Force type="SymmdForce" version="1"/>'))
    with pytest.raises(openmm.OpenMMException, match="there is no model; give one with setModel"):
        context_of(system, np.eye(1, 3))


def test_model_that_was_damaged_in_the_xml(model: Path) -> None:
    """The XML may come from anywhere: the engine checks the model again."""
    _, system, positions = simulated(molecule(), model)
    xml = openmm.XmlSerializer.serialize(system)
    system = openmm.XmlSerializer.deserialize(re.sub('base64="[^"]{400}', 'base64="' + "A" * 400, xml))
    with pytest.raises(openmm.OpenMMException, match="SymmdForce: cannot use model file"):
        context_of(system, positions)


def test_positions_that_are_no_numbers(model: Path) -> None:
    # Platform CPU has a check of its own.
    _, system, positions = simulated(molecule(), model)
    context = context_of(system, positions)
    energy = energy_of(context)
    wrong = positions.value_in_unit(unit.nanometer).copy()
    wrong[4, 1] = np.nan
    message = (
        r"SymmdForce: expected finite positions, found particle 4 at \(.*nan.*\) nm; check the structure"
    )
    context.setPositions(wrong)
    with pytest.raises(openmm.OpenMMException, match=message):
        context.getState(energy=True)
    context.setPositions(positions)
    assert energy_of(context) == energy


@pytest.mark.parametrize("platform", PLATFORMS)
def test_atoms_in_the_same_place(model: Path, platform: str) -> None:
    topology, system, positions = simulated(molecule(), model)
    nanometres = positions.value_in_unit(unit.nanometer).copy()
    nanometres[3] = nanometres[6]
    message = r"SymmdForce: .*atoms 4 and 7 .* \(atom k here is particle k-1 of the System\)"
    with pytest.raises(openmm.OpenMMException, match=message):
        energy_of(context_of(system, nanometres, platform=platform))

    system.removeForce(0)
    system.addForce(SymmdForce(model, topology, [6, 0, 3]))
    message = r"SymmdForce: .*atoms 1 and 3 .* \(atoms are counted from 1 along the force's particles\)"
    with pytest.raises(openmm.OpenMMException, match=message):
        energy_of(context_of(system, nanometres, platform=platform))


def test_dynamics_that_blows_up_ends_with_a_sentence(model: Path) -> None:
    _, system, positions = simulated(liquid(), model)
    context = context_of(system, positions, openmm.VerletIntegrator(1e9))
    with pytest.raises(openmm.OpenMMException, match="SymmdForce: "):
        context.getIntegrator().step(20)


def test_changes_that_a_context_cannot_take(tmp_path: Path, model: Path) -> None:
    topology, system, positions = simulated(molecule(), model)
    context = context_of(system, positions)
    energy = energy_of(context)
    force = SymmdForce.wrap(system.getForce(0))
    force.setUsesPeriodicBoundaryConditions(True)
    with pytest.raises(openmm.OpenMMException, match="a Context keeps its periodicity; reinitialize it"):
        force.updateParametersInContext(context)
    force.setUsesPeriodicBoundaryConditions(False)
    force.setScaleParameterName("other")
    with pytest.raises(openmm.OpenMMException, match="made with the parameter 'symmd_scale', found 'other'"):
        force.updateParametersInContext(context)
    force.setScaleParameterName("symmd_scale")
    with pytest.raises(DataError, match="atoms must be indices from 0 to 8"):
        force.setAtoms(topology, [20])
    with pytest.raises(ModelFileError, match="cannot read model file"):
        force.setModel(tmp_path / "absent.pt")
    # One without oxygen, which is in the molecule.
    hydrocarbon = tmp_path / "hydrocarbon.safetensors"
    write_model_file(make_network(make_config(species=("H", "C"))), hydrocarbon, {})
    force.setModel(hydrocarbon)
    with pytest.raises(
        openmm.OpenMMException, match="the model knows H, C, found an atom with atomic number 8"
    ):
        force.updateParametersInContext(context)
    assert energy_of(context) == energy
    force.setModel(model)
    # After all of that, the Context has what it had.
    force.updateParametersInContext(context)
    assert energy_of(context) == energy

    # A force that the System has not.
    with pytest.raises(openmm.OpenMMException):
        SymmdForce(model, topology).updateParametersInContext(context)


def python(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)


def test_another_version_of_openmm_is_refused(tmp_path: Path) -> None:
    done = python(
        "import importlib.metadata as metadata\n"
        "version = metadata.version\n"
        "metadata.version = lambda name: '8.4.0' if name == 'openmm' else version(name)\n"
        "import symmd_md.openmm, sys\n"
        "assert 'openmm' not in sys.modules, 'nothing of that OpenMM is touched'\n"
        "from symmd_md.openmm import SymmdForce\n",
        tmp_path,
    )
    assert done.returncode != 0
    assert re.fullmatch(
        r"ImportError: SymmdForce was compiled for OpenMM [\d.]+, found OpenMM 8.4.0; "
        r"install that one with: pip install openmm==[\d.]+",
        done.stderr.splitlines()[-1],
    )


def test_library_that_was_not_compiled(tmp_path: Path) -> None:
    done = python(
        "import symmd_md.openmm.library as library\n"
        "library.LIBRARY = 'absent.so'\n"
        "library.load_library.cache_clear()\n"
        "from symmd_md.openmm import SymmdForce\n",
        tmp_path,
    )
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith("ImportError: SymmdForce was not compiled, since openmm")


def test_openmm_that_is_not_installed(tmp_path: Path) -> None:
    done = python(
        "import sys, importlib.abc\n"
        "class Absent(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'openmm':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import symmd_md.openmm\n",
        tmp_path,
    )
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: symmd_md.openmm needs the Python package 'openmm', which is not installed; "
        "install it with: pip install 'symmd-md[openmm]'"
    )


def test_importing_the_package_needs_no_torch(tmp_path: Path) -> None:
    model = write_model(tmp_path)
    done = python(
        "import sys\n"
        "from symmd_md.openmm import SymmdForce\n"
        "import openmm.app as app\n"
        "topology = app.Topology()\n"
        "residue = topology.addResidue('MOL', topology.addChain())\n"
        "topology.addAtom('C', app.element.carbon, residue)\n"
        f"SymmdForce({model.name!r}, topology)\n"
        "assert 'torch' not in sys.modules and 'ase' not in sys.modules\n",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
