"""fix symmd/plumed around a recording kernel: calls, units, ranks, runs, minimisers, rRESPA, refusals."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import ase
import numpy as np
import pytest

from lammps_cases import (
    DUMP_FORCES,
    LAMMPS_BAR,
    PRESSURES,
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
from plumed_cases import (
    ELECTRONVOLT,
    Record,
    harmonic,
    mpi_headers,
    needs_compiler,
    program,
    recorder,
    without_kernel,
)
from symmd_md.engines.plumed import LIBRARY, plumed_kernel

pytestmark = [needs_lammps, needs_compiler]

PAIR = (3, 30)
AT, KAPPA = 0.4, 300.0
THERMO_BIAS = THERMO.replace("lx", "lx f_bias")


def begin(folder: Path, atoms: ase.Atoms | None = None, *, options: str = "", **keywords: str) -> str:
    """The beginning of an input, with plumed.dat in ``folder``."""
    atoms = liquid() if atoms is None else atoms
    pair = f"{PAIR[0] + 1},{min(PAIR[1], len(atoms) - 1) + 1}"
    (folder / "plumed.dat").write_text(f"ATOMS={pair} AT={AT} KAPPA={KAPPA} {options}\n")
    data = write_data(folder, "liquid", atoms, units=keywords.get("units", "metal"))
    return setup(data, write_model(folder, "two"), **keywords)


def fix(kernel: str | None = None, log: str = "record") -> str:
    command = f"fix bias all symmd/plumed plumedfile plumed.dat outfile {log} kernel {kernel or recorder()}\n"
    return command + THERMO_BIAS


def dynamics(steps: str, options: str = "") -> str:
    return f"velocity all create 300 4711\ntimestep 0.0005\nfix move all nve\n{options}thermo 1\n{steps}\n"


def test_policy_alone(tmp_path: Path) -> None:
    done = subprocess.run([program("once_per_step", tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_order_of_calls(tmp_path: Path) -> None:
    run(tmp_path, begin(tmp_path) + fix() + dynamics("run 2"))
    commands = [line.split()[0] for line in Record(tmp_path / "record").lines]
    units = ["setMDEnergyUnits", "setMDLengthUnits", "setMDTimeUnits"]
    start = [*units, "setMDEngine", "setNatoms", "setTimestep", "init"]
    step = ["setStepLong", "prepareCalc", "calculate", "box", "update"]
    assert commands == [*start, *step * 3, "finalize"]


@pytest.mark.parametrize("units", ["metal", "real"])
def test_units_energy_forces_and_pressure(tmp_path: Path, units: str) -> None:
    atoms = liquid()
    energy, forces, virial = harmonic(atoms, PAIR, AT, KAPPA)
    plain = begin(tmp_path, atoms, units=units)
    without = run(tmp_path, plain + THERMO + DUMP_FORCES + "run 0\n").table
    forces_without = dumped(tmp_path)[0][:, 1:]
    table = run(tmp_path, plain + "timestep 0.5\n" + fix() + DUMP_FORCES + "run 0\n").table
    record = Record(tmp_path / "record")
    unit, pressure = (1.0, LAMMPS_BAR) if units == "metal" else (ELECTRONVOLT / 4.184, 1 / 1.4583972e-5)
    np.testing.assert_allclose(table["f_bias"], energy * unit, rtol=1e-10)
    np.testing.assert_allclose(record.calculations("bias"), energy * ELECTRONVOLT, rtol=1e-10)
    distance = atoms.get_distance(*PAIR, mic=True) / 10
    np.testing.assert_allclose(record.calculations("distance"), distance, rtol=1e-10)
    assert record.value("setTimestep") == pytest.approx(0.5 if units == "metal" else 0.0005, rel=1e-12)
    # LAMMPS' real units have their own eV, by which the pair style converts.
    difference = table["PotEng"] - without["PotEng"]
    np.testing.assert_allclose(difference, energy * unit, rtol=1e-8)
    np.testing.assert_allclose(dumped(tmp_path)[0][:, 1:] - forces_without, forces * unit, atol=1e-10 * unit)
    for name, (a, b) in zip(PRESSURES, [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)], strict=True):
        expected = virial[a, b] * unit / atoms.get_volume() * pressure
        found = (table[name] - without[name])[0]
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-3), name


def test_masses_and_charges(tmp_path: Path) -> None:
    begin(tmp_path)
    script = f"""
units real
atom_style charge
region box block 0 20 0 20 0 20
create_box 2 box
create_atoms 1 single 1 1 1
create_atoms 2 single 4 5 6
create_atoms 1 single 9 2 3
mass 1 12.5
mass 2 16.25
set type 2 charge -0.75
pair_style zero 5.0
pair_coeff * *
{fix()}
run 0
"""
    (tmp_path / "plumed.dat").write_text("ATOMS=2,3 AT=0.3 KAPPA=10\n")
    run(tmp_path, script)
    (line,) = [line for line in Record(tmp_path / "record").lines if line.startswith("calculate")]
    assert line.endswith("masses 16.25 12.5 charges -0.75 0")


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_through_rank_zero(tmp_path: Path, ranks: int) -> None:
    script = begin(tmp_path, options="GROW=5")
    one = run(tmp_path, script + fix(log="one") + dynamics("run 6")).table
    several = run(tmp_path, script + fix(log="several") + dynamics("run 6"), ranks)
    assert "on rank 0, which has the atoms of all ranks" in several.output
    for name in ("PotEng", "KinEng", "f_bias", *PRESSURES):
        np.testing.assert_allclose(several.table[name], one[name], rtol=1e-8, atol=1e-5, err_msg=name)
    record = Record(tmp_path / "several")
    assert record.updates == list(range(7))
    np.testing.assert_allclose(
        record.calculations("bias"), Record(tmp_path / "one").calculations("bias"), rtol=1e-9
    )
    assert not (tmp_path / "several.1").exists()


@pytest.mark.skipif(mpi_headers() is None, reason="there is no MPI to build a recording kernel with")
@pytest.mark.parametrize("ranks", [1, 2])
def test_kernel_that_passes_messages(tmp_path: Path, ranks: int) -> None:
    kernel = recorder(with_mpi=True)
    script = begin(tmp_path, options="GROW=5 ENERGY=0.02")
    plain = run(tmp_path, script + fix(log="plain") + dynamics("run 4")).table
    passing = run(tmp_path, script + fix(kernel, log="passing") + dynamics("run 4"), ranks)
    assert ("on all ranks, which pass messages" in passing.output) == (ranks > 1)
    for name in ("PotEng", "KinEng", "f_bias", *PRESSURES):
        np.testing.assert_allclose(passing.table[name], plain[name], rtol=1e-8, atol=1e-5, err_msg=name)
    for rank in range(ranks):
        record = Record(tmp_path / ("passing" if rank == 0 else f"passing.{rank}"))
        assert record.updates == list(range(5))


def test_older_kernels(tmp_path: Path) -> None:
    script = begin(tmp_path, options="GROW=5 ENERGY=0.02")
    new = run(tmp_path, script + fix(log="new") + dynamics("run 3")).table
    old = run(tmp_path, script + fix(recorder(version=2), log="old") + dynamics("run 3")).table
    for name in ("PotEng", "f_bias", *PRESSURES):
        np.testing.assert_array_equal(old[name], new[name], err_msg=name)
    assert Record(tmp_path / "old").lines == Record(tmp_path / "new").lines
    message = refusal(tmp_path, script + fix(recorder(version=1)) + "run 0\n")
    assert "must be the kernel of PLUMED 2.5 or newer, found an older one" in message


@pytest.mark.skipif(mpi_headers() is None, reason="there is no MPI to build a recording kernel with")
def test_partitions_are_replicas(tmp_path: Path) -> None:
    script = begin(tmp_path) + fix(recorder(with_mpi=True)) + dynamics("run 2")
    run(tmp_path, script, ranks=4, options=("-partition", "2x2", "-plog", "none"))
    for replica in range(2):
        record = Record(tmp_path / f"record.{replica}")
        # Two ranks of each of two replicas; only the first ranks know those of the other replicas.
        assert [line for line in record.lines if line.startswith("init")] == [
            "init 0 Intracomm 2 Intercomm 2 "
        ]
        assert record.updates == [0, 1, 2]
        assert (tmp_path / f"record.{replica}.1").exists()
    separate = ("-partition", "2x1", "-plog", "none")
    run(tmp_path, begin(tmp_path) + fix() + "run 0\n", ranks=2, options=separate, check=False)
    reason = "needs a PLUMED with LAMMPS' MPI when LAMMPS runs several partitions"
    # The first partition that ends takes the other one with it, message or not.
    assert reason in "".join((tmp_path / f"screen.{partition}").read_text() for partition in range(2))


@pytest.mark.parametrize("ranks", [1, 2])
def test_energy_as_a_collective_variable(tmp_path: Path, ranks: int) -> None:
    atoms, scale = liquid(), 0.1
    script = begin(tmp_path, atoms, options=f"ENERGY={scale}")
    # A restraint of another fix is a part of the energy, and is scaled too.
    script += "fix pull all spring/self 0.3\nfix_modify pull energy yes\ndisplace_atoms all move 0.1 0 0\n"
    without = run(tmp_path, script + THERMO + DUMP_FORCES + "run 0\n", ranks).table
    forces_without = dumped(tmp_path)[0][:, 1:]
    table = run(tmp_path, script + fix() + DUMP_FORCES + "run 0\n", ranks).table
    energy, forces, virial = harmonic(atoms, PAIR, AT, KAPPA)
    np.testing.assert_allclose(table["f_bias"], energy + scale * without["PotEng"], rtol=1e-9)
    np.testing.assert_allclose(table["PotEng"], energy + (1 + scale) * without["PotEng"], rtol=1e-9)
    np.testing.assert_allclose(
        dumped(tmp_path)[0][:, 1:], forces + (1 + scale) * forces_without, rtol=1e-8, atol=1e-9
    )
    expected = (1 + scale) * without["Pxy"] + virial[0, 1] / atoms.get_volume() * LAMMPS_BAR
    np.testing.assert_allclose(table["Pxy"], expected, rtol=1e-6, atol=1e-2)


def test_energy_in_every_step(tmp_path: Path) -> None:
    # Thermodynamic output, which makes LAMMPS add up energies, comes in the last step alone.
    script = begin(tmp_path, options="ENERGY=0.1")
    each = run(tmp_path, script + fix() + dynamics("run 6")).table
    last = run(tmp_path, script + fix() + dynamics("thermo 6\nrun 6")).table
    for name in ("PotEng", "f_bias", *PRESSURES):
        np.testing.assert_allclose(last[name][-1], each[name][-1], rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("ranks", [1, 2])
def test_successive_runs_are_one(tmp_path: Path, ranks: int) -> None:
    script = begin(tmp_path, options="GROW=20")
    # Atoms are sorted and wrapped when a run begins.
    sorting = "atom_modify sort 1 2.0\n"
    whole = run(tmp_path, script + fix(log="whole") + dynamics("run 12", sorting), ranks).table
    parts = run(tmp_path, script + fix(log="parts") + dynamics("run 5\nrun 0\nrun 7", sorting), ranks).tables
    for name in ("PotEng", "KinEng", "f_bias"):
        joined = np.concatenate([parts[0][name], parts[2][name][1:]])
        np.testing.assert_allclose(joined, whole[name], rtol=1e-9, err_msg=name)
        # What a run ends with is what the next one begins with.
        assert parts[1][name][0] == pytest.approx(parts[0][name][-1], rel=1e-12)
    record = Record(tmp_path / "parts")
    assert record.updates == list(range(13))
    assert record.calculations() == list(range(13))


def test_moved_atoms_are_evaluated_anew(tmp_path: Path) -> None:
    script = begin(tmp_path, options="GROW=20") + fix() + dynamics("run 2")
    script += "displace_atoms all random 0.05 0.05 0.05 17\nrun 1\n"
    tables = run(tmp_path, script).tables
    record = Record(tmp_path / "record")
    assert record.calculations() == [0, 1, 2, 2, 3]
    assert record.updates == [0, 1, 2, 3]
    assert tables[1]["f_bias"][0] == pytest.approx(record.calculations("bias")[3] / ELECTRONVOLT, rel=1e-10)


@pytest.mark.parametrize("ranks", [1, 2])
def test_minimiser_does_not_update(tmp_path: Path, ranks: int) -> None:
    script = begin(tmp_path, options="GROW=20") + fix()
    script += "thermo 1\nminimize 0 1e-4 20 60\nreset_timestep 0\n" + dynamics("run 3")
    tables = run(tmp_path, script, ranks).tables
    assert (np.diff(tables[0]["PotEng"]) <= 1e-9).all()
    assert tables[0]["PotEng"][-1] < tables[0]["PotEng"][0] - 0.1
    record = Record(tmp_path / "record")
    first = record.lines.index("update step 0")
    assert sum(line.startswith("calculate") for line in record.lines[:first]) > 5
    assert record.updates == [0, 1, 2, 3]


@pytest.mark.parametrize("level", ["", "fix_modify bias respa 1\n"])
def test_respa(tmp_path: Path, level: str) -> None:
    script = begin(tmp_path, options="GROW=20")
    one = "run_style respa 2 1 pair 1\n" + level
    verlet = run(tmp_path, script + fix(log="verlet") + dynamics("run 4\nrun 4")).tables[-1]
    respa = run(tmp_path, script + fix(log="respa") + dynamics("run 4\nrun 4", one)).tables[-1]
    for name in ("PotEng", "KinEng", "f_bias"):
        np.testing.assert_allclose(respa[name], verlet[name], rtol=1e-9, err_msg=name)
    two = "run_style respa 2 2 pair 2\n" + level
    run(tmp_path, script + fix(log="two") + dynamics("run 4", two))
    record = Record(tmp_path / "two")
    assert record.updates == list(range(5))
    # In the inner level the bias acts in each of its steps.
    assert record.calculations() == ([0, 1, 1, 2, 2, 3, 3, 4, 4] if level else list(range(5)))


def test_barostat_sees_the_bias(tmp_path: Path) -> None:
    script = begin(tmp_path) + fix() + THERMO_BIAS.replace(" lx", " lx vol enthalpy econserve")
    script += "velocity all create 300 4711\ntimestep 0.0002\nthermo 1\n"
    script += "fix move all nph aniso 5000 5000 0.1\nrun 20\n"
    table = run(tmp_path, script).table
    record = Record(tmp_path / "record")
    assert len({tuple(box) for box in record.boxes}) == 21
    np.testing.assert_allclose(10 * np.array(record.boxes)[:, 0], table["Lx"], rtol=1e-9)
    assert np.ptp(table["Econserve"]) < 2e-3 * np.ptp(table["PotEng"])


def test_virial_against_finite_differences(tmp_path: Path) -> None:
    strain = 1e-5
    script = begin(tmp_path, options="ENERGY=0.05") + "change_box all triclinic\n" + fix()
    script += "velocity all set 0 0 0\nrun 0\n"
    changes = {
        "Pxx": "x scale {}",
        "Pzz": "z scale {}",
        "Pyz": "yz delta {}",
    }
    atoms = liquid()
    lengths = atoms.cell.lengths()
    for change in changes.values():
        for sign in (1, -2):  # there, and to the other side
            amount = 1 + sign * strain if "scale" in change else sign * strain * lengths[2]
            script += f"change_box all {change.format(f'{amount:.15g}')} remap units box\nrun 0\n"
        back = 1 / ((1 + strain) * (1 - 2 * strain)) if "scale" in change else strain * lengths[2]
        script += f"change_box all {change.format(f'{back:.15g}')} remap units box\n"
    tables = run(tmp_path, script).tables
    start = tables[0]
    for k, name in enumerate(changes):
        up, down = tables[1 + 2 * k]["PotEng"][0], tables[2 + 2 * k]["PotEng"][0]
        # Strains of the two are +strain and about −strain, from the start.
        low = (1 + strain) * (1 - 2 * strain) - 1 if "scale" in changes[name] else -strain
        slope = (up - down) / (strain - low)
        assert start[name][0] == pytest.approx(-slope / atoms.get_volume() * LAMMPS_BAR, rel=1e-4, abs=1.0)


def test_open_directions_have_no_images(tmp_path: Path) -> None:
    run(tmp_path, begin(tmp_path, molecule(), boundary="s s s") + fix() + "run 0\n")
    assert not Record(tmp_path / "record").boxes
    (tmp_path / "record").unlink()
    run(tmp_path, begin(tmp_path, molecule(), boundary="p f p") + fix() + "run 0\n")
    ((x, y, z, _),) = Record(tmp_path / "record").boxes
    assert (x, z) == (1.0, 1.0)
    assert y > 1e4


def test_plumed_stops_a_run(tmp_path: Path) -> None:
    table = run(tmp_path, begin(tmp_path, options="STOP=3") + fix() + dynamics("run 50"), 2).table
    assert table["Step"][-1] < 20


def test_kernel_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = begin(tmp_path) + "fix bias all symmd/plumed plumedfile plumed.dat outfile record\nrun 0\n"
    monkeypatch.setenv("PLUMED_KERNEL", recorder())
    assert plumed_kernel() == recorder()
    assert f"kernel {recorder()}" in run(tmp_path, script).output
    without_kernel(monkeypatch)
    (tmp_path / "lib").mkdir()
    os.symlink(recorder(), tmp_path / "lib" / LIBRARY)
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path))
    assert plumed_kernel() == str(tmp_path / "lib" / LIBRARY)
    assert f"kernel {tmp_path / 'lib' / LIBRARY}" in run(tmp_path, script).output


@pytest.mark.parametrize("ranks", [1, 2])
def test_no_kernel(tmp_path: Path, ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    without_kernel(monkeypatch)
    script = begin(tmp_path) + "fix bias all symmd/plumed plumedfile plumed.dat\nrun 0\n"
    message = refusal(tmp_path, script, ranks)
    assert re.search(r"libplumedKernel.so, which pip does not bring.*conda install.*PLUMED_KERNEL", message)


def test_refusals(tmp_path: Path) -> None:
    start, fine = begin(tmp_path), fix()
    (tmp_path / "no_kernel.so").write_text("text")
    (tmp_path / "failing.dat").write_text("ATOMS=1,2 FAIL=prepareCalc\n")
    lj = "units lj\nregion box block 0 1 0 1 0 1\ncreate_box 1 box\ncreate_atoms 1 single 0 0 0\nmass 1 1\n"
    lj += "pair_style zero 0.5\npair_coeff * *\n"
    cases = {
        "knows the keywords plumedfile, outfile and kernel, found 'plumed.dat'": start
        + "fix bias all symmd/plumed plumed.dat x\n",
        "needs the name of a file after the keyword outfile": start
        + "fix bias all symmd/plumed plumedfile plumed.dat outfile\n",
        "needs the input of PLUMED; give 'plumedfile FILE'": start + "fix bias all symmd/plumed outfile x\n",
        "PLUMED refused 'init': cannot open the input absent.dat": start
        + fine.replace("plumed.dat", "absent.dat")
        + "run 0\n",
        "PLUMED refused 'prepareCalc': the test wants prepareCalc to fail": start
        + fine.replace("plumed.dat", "failing.dat")
        + "run 0\n",
        "the PLUMED kernel 'no_kernel.so' cannot be loaded": start + fix("no_kernel.so") + "run 0\n",
        "must be the kernel of PLUMED 2.5 or newer": start + fix("libm.so.6") + "run 0\n",
        "needs units metal or real, found units lj": lj + fine + "run 0\n",
        "found the fix bias already": start + fine + fine.replace("fix bias", "fix other"),
        "must be defined before fix nph": start + "fix move all nph iso 0 0 1\n" + fine + "run 0\n",
        "ENERGY needs all forces at once": start
        + "run_style respa 2 1 pair 1\n"
        + fine.replace("plumed.dat", "energy.dat")
        + "run 0\n",
    }
    (tmp_path / "energy.dat").write_text("ATOMS=1,2 ENERGY=0.1\n")
    for expected, script in cases.items():
        assert expected in refusal(tmp_path, script), expected
    # Both ranks end with one message.
    for expected in ("PLUMED refused 'init': cannot open", "cannot be loaded"):
        (script,) = [text for name, text in cases.items() if expected in name]
        assert expected in refusal(tmp_path, script, 2)


def test_input_that_begins_anew(tmp_path: Path) -> None:
    # "clear" and "unfix" end PLUMED; a compute that the fix needs may be gone by then.
    one = begin(tmp_path) + fix() + "run 0\n"
    script = one + "unfix bias\n" + fix() + "run 0\nclear\n" + one + "uncompute bias_pressure\nrun 0\n"
    finished = run(tmp_path, script, check=False)
    assert "needs its computes bias_potential_energy and bias_pressure, found one deleted" in finished.output
    record = Record(tmp_path / "record")
    assert [line.split()[0] for line in record.lines].count("init") == 3
    assert record.lines.count("finalize") >= 2


def test_number_of_atoms_must_stay(tmp_path: Path) -> None:
    script = begin(tmp_path) + fix() + "run 0\ngroup last id 40\ndelete_atoms group last\nrun 0\n"
    finished = run(tmp_path, script, check=False)
    assert "fix symmd/plumed needs the 40 atoms that it began with, found 39" in finished.output
