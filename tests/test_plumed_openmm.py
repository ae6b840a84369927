"""PlumedForce around a recording kernel: energies, units, what is a step, Contexts, copies, refusals."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest

from openmm_cases import (
    HOST_PLATFORMS,
    PLATFORMS,
    box_of,
    context_of,
    energy_of,
    forces_of,
    openmm,
    positions_of,
    simulated,
    unit,
    write_model,
)
from plumed_cases import ELECTRONVOLT, Record, harmonic, needs_compiler, recorder, without_kernel
from symmd_md.errors import DataError
from symmd_md.openmm import PlumedForce

pytestmark = needs_compiler

PAIR = (1, 8)
AT, KAPPA = 0.3, 500.0
ATOMS = 20
EDGE = 2.0


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PLUMED_KERNEL", raising=False)
    yield
    gc.collect()


def bias(options: str = "", **settings: Any) -> PlumedForce:
    script = f"ATOMS={PAIR[0] + 1},{PAIR[1] + 1} AT={AT} KAPPA={KAPPA} {options}\n"
    return PlumedForce(script, **{"kernel": recorder(), "log": "record", **settings})


def argon(force: openmm.Force | None = None, periodic: bool = True) -> openmm.System:
    """Charged soft spheres."""
    system = openmm.System()
    pairs = openmm.NonbondedForce()
    pairs.setNonbondedMethod(pairs.CutoffPeriodic if periodic else pairs.NoCutoff)
    pairs.setCutoffDistance(0.9)
    for k in range(ATOMS):
        system.addParticle(30.0 + k)
        pairs.addParticle(0.1 * (-1) ** k, 0.3, 0.5)
    system.setDefaultPeriodicBoxVectors((EDGE, 0, 0), (0.3, EDGE, 0), (0.2, -0.1, EDGE))
    system.addForce(pairs)
    if force is not None:
        system.addForce(force)
    return system


def places() -> np.ndarray:
    """[ATOMS, 3] nm"""
    grid = np.stack(np.meshgrid(*[range(3)] * 3, indexing="ij"), -1).reshape(-1, 3)[:ATOMS] * 0.6
    return grid + 0.03 * np.random.default_rng(2).standard_normal(grid.shape)


def langevin() -> openmm.Integrator:
    integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.002)
    integrator.setRandomNumberSeed(5)
    return integrator


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("periodic", [True, False])
def test_energy_and_forces(platform: str, periodic: bool) -> None:
    positions = places()
    positions[PAIR[1]] += 1.1  # nearest through an image
    plain = context_of(argon(periodic=periodic), positions, platform=platform)
    context = context_of(argon(bias(forceGroup=3), periodic), positions, platform=platform)
    cell = box_of(context) * 10 if periodic else None
    atoms = ase.Atoms(["Ar"] * ATOMS, positions=positions * 10, cell=cell, pbc=periodic)
    energy, forces, _ = harmonic(atoms, PAIR, AT, KAPPA)
    assert energy_of(context, groups={3}) == pytest.approx(energy * ELECTRONVOLT, rel=1e-5)
    expected = forces * ELECTRONVOLT * 10
    np.testing.assert_allclose(forces_of(context, groups={3}), expected, rtol=1e-4, atol=1e-3)
    assert energy_of(context) - energy_of(plain) == pytest.approx(energy * ELECTRONVOLT, rel=1e-3)
    record = Record(Path("record"))
    assert len(record.calculations()) == 1
    assert bool(record.boxes) == periodic


def test_what_plumed_is_told() -> None:
    context = context_of(
        argon(bias(temperature=320 * unit.kelvin)), places(), openmm.VerletIntegrator(0.0015)
    )
    energy_of(context)
    record = Record(Path("record"))
    assert record.value("setNatoms") == ATOMS
    assert record.value("setTimestep") == pytest.approx(0.0015)
    assert record.value("setKbT") == pytest.approx(0.00831446261815324 * 320)
    assert not any(line.startswith("setRestart") for line in record.lines)
    assert record.lines[-2].endswith("masses 31 38 charges -0.1 0.1")
    assert record.boxes[0] == pytest.approx([EDGE, EDGE, EDGE, 0.3])


def velocity_verlet(announced: bool) -> openmm.CustomIntegrator:
    integrator = openmm.CustomIntegrator(0.001)
    if announced:
        integrator.addUpdateContextState()
    integrator.addComputePerDof("v", "v+0.5*dt*f/m")
    integrator.addComputePerDof("x", "x+dt*v")
    integrator.addComputePerDof("v", "v+0.5*dt*f/m")
    return integrator


INTEGRATORS = {
    "Verlet": lambda: openmm.VerletIntegrator(0.001),
    "Langevin": langevin,
    "Brownian": lambda: openmm.BrownianIntegrator(300, 50, 0.001),
    "NoseHoover": lambda: openmm.NoseHooverIntegrator(300, 1, 0.001),
    "VariableVerlet": lambda: openmm.VariableVerletIntegrator(0.0005),
    "MTS": lambda: openmm.MTSLangevinIntegrator(300, 1, 0.002, [(0, 2), (1, 1)]),
    "Custom": lambda: velocity_verlet(True),
}


@pytest.mark.parametrize("name", INTEGRATORS)
def test_each_step_counts_once(name: str) -> None:
    context = context_of(argon(bias("GROW=5")), places(), INTEGRATORS[name]())
    context.setVelocitiesToTemperature(300, 3)
    integrator = context.getIntegrator()
    integrator.step(3)
    # Queries between the steps, twice.
    for _ in range(2):
        energy_of(context)
        forces_of(context)
    integrator.step(2)
    for _ in range(2):
        integrator.step(1)
    assert Record(Path("record")).updates == list(range(7))


@pytest.mark.parametrize("platform", HOST_PLATFORMS)
def test_not_every_evaluation_is_a_step(platform: str) -> None:
    system = argon(bias("GROW=5"))
    system.addForce(openmm.MonteCarloBarostat(1.0, 300.0, 2))
    context = context_of(system, places(), langevin(), platform)
    openmm.LocalEnergyMinimizer.minimize(context, 5.0, 20)
    minimising = len(Record(Path("record")).calculations())
    assert minimising > 3
    assert Record(Path("record")).updates == []
    integrator = context.getIntegrator()
    integrator.step(10)
    record = Record(Path("record"))
    assert record.updates == list(range(10))
    trials = record.calculations()[minimising:]
    assert len(trials) > 10  # of the barostat too
    assert len({tuple(box) for box in record.boxes}) > 2
    # A second minimisation, in the middle of the dynamics.
    openmm.LocalEnergyMinimizer.minimize(context, 5.0, 10)
    assert Record(Path("record")).updates == list(range(10))
    integrator.step(2)
    assert Record(Path("record")).updates == list(range(12))


def test_bias_of_a_step_is_that_before_its_hill() -> None:
    # KAPPA grows with each update, but a query sees the bias that has moved the particles.
    context = context_of(argon(bias("GROW=100", forceGroup=1)), places(), openmm.VerletIntegrator(0.001))
    before = energy_of(context, groups={1})
    context.getIntegrator().step(1)
    after = energy_of(context, groups={1})
    record = Record(Path("record"))
    assert record.calculations("bias") == pytest.approx([before, after])
    assert record.calculations() == [0, 1]
    excess = [distance - AT for distance in record.calculations("distance")]
    kappas = [2 * energy / e**2 for energy, e in zip((before, after), excess, strict=True)]
    assert kappas == pytest.approx([KAPPA, KAPPA + 100], rel=1e-6)


def test_groups_without_the_force_do_not_count() -> None:
    integrator = langevin()
    integrator.setIntegrationForceGroups({0})
    context = context_of(argon(bias(forceGroup=2)), places(), integrator)
    integrator.step(3)
    assert Record(Path("record")).calculations() == []
    # A query of other groups within the steps.
    energy_of(context, groups={2})
    assert Record(Path("record")).updates == []


def test_trajectory_with_queries_is_the_same() -> None:
    ends = []
    for log, parts in (("whole", [12]), ("parts", [5, 0, 7])):
        context = context_of(argon(bias("GROW=20", log=log)), places(), openmm.VerletIntegrator(0.001))
        context.setVelocitiesToTemperature(300, 3)
        for steps in parts:
            context.getIntegrator().step(steps)
            forces_of(context)
        ends.append(positions_of(context))
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-12)


def test_context_that_is_made_again_goes_on() -> None:
    system = argon(bias("GROW=10"))
    context = context_of(system, places(), openmm.VerletIntegrator(0.001))
    context.getIntegrator().step(4)
    context.reinitialize(preserveState=True)
    context.getIntegrator().step(3)
    record = Record(Path("record"))
    assert record.updates == list(range(7))
    assert sum(line.startswith("init") for line in record.lines) == 1
    # Another Context of the System has the same bias, grown by now.
    energy = energy_of(context)
    positions = positions_of(context)
    del context
    gc.collect()
    again = context_of(system, positions, openmm.VerletIntegrator(0.001))
    assert energy_of(again) == pytest.approx(energy, rel=1e-9)
    # A copy of the System begins anew.
    other = argon()
    other.addForce(copy.deepcopy(system.getForce(1)))
    fresh = context_of(other, positions, openmm.VerletIntegrator(0.001))
    assert energy_of(fresh) < energy - 0.1
    assert sum(line.startswith("init") for line in Record(Path("record")).lines) == 2


def test_two_contexts_cannot_step_with_one_force() -> None:
    system = argon(bias())
    one = context_of(system, places(), openmm.VerletIntegrator(0.001))
    two = context_of(system, places(), openmm.VerletIntegrator(0.001))
    one.getIntegrator().step(2)
    energy_of(two)
    with pytest.raises(openmm.OpenMMException, match="two Contexts step with one PlumedForce"):
        two.getIntegrator().step(1)


def test_restart_in_another_process() -> None:
    context = context_of(argon(bias()), places(), langevin())
    context.getIntegrator().step(5)
    checkpoint = context.createCheckpoint()
    del context
    later = context_of(argon(bias(restart=True, log="later")), places(), langevin())
    later.loadCheckpoint(checkpoint)
    later.getIntegrator().step(3)
    record = Record(Path("later"))
    assert record.value("setRestart") == 1
    assert record.updates == [5, 6, 7]


def test_barostat_samples_with_the_bias() -> None:
    system = argon(bias())
    system.addForce(openmm.MonteCarloBarostat(1.0, 300.0, 1))
    barostat = system.getForce(2)
    context = context_of(system, places(), langevin())
    found = barostat.computeCurrentPressure(context)
    # Scaling the box by hand: −dU/dV of everything, by molecules as the barostat scales them (atoms here).
    positions, box = positions_of(context), box_of(context)
    energies = []
    for scale in (1 + 1e-5, 1 - 1e-5):
        context.setPeriodicBoxVectors(*(scale * box))
        context.setPositions(scale * positions)
        energies.append(energy_of(context))
    volume = np.linalg.det(box)
    slope = (energies[0] - energies[1]) / (volume * ((1 + 1e-5) ** 3 - (1 - 1e-5) ** 3))
    kinetic = 2 / 3 * context.getState(energy=True).getKineticEnergy().value_in_unit(unit.kilojoule_per_mole)
    expected = (kinetic / volume - slope) * 16.60539
    assert float(np.mean(found.value_in_unit(unit.bar))) == pytest.approx(expected, rel=2e-2, abs=20)


def test_copies_and_pickles() -> None:
    script = "# two lines & <signs>\nATOMS=1,2 KAPPA=1\n"
    force = PlumedForce(script, "/some/kernel.so", 310, log="a.log", restart=True, forceGroup=7)
    force.setName("hills")
    system = argon(force)
    xml = openmm.XmlSerializer.serialize(system)
    for other in (
        openmm.XmlSerializer.deserialize(xml),
        copy.deepcopy(system),
        pickle.loads(pickle.dumps(system)),
    ):
        again = PlumedForce.wrap(other.getForce(1))
        assert isinstance(again, openmm.Force)
        assert again.getScript() == script
        assert again.getKernel() == "/some/kernel.so"
        assert again.getTemperature() == 310 * unit.kelvin
        assert (again.getLogFile(), again.getRestart()) == ("a.log", True)
        assert (again.getForceGroup(), again.getName()) == (7, "hills")
    with pytest.raises(DataError, match="expected a PlumedForce, found the force named 'NonbondedForce'"):
        PlumedForce.wrap(system.getForce(0))
    for other, kind in ((system, "System"), (openmm.VerletIntegrator(0.001), "VerletIntegrator"), (3, "int")):
        with pytest.raises(DataError, match=f"expected a PlumedForce, found {kind}; give system.getForce"):
            PlumedForce.wrap(other)


def test_script_from_a_file() -> None:
    Path("plumed.dat").write_text("ATOMS=1,2\nKAPPA=1\n")
    Path("my folder").mkdir()
    Path("my folder/plumed.dat").write_text("ATOMS=1,2\nKAPPA=1\n")
    for name in ("plumed.dat", Path("plumed.dat"), "my folder/plumed.dat"):
        assert PlumedForce(name).getScript() == "ATOMS=1,2\nKAPPA=1\n"
    assert PlumedForce("ATOMS=1,2 AT=3").getScript() == "ATOMS=1,2 AT=3"
    with pytest.raises(DataError, match=r"found 'absent.dat', which cannot be read: No such file"):
        PlumedForce("absent.dat")
    assert PlumedForce("a b").getTemperature() is None


def test_kernel_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMED_KERNEL", recorder())
    energy_of(context_of(argon(bias(kernel=None)), places()))
    assert Record(Path("record")).calculations() == [0]


def test_no_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_kernel(monkeypatch)
    # In a process of its own: a kernel that another test has loaded is found.
    (tmp_path / "run.py").write_text(
        "import openmm\n"
        "from symmd_md.openmm import PlumedForce\n"
        "system = openmm.System()\n"
        "system.addParticle(20.0)\n"
        "system.addForce(PlumedForce('PRINT ARG=x'))\n"
        "openmm.Context(system, openmm.VerletIntegrator(0.001))\n"
    )
    done = subprocess.run([sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True)
    reason = done.stderr.splitlines()[-1]
    assert re.search(r"OpenMMException.*libplumedKernel.so, which pip does not bring.*conda", reason)


def test_refusals() -> None:
    def made(options: str = "", **settings: Any) -> openmm.Context:
        return context_of(argon(bias(options, **settings)), places(), openmm.VerletIntegrator(0.001))

    def run(options: str) -> None:
        context = made(options)
        context.getIntegrator().step(10)

    with pytest.raises(openmm.OpenMMException, match="PLUMED refused 'init': there is no such atom"):
        context_of(argon(PlumedForce("ATOMS=1,99 KAPPA=1", recorder(), log="record")), places())
    with pytest.raises(openmm.OpenMMException, match="cannot be loaded"):
        made(kernel="absent.so")
    with pytest.raises(openmm.OpenMMException, match=r"must be the kernel of PLUMED 2\.5 or newer"):
        made(kernel="libm.so.6")
    with pytest.raises(openmm.OpenMMException, match=r"ENERGY.*run it in LAMMPS"):
        energy_of(made("ENERGY=0.1"))
    with pytest.raises(openmm.OpenMMException, match="PLUMED refused 'update': the test wants"):
        run("FAIL=update")
    with pytest.raises(openmm.OpenMMException, match="asks for the end of the run in step 2"):
        run("STOP=2")
    with pytest.raises(openmm.OpenMMException, match="temperature must be 0 K or more, found -5"):
        bias(temperature=-5)
    with pytest.raises(openmm.OpenMMException, match="one copy of the particles, found RPMDIntegrator"):
        context_of(argon(bias(), periodic=False), places(), openmm.RPMDIntegrator(4, 300, 1, 0.001))
    nested = openmm.CustomCVForce("2*b")
    nested.addCollectiveVariable("b", bias())
    with pytest.raises(
        openmm.OpenMMException, match=r"a force of the System itself.*inside of CustomCVForce"
    ):
        context_of(argon(nested), places(), openmm.VerletIntegrator(0.001))
    context = made()
    positions = places()
    positions[4, 1] = np.nan
    context.setPositions(positions)
    with pytest.raises(openmm.OpenMMException, match="expected finite positions"):
        energy_of(context)
    system = argon(bias())
    context = context_of(system, places(), openmm.VerletIntegrator(0.001))
    context.getIntegrator().step(1)
    PlumedForce.wrap(system.getForce(1)).close()
    with pytest.raises(openmm.OpenMMException, match="it was closed"):
        context.getIntegrator().step(1)


def test_integrator_that_does_not_announce_its_steps() -> None:
    context = context_of(argon(bias()), places(), velocity_verlet(False))
    with pytest.raises(openmm.OpenMMException, match=r"integrator\.addUpdateContextState"):
        context.getIntegrator().step(10)


def test_files_are_complete_when_python_ends(tmp_path: Path) -> None:
    # Everything stays alive until the end, as in a script.
    (tmp_path / "run.py").write_text(
        "import openmm\n"
        "from symmd_md.openmm import PlumedForce\n"
        "system = openmm.System()\n"
        "for _ in range(2): system.addParticle(20.0)\n"
        f"force = PlumedForce('ATOMS=1,2 KAPPA=10', {recorder()!r}, log='record')\n"
        "system.addForce(force)\n"
        "context = openmm.Context(system, openmm.VerletIntegrator(0.001))\n"
        "context.setPositions([[0, 0, 0], [0.3, 0.1, 0]])\n"
        "context.getIntegrator().step(3)\n"
        "keep = [context, force, system]; keep.append(keep)\n"
    )
    subprocess.run([sys.executable, "run.py"], cwd=tmp_path, check=True)
    record = Record(tmp_path / "record")
    assert record.lines[-1] == "finalize"
    assert record.updates == [0, 1, 2]


def test_with_a_model(tmp_path: Path) -> None:
    positions = np.random.default_rng(4).random((8, 3)) * 0.2 + np.arange(8)[:, None] * [1.5, 0.4, 0.2]
    found = simulated(ase.Atoms("CHOHCHOC", positions=positions), write_model(tmp_path))
    found.system.addForce(PlumedForce("ATOMS=1,5 AT=0.5 KAPPA=80000", recorder(), log="record"))
    context = context_of(found.system, found.positions, openmm.VerletIntegrator(0.0002))
    energies = []
    for _ in range(30):
        context.getIntegrator().step(2)
        state = context.getState(energy=True)
        whole = state.getPotentialEnergy() + state.getKineticEnergy()
        energies.append(whole.value_in_unit(unit.kilojoule_per_mole))
    moved = np.ptp(Record(tmp_path / "record").calculations("bias"))
    assert moved > 10
    assert np.ptp(energies) < 0.02 * moved
