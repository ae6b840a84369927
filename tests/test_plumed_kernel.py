"""With PLUMED itself, wherever a kernel is: one bias in both engines, hills over ranks, runs and restarts."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import ase
import numpy as np
import pytest

from lammps_cases import (
    DUMP_FORCES,
    LAMMPS_BAR,
    THERMO,
    dumped,
    liquid,
    molecule,
    needs_lammps,
    refusal,
    run,
    setup,
    write_data,
    write_model,
)
from plumed_cases import ELECTRONVOLT, needs_kernel

pytestmark = [needs_kernel, needs_lammps]

FIX = "fix bias all symmd/plumed plumedfile plumed.dat outfile plumed.log\n"
THERMO_BIAS = THERMO.replace("lx", "lx f_bias")
VARIABLES = """
d: DISTANCE ATOMS=3,30
t: TORSION ATOMS=1,7,12,20
g: GYRATION ATOMS=1-12
c: COORDINATION GROUPA=1-10 GROUPB=11-40 R_0=0.25
r: RESTRAINT ARG=d,t,g,c AT=0.4,0.5,0.2,30 KAPPA=300,40,500,0.1
"""
HILLS = """
d: DISTANCE ATOMS=3,30
t: TORSION ATOMS=1,7,12,20
m: METAD ARG=d,t SIGMA=0.02,0.1 HEIGHT=2.0 PACE=2 BIASFACTOR=8 TEMP=300 FILE=HILLS
PRINT ARG=d,t,m.bias STRIDE=1 FILE=COLVAR
"""


def bare(folder: Path, atoms: ase.Atoms, units: str = "metal", boundary: str = "p p p") -> str:
    """An input without other forces."""
    script = setup(write_data(folder, units, atoms, units=units), "model", boundary, units=units)
    start = script.index("pair_style")
    return script[:start] + "pair_style zero 3.0\npair_coeff * *\nneighbor 0.8 bin\n"


def moving(folder: Path, script: str, steps: str, options: str = "") -> str:
    """An input of 40 atoms with a model that moves."""
    (folder / "plumed.dat").write_text(script)
    start = setup(write_data(folder, "liquid", liquid()), write_model(folder, "two"))
    start += options + FIX + THERMO_BIAS
    return start + f"velocity all create 300 4711\ntimestep 0.0005\nfix move all nve\nthermo 1\n{steps}\n"


def columns(path: Path) -> np.ndarray:
    """[rows, columns] of a file of PLUMED."""
    return np.atleast_2d(np.loadtxt(path, comments="#"))


@pytest.mark.parametrize("boundary", ["p p p", "s s s"])
def test_same_bias_and_forces_in_lammps_and_openmm(
    tmp_path: Path, boundary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openmm_cases import context_of, energy_of, forces_of, openmm
    from symmd_md.openmm import PlumedForce

    monkeypatch.chdir(tmp_path)
    periodic = boundary == "p p p"
    atoms = liquid() if periodic else molecule(40)
    (tmp_path / "plumed.dat").write_text(VARIABLES)
    found = {}
    for units, energy_unit in (("metal", ELECTRONVOLT), ("real", 4.184)):
        begin = bare(tmp_path, atoms, units, boundary)
        table = run(tmp_path, begin + FIX + THERMO_BIAS + DUMP_FORCES + "run 0\n").table
        found[units] = table["f_bias"][0] * energy_unit, dumped(tmp_path)[0][:, 1:] * energy_unit * 10
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    system.addForce(PlumedForce(VARIABLES, forceGroup=1))
    if periodic:
        # OpenMM has a box when any of its forces has one.
        box = openmm.CustomExternalForce("0*periodicdistance(x,y,z,0,0,0)")
        box.addParticle(0)
        system.addForce(box)
        system.setDefaultPeriodicBoxVectors(*(atoms.cell.array / 10))
    context = context_of(system, atoms.positions / 10)
    energy, forces = energy_of(context, groups={1}), forces_of(context, groups={1})
    assert energy > 1
    assert np.abs(forces).max() > 10
    for units, (energy_of_lammps, forces_of_lammps) in found.items():
        assert energy_of_lammps == pytest.approx(energy, rel=1e-9), units
        np.testing.assert_allclose(forces_of_lammps, forces, rtol=1e-8, atol=1e-6, err_msg=units)


def test_hills_of_two_ranks_are_those_of_one(tmp_path: Path) -> None:
    files = []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        run(folder, moving(folder, HILLS, "run 20"), ranks)
        files.append((columns(folder / "HILLS"), columns(folder / "COLVAR")))
    assert files[0][0][:, 0] == pytest.approx(np.arange(2, 21, 2) * 0.0005)
    for one, two in zip(*files, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-6)


def test_runs_and_restarts_go_on_with_the_hills(tmp_path: Path) -> None:
    for name, steps in (("whole", "run 20"), ("runs", "run 10\nrun 0\nrun 10"), ("first", "run 10")):
        (tmp_path / name).mkdir()
        ending = "" if name != "first" else "\nwrite_restart middle.restart"
        run(tmp_path / name, moving(tmp_path / name, HILLS, steps + ending))
    whole = columns(tmp_path / "whole" / "HILLS")
    np.testing.assert_allclose(columns(tmp_path / "runs" / "HILLS"), whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        columns(tmp_path / "runs" / "COLVAR"), columns(tmp_path / "whole" / "COLVAR"), rtol=1e-5, atol=1e-6
    )
    folder = tmp_path / "first"
    (folder / "plumed.dat").write_text("RESTART\n" + HILLS)
    script = "read_restart middle.restart\npair_style symmd precision double\n"
    script += "pair_coeff * * two.safetensors H C O\n" + FIX + "timestep 0.0005\nfix move all nve\nrun 10\n"
    run(folder, script)
    np.testing.assert_allclose(columns(folder / "HILLS"), whole, rtol=1e-4, atol=1e-5)


def test_minimiser_adds_no_hills(tmp_path: Path) -> None:
    steps = "minimize 0 1e-3 20 40\nreset_timestep 0\nvelocity all create 300 5\nrun 6"
    run(tmp_path, moving(tmp_path, HILLS, steps))
    assert len(columns(tmp_path / "HILLS")) == 3
    assert columns(tmp_path / "COLVAR")[:, 0] == pytest.approx(np.arange(7) * 0.0005)


@pytest.mark.parametrize("ranks", [1, 2])
def test_energy_as_a_collective_variable(tmp_path: Path, ranks: int) -> None:
    slope = 0.2
    (tmp_path / "plumed.dat").write_text(f"e: ENERGY\nRESTRAINT ARG=e AT=0 SLOPE={slope}\n")
    begin = setup(write_data(tmp_path, "liquid", liquid()), write_model(tmp_path, "two"))
    without = run(tmp_path, begin + THERMO + DUMP_FORCES + "run 0\n", ranks).table
    forces = dumped(tmp_path)[0][:, 1:]
    table = run(tmp_path, begin + FIX + THERMO_BIAS + DUMP_FORCES + "run 0\n", ranks).table
    np.testing.assert_allclose(table["f_bias"], slope * without["PotEng"], rtol=1e-6)
    np.testing.assert_allclose(dumped(tmp_path)[0][:, 1:], (1 + slope) * forces, rtol=1e-6, atol=1e-8)
    for name in ("Pxx", "Pxy"):
        np.testing.assert_allclose(table[name], (1 + slope) * without[name], rtol=1e-6, atol=1e-2)


def test_virial_against_finite_differences(tmp_path: Path) -> None:
    atoms, strain = liquid(), 1e-5
    (tmp_path / "plumed.dat").write_text(VARIABLES)
    script = bare(tmp_path, atoms) + FIX + THERMO_BIAS + "run 0\n"
    for axis in "xyz":
        for factor in (1 + strain, (1 - strain) / (1 + strain)):
            script += f"change_box all {axis} scale {factor:.15g} remap units box\nrun 0\n"
        script += f"change_box all {axis} scale {1 / (1 - strain):.15g} remap units box\n"
    tables = run(tmp_path, script).tables
    for k, axis in enumerate("xyz"):
        slope = (tables[1 + 2 * k]["PotEng"][0] - tables[2 + 2 * k]["PotEng"][0]) / (2 * strain)
        expected = -slope / atoms.get_volume() * LAMMPS_BAR
        assert abs(expected) > 100
        assert tables[0]["P" + 2 * axis][0] == pytest.approx(expected, rel=1e-4, abs=1), axis


def test_messages_of_plumed_are_one_line(tmp_path: Path) -> None:
    script = moving(tmp_path, "d: DISTANC ATOMS=1,2\n", "run 1")
    message = refusal(tmp_path, script)
    assert "fix symmd/plumed: PLUMED refused 'init'" in message
    assert "DISTANC" in message
    # Places in PLUMED's sources are left out.
    assert "core/" not in message


STEPS = """
import sys
import openmm
from symmd_md.openmm import PlumedForce

first, count, restart = int(sys.argv[1]), int(sys.argv[2]), len(sys.argv) > 3
system = openmm.System()
springs = openmm.HarmonicBondForce()
for k in range(4):
    system.addParticle(20.0)
    if k: springs.addBond(k - 1, k, 0.15, 20000)
system.addForce(springs)
script = '''
t: TORSION ATOMS=1,2,3,4
m: METAD ARG=t SIGMA=0.2 HEIGHT=1.0 PACE=5 BIASFACTOR=8 FILE=HILLS
PRINT ARG=t,m.bias STRIDE=1 FILE=COLVAR
'''
system.addForce(PlumedForce(script, temperature=300, restart=restart))
integrator = openmm.LangevinMiddleIntegrator(300, 5, 0.002)
integrator.setRandomNumberSeed(3)
context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
context.setPositions([[0, 0, 0], [0.15, 0, 0], [0.15, 0.15, 0], [0.2, 0.15, 0.14]])
if first:
    context.loadCheckpoint(open("middle.chk", "rb").read())
else:
    openmm.LocalEnergyMinimizer.minimize(context, 1.0, 5)
for _ in range(count // 4):
    integrator.step(4)
    context.getState(energy=True, forces=True)
open("middle.chk", "wb").write(context.createCheckpoint())
"""


def test_steps_and_restart_in_openmm(tmp_path: Path) -> None:
    pytest.importorskip("openmm_cases", exc_type=pytest.skip.Exception)
    (tmp_path / "steps.py").write_text(STEPS)
    subprocess.run([sys.executable, "steps.py", "0", "24"], cwd=tmp_path, check=True)
    assert columns(tmp_path / "COLVAR")[:, 0] == pytest.approx(np.arange(24) * 0.002)
    hills = columns(tmp_path / "HILLS")
    assert hills[:, 0] == pytest.approx(np.array([5, 10, 15, 20]) * 0.002)
    bias = columns(tmp_path / "COLVAR")[-1, 2]
    subprocess.run([sys.executable, "steps.py", "24", "12", "restart"], cwd=tmp_path, check=True)
    again = columns(tmp_path / "HILLS")
    assert again[:, 0] == pytest.approx(np.array([5, 10, 15, 20, 25, 30, 35]) * 0.002)
    np.testing.assert_array_equal(again[:4], hills)
    later = columns(tmp_path / "COLVAR")
    assert later[:, 0] == pytest.approx(np.arange(36) * 0.002)
    assert later[24, 2] == pytest.approx(bias, abs=0.5)
    gc.collect()
