"""SymmdForce as an object of OpenMM: getters and setters, copies, XML, pickle, what a System returns."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from openmm_cases import (
    SymmdForce,
    app,
    context_of,
    energy_of,
    molecule,
    openmm,
    simulated,
    unit,
    write_model,
)
from symmd_md.errors import DataError
from symmd_md.openmm.library import LIBRARY, library_folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path)


def unusual(model: Path) -> SymmdForce:
    """A force in which nothing is as in a new one."""
    topology = simulated(molecule(), model).topology
    atoms = list(topology.atoms())
    topology.addBond(atoms[1], atoms[2])
    topology.addBond(atoms[2], atoms[3])
    topology.setPeriodicBoxVectors(np.eye(3) * unit.nanometer)
    force = SymmdForce(
        model, topology, [4, 2, 1], precision="double", device="cuda:1", threads=3, deterministic=True,
        scaleParameter="strength", forceGroup=7,
    )  # fmt: skip
    force.setName("learned")
    force.addEnergyParameterDerivative("strength")
    return force


def description(force: SymmdForce) -> dict[str, object]:
    return {
        "model": force.getModel(),
        "model name": force.getModelName(),
        "atoms": force.getAtoms(),
        "numbers": force.getAtomicNumbers(),
        "bonds": force.getBonds(),
        "precision": force.getPrecision(),
        "device": force.getDevice(),
        "threads": force.getThreads(),
        "deterministic": force.getDeterministic(),
        "periodic": force.usesPeriodicBoundaryConditions(),
        "scale": force.getScaleParameterName(),
        "derivatives": force.getNumEnergyParameterDerivatives(),
        "group": force.getForceGroup(),
        "name": force.getName(),
    }


def test_getters(model: Path) -> None:
    force = unusual(model)
    assert isinstance(force, openmm.Force)
    assert description(force) == {
        "model": model.read_bytes(),
        "model name": str(model),
        "atoms": [4, 2, 1],
        "numbers": molecule().numbers[[4, 2, 1]].tolist(),
        "bonds": [(1, 2)],
        "precision": "double",
        "device": "cuda:1",
        "threads": 3,
        "deterministic": True,
        "periodic": True,
        "scale": "strength",
        "derivatives": 1,
        "group": 7,
        "name": "learned",
    }
    plain = description(SymmdForce(model, simulated(molecule(), model).topology))
    new = {"atoms": None, "precision": "mixed", "threads": 0, "scale": "symmd_scale", "periodic": False}
    assert {name: plain[name] for name in new} == new


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        lambda force: pickle.loads(pickle.dumps(force)),
        lambda force: SymmdForce.wrap(
            openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(force))
        ),
    ],
    ids=["copy", "deepcopy", "pickle", "xml"],
)
def test_copies_are_complete_and_independent(model: Path, duplicate: object) -> None:
    force = unusual(model)
    expected = description(force)
    other = duplicate(force)  # type: ignore[operator]
    assert type(other) is SymmdForce
    assert description(other) == expected
    other.setThreads(1)
    assert force.getThreads() == 3
    del force
    assert other.getModel() == expected["model"]


def test_force_of_a_system(model: Path) -> None:
    force = unusual(model)
    system = openmm.System()
    assert system.addForce(force) == 0
    found = system.getForce(0)
    assert type(found) is openmm.Force
    wrapped = SymmdForce.wrap(found)
    assert wrapped is found
    assert description(wrapped) == description(force)
    wrapped.setThreads(2)
    assert force.getThreads() == 2
    with pytest.raises(DataError, match="expected a SymmdForce, found the force named 'HarmonicBondForce'"):
        SymmdForce.wrap(openmm.HarmonicBondForce())


@pytest.mark.parametrize("way", ["xml", "pickle"])
def test_system_in_another_process(tmp_path: Path, way: str) -> None:
    """The XML holds the model itself: the file is not needed any more."""
    model = write_model(tmp_path)
    _, system, positions = simulated(molecule(), model)
    expected = energy_of(context_of(system, positions))
    (tmp_path / "system").write_bytes(
        openmm.XmlSerializer.serialize(system).encode() if way == "xml" else pickle.dumps(system)
    )
    np.save(tmp_path / "positions.npy", positions.value_in_unit(unit.nanometer))
    model.unlink()
    read = "XmlSerializer.deserialize(content.decode())" if way == "xml" else "pickle.loads(content)"
    script = (
        "import pickle, numpy, symmd_md.openmm\n"
        "from openmm import *\n"
        "content = open('system', 'rb').read()\n"
        f"context = Context({read}, VerletIntegrator(0.001), Platform.getPlatformByName('Reference'))\n"
        "context.setPositions(numpy.load('positions.npy'))\n"
        "print(repr(context.getState(energy=True).getPotentialEnergy()._value))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == expected


def test_bonds_make_molecules(model: Path) -> None:
    """Images are chosen for whole molecules, so that none is torn apart."""
    atoms = molecule()
    atoms.pbc = True
    topology, system, positions = simulated(atoms, model)
    system.removeForce(0)
    everything = list(topology.atoms())
    for k in range(4):
        topology.addBond(everything[k], everything[k + 1])
    system.addForce(SymmdForce(model, topology))
    context = context_of(system, positions)
    assert [list(group) for group in context.getMolecules()] == [[0, 1, 2, 3, 4], [5], [6], [7], [8]]


def test_damaged_xml_is_refused(model: Path) -> None:
    xml = openmm.XmlSerializer.serialize(unusual(model))
    for wrong, message in (
        (xml.replace('version="2"', 'version="9"'), "expected version 1 to 2 of its XML, found 9"),
        (xml.replace('base64="', 'base64="*'), "the model in the XML is damaged"),
        (
            xml.replace('precision="double"', 'precision="half"'),
            "must be single, mixed or double, found 'half'",
        ),
    ):
        with pytest.raises(openmm.OpenMMException, match=message):
            openmm.XmlSerializer.deserialize(wrong)


def test_xml_from_before_there_were_devices(model: Path) -> None:
    force = unusual(model)
    xml = openmm.XmlSerializer.serialize(force)
    assert SymmdForce.wrap(openmm.XmlSerializer.deserialize(xml)).getDevice() == "cuda:1"
    older = xml.replace('version="2"', 'version="1"').replace('device="cuda:1"', "")
    assert older != xml
    again = SymmdForce.wrap(openmm.XmlSerializer.deserialize(older))
    assert (again.getDevice(), again.getModel()) == ("cpu", force.getModel())


@pytest.mark.parametrize("length", range(7))
def test_models_of_any_length_survive_xml(length: int) -> None:
    """The XML holds bytes in groups of three."""
    import symmd_md.openmm._forces as _forces

    force = openmm.XmlSerializer.deserialize('<Force type="SymmdForce" version="1"/>')
    content = bytes(range(250, 250 + length)) if length < 6 else bytes(range(256))
    _forces.set_model(int(force.this), content, "a test")
    again = openmm.XmlSerializer.clone(force)
    assert _forces.get_model(int(again.this)) == content


def test_simulation_writes_and_reads_its_state(tmp_path: Path, model: Path) -> None:
    topology, system, positions = simulated(molecule(), model)
    integrator = openmm.VerletIntegrator(0.0002)
    platform = openmm.Platform.getPlatformByName("Reference")
    simulation = app.Simulation(topology, system, integrator, platform)
    simulation.context.setPositions(positions)
    simulation.step(3)
    simulation.saveState(str(tmp_path / "state.xml"))
    energy = energy_of(simulation.context)
    simulation.step(3)
    simulation.loadState(str(tmp_path / "state.xml"))
    assert energy_of(simulation.context) == pytest.approx(energy, rel=1e-12)


def test_library_is_a_plugin_for_programs_without_symmd(tmp_path: Path, model: Path) -> None:
    """As a program in C++ loads it, by OpenMM's own function; the System comes from XML."""
    _, system, positions = simulated(molecule(), model)
    expected = energy_of(context_of(system, positions))
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    np.save(tmp_path / "positions.npy", positions.value_in_unit(unit.nanometer))
    folder = library_folder()
    assert folder is not None
    script = (
        "import numpy, sys\n"
        "from openmm import *\n"
        f"Platform.loadPluginLibrary({str(folder / LIBRARY)!r})\n"
        "system = XmlSerializer.deserialize(open('system.xml').read())\n"
        "context = Context(system, VerletIntegrator(0.001), Platform.getPlatformByName('Reference'))\n"
        "context.setPositions(numpy.load('positions.npy'))\n"
        "print(repr(context.getState(energy=True).getPotentialEnergy()._value))\n"
        "assert not any(name.startswith('symmd_md') for name in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == expected
