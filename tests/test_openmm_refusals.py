"""What SymmdForce refuses, in one sentence that says what was expected, what was found and what to do."""

from __future__ import annotations

import copy
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
    HOST_PLATFORMS,
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
    "a mask": (
        DataError,
        r"atoms must be indices, found True and False; .* with numpy.flatnonzero\(mask\)",
        lambda model: SymmdForce(model, topology_of("HCO"), [False, True]),
    ),
    "a mask of numpy": (
        DataError,
        "atoms must be indices, found True and False",
        lambda model: SymmdForce(model, topology_of("HCO"), np.array([False, True, True])),
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


def test_atoms_named_by_a_larger_topology(model: Path) -> None:
    """Their indices exist in the System and mean other particles."""
    system = openmm.System()
    for _ in range(4):
        system.addParticle(1.0)
    system.addForce(SymmdForce(model, topology_of("HCOHCO"), [1, 2]))
    message = (
        "expected a topology of the System, which has 4 particles, found atoms named by one of 6; name them"
    )
    for copied in (system, copy.deepcopy(system)):
        with pytest.raises(openmm.OpenMMException, match=message):
            context_of(copied, np.eye(4, 3))
    # Particles that were added to the System are none of the topology's.
    system.removeForce(0)
    system.addForce(SymmdForce(model, topology_of("HC"), [1, 0]))
    assert np.isfinite(energy_of(context_of(system, np.eye(4, 3))))


def test_box_that_the_system_was_not_given(model: Path) -> None:
    """A System begins with a cube of 2 nm, in which a liquid of another size has another energy."""
    topology, whole, positions = simulated(liquid(), model)
    system = openmm.System()
    for k in range(40):
        system.addParticle(whole.getParticleMass(k))
    system.addForce(SymmdForce(model, topology, precision="double", threads=1))
    message = (
        "SymmdForce: expected the System to have a box, found the cube of 2 nm that every System begins "
        r"with, and a topology with another one; call system.setDefaultPeriodicBoxVectors\(\*topology.get"
    )
    for copied in (system, copy.deepcopy(system)):
        with pytest.raises(openmm.OpenMMException, match=message):
            context_of(copied, positions)
    system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())
    expected = energy_of(context_of(whole, positions))
    assert energy_of(context_of(system, positions)) == pytest.approx(expected, rel=1e-12)

    # A topology whose box is that cube.
    topology.setPeriodicBoxVectors(2.0 * np.eye(3) * unit.nanometer)
    system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())
    system.removeForce(0)
    system.addForce(SymmdForce(model, topology, precision="double", threads=1))
    assert np.isfinite(energy_of(context_of(system, positions)))


def test_periodic_by_the_setter_without_any_box(model: Path) -> None:
    _, system, positions = simulated(molecule(), model)
    SymmdForce.wrap(system.getForce(0)).setUsesPeriodicBoundaryConditions(True)
    with pytest.raises(openmm.OpenMMException, match="System begins with, and a topology without a box"):
        context_of(system, positions)
    system.setDefaultPeriodicBoxVectors(*(1.5 * np.eye(3)))
    assert np.isfinite(energy_of(context_of(system, positions)))


def test_particles_that_the_system_has_not(model: Path) -> None:
    system = openmm.System()
    system.addParticle(1.0)
    # A program in C++ need not say what topology it has.
    xml = openmm.XmlSerializer.serialize(SymmdForce(model, topology_of("HCO"), [0, 2]))
    assert '<Topology particles="3"/>' in xml
    system.addForce(openmm.XmlSerializer.deserialize(xml.replace('<Topology particles="3"/>', "")))
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
    message = "SymmdForce: .*particles 3 and 6 "
    with pytest.raises(openmm.OpenMMException, match=message):
        energy_of(context_of(system, nanometres, platform=platform))

    system.removeForce(0)
    system.addForce(SymmdForce(model, topology, [6, 0, 3]))
    # Of the particles as the System counts them, not of the force's first and third.
    message = "SymmdForce: .*particles (3 and 6|6 and 3) "
    context = context_of(system, nanometres, platform=platform)
    with pytest.raises(openmm.OpenMMException, match=message) as caught:
        energy_of(context)
    assert not re.search(r"atoms? \d", str(caught.value))
    # What the force is told later is not for this Context.
    SymmdForce.wrap(system.getForce(0)).setAtoms(topology)
    with pytest.raises(openmm.OpenMMException, match=message):
        energy_of(context)


def test_particle_that_is_too_far_away(model: Path) -> None:
    _, system, positions = simulated(liquid(), model)
    context = context_of(system, positions)
    nanometres = positions.value_in_unit(unit.nanometer).copy()
    nanometres[7, 0] = 1e12
    context.setPositions(nanometres)
    with pytest.raises(openmm.OpenMMException, match=r"SymmdForce: .* found particle 7 ") as caught:
        energy_of(context)
    assert not re.search(r"atoms? \d", str(caught.value))


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


def test_derivative_that_the_context_was_made_without(model: Path) -> None:
    """OpenMM would give 0 for it."""
    _, system, positions = simulated(molecule(), model)
    context = context_of(system, positions)
    force = SymmdForce.wrap(system.getForce(0))
    force.addEnergyParameterDerivative("symmd_scale")
    with pytest.raises(openmm.OpenMMException, match="made without dE/dsymmd_scale; reinitialize it after"):
        force.updateParametersInContext(context)
    context.reinitialize(preserveState=True)
    force.updateParametersInContext(context)
    state = context.getState(parameterDerivatives=True)
    found = dict(state.getEnergyParameterDerivatives())
    assert found == {"symmd_scale": pytest.approx(energy_of(context), rel=1e-12)}


@pytest.mark.skipif(PLATFORMS == HOST_PLATFORMS, reason="there is no platform but Reference and CPU")
def test_derivative_on_another_platform(model: Path) -> None:
    _, system, positions = simulated(molecule(), model)
    SymmdForce.wrap(system.getForce(0)).addEnergyParameterDerivative("symmd_scale")
    message = "dE/dsymmd_scale is for the platforms Reference and CPU, found platform OpenCL; put the force"
    with pytest.raises(openmm.OpenMMException, match=message):
        context_of(system, positions, platform="OpenCL")


OTHER_OBJECTS = """
import openmm, openmm.app as app
from symmd_md.openmm import PlumedForce, SymmdForce
topology = app.Topology()
residue = topology.addResidue("MOL", topology.addChain())
topology.addAtom("C", app.element.carbon, residue)
system = openmm.System()
system.addParticle(12.0)
force = SymmdForce(MODEL, topology)
system.addForce(force)
integrator = openmm.VerletIntegrator(0.001)
simulation = app.Simulation(topology, system, integrator, openmm.Platform.getPlatformByName("Reference"))
for other in (system, integrator, simulation, None):
    try:
        force.updateParametersInContext(other)
    except TypeError as error:
        print(error)
for kind in (SymmdForce, PlumedForce):
    for other in (system, integrator, simulation, None):
        try:
            kind.wrap(other)
        except Exception as error:
            print(type(error).__name__, error)
    try:
        kind.wrap(openmm.HarmonicBondForce())
    except Exception as error:
        print(type(error).__name__, error)
force.updateParametersInContext(simulation.context)
"""


def test_objects_that_are_no_context_and_no_force(tmp_path: Path) -> None:
    """In a process of its own, since memory of another kind is not to be read."""
    model = write_model(tmp_path)
    done = python(OTHER_OBJECTS.replace("MODEL", repr(model.name)), tmp_path)
    assert done.returncode == 0, done.stderr
    kinds = ["System", "VerletIntegrator", "Simulation", "NoneType"]
    expected = [
        f"expected an openmm.Context, found {kind}; that of a Simulation is simulation.context"
        for kind in kinds
    ]
    for wanted in ("SymmdForce", "PlumedForce"):
        expected += [
            f"DataError expected a {wanted}, found {kind}; give system.getForce(k)" for kind in kinds
        ]
        expected += [f"DataError expected a {wanted}, found the force named 'HarmonicBondForce'"]
    assert done.stdout.splitlines() == expected


REFUSED_UPDATE = """
import openmm, openmm.app as app
from openmm import unit
import numpy as np
from symmd_md.openmm import SymmdForce

def topology_of(count):
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    atoms = [topology.addAtom("C", app.element.carbon, residue) for _ in range(count)]
    for first, second in zip(atoms, atoms[1:]):
        topology.addBond(first, second)
    topology.setPeriodicBoxVectors(np.eye(3) * 1.2 * unit.nanometer)
    return topology

system = openmm.System()
for _ in range(9):
    system.addParticle(12.0)
topology = topology_of(9)
system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())
force = SymmdForce(MODEL, topology, threads=1)
system.addForce(force)
BAROSTAT
integrator = openmm.VerletIntegrator(0.0001)
context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
context.setPositions(np.stack(np.meshgrid(*[[0.0, 0.3, 0.6]] * 2 + [[0.1]]), -1).reshape(-1, 3))
force.setAtoms(topology_of(5000))
try:
    force.updateParametersInContext(context)
    raise SystemExit("not refused")
except openmm.OpenMMException as error:
    print(error)
integrator.step(3)
print([list(molecule) for molecule in context.getMolecules()])
"""


@pytest.mark.parametrize("barostat", ["", "system.addForce(openmm.MonteCarloBarostat(1.0, 300.0, 1))"])
def test_bonds_of_a_refused_topology(tmp_path: Path, barostat: str) -> None:
    """OpenMM asks for bonds when it first needs molecules: the Context has those that it was made with."""
    model = write_model(tmp_path)
    script = REFUSED_UPDATE.replace("MODEL", repr(model.name)).replace("BAROSTAT", barostat)
    done = python(script, tmp_path)
    assert done.returncode == 0, (done.returncode, done.stderr)
    refusal, molecules = done.stdout.splitlines()
    assert "expected as many atoms as the System has particles, 9, found 5000" in refusal
    assert molecules == str([list(range(9))])


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


def test_another_version_of_openmm_beside_torchforce(tmp_path: Path) -> None:
    """The OpenMM that SymmdForce wants would crash TorchForce: it is for another environment."""
    (tmp_path / "openmmtorch.py").write_text("raise ImportError('only looked for')")
    done = python(
        "import importlib.metadata as metadata\n"
        "version = metadata.version\n"
        "metadata.version = lambda name: '8.5.2' if name == 'openmm' else version(name)\n"
        "from symmd_md.openmm import SymmdForce\n",
        tmp_path,
    )
    assert re.search(
        r"found OpenMM 8.5.2; in an environment without openmmtorch, install that one with: pip install ",
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
