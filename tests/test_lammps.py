"""pair_style symmd against the network: energies, forces, pressures, in every kind of box."""

from __future__ import annotations

from pathlib import Path

import ase
import numpy as np
import pytest

from lammps_cases import (
    BAR,
    DUMP_FORCES,
    FORMAT,
    LAMMPS_BAR,
    PRESSURES,
    THERMO,
    dumped,
    expected,
    liquid,
    lone_atom,
    molecule,
    narrow_crystal,
    needs_lammps,
    run,
    setup,
    write_data,
    write_model,
)

pytestmark = needs_lammps

REAL_ENERGY = 23.060549
"""kcal/mol in an eV."""


def pressure_of(virial: np.ndarray, volume: float) -> dict[str, float]:
    """LAMMPS' pressures (bar) of atoms at rest, from a virial (eV)."""
    tensor = virial / volume * LAMMPS_BAR
    return dict(zip(PRESSURES, tensor[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]], strict=True))


BOXES: dict[str, tuple[ase.Atoms, str, str, str]] = {
    "liquid": (liquid(), "two", "p p p", ""),
    "three layers": (liquid(), "three", "p p p", ""),
    "one layer": (liquid(), "one", "p p p", ""),
    "narrow triclinic": (narrow_crystal(), "two", "p p p", ""),
    "shrink-wrapped": (molecule(), "two", "s s s", ""),
    "fixed walls": (molecule(), "three", "f f f", ""),
    "lone atom": (lone_atom(), "two", "p p p", ""),
    "processors": (liquid(), "two", "p p p", "processors 1 1 *"),
    "tiled": (liquid(), "two", "p p p", "comm_style tiled"),
}


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_boxes_against_the_network(tmp_path: Path, ranks: int) -> None:
    # Four ranks on fewer cores are slow whatever they do.
    boxes = BOXES if ranks < 4 else {name: BOXES[name] for name in ("narrow triclinic", "lone atom", "tiled")}
    scripts = []
    for name, (atoms, model, boundary, before) in boxes.items():
        data = write_data(tmp_path, name.replace(" ", "-"), atoms)
        begin = setup(data, write_model(tmp_path, model), boundary, before=before)
        if name == "tiled":
            begin += "balance 0.9 rcb\n"
        dump = DUMP_FORCES.replace("atoms.dump", data + ".dump")
        scripts.append(begin + THERMO + dump + "run 0\n")
    tables = run(tmp_path, "clear\n".join(scripts), ranks).tables
    assert len(tables) == len(boxes)
    for (name, (atoms, model, _, _)), table in zip(boxes.items(), tables, strict=True):
        reference = expected(model, atoms)
        np.testing.assert_allclose(table["PotEng"], reference.energy.item(), rtol=1e-10, err_msg=name)
        forces = dumped(tmp_path, name.replace(" ", "-") + ".data.dump")[0][:, 1:]
        np.testing.assert_allclose(forces, reference.forces.numpy(), atol=1e-10, err_msg=name)
        if atoms.pbc.all():
            pressure = pressure_of(reference.virial[0].numpy(), atoms.get_volume())
            for component, value in pressure.items():
                np.testing.assert_allclose(table[component], value, rtol=1e-6, atol=1e-3, err_msg=name)


def test_single_precision_and_units_real(tmp_path: Path) -> None:
    atoms, model = liquid(), write_model(tmp_path, "two")
    data = write_data(tmp_path, "metal", atoms)
    # Positions are in Å in both units.
    script = setup(data, model, precision="single") + THERMO + DUMP_FORCES + "run 0\nclear\n"
    script += setup(data, model, units="real") + THERMO + DUMP_FORCES.replace("atoms", "real") + "run 0\n"
    single, real = run(tmp_path, script).tables
    reference = expected("two", atoms)
    energy, forces = reference.energy.item(), reference.forces.numpy()
    np.testing.assert_allclose(single["PotEng"], energy, rtol=1e-5)
    np.testing.assert_allclose(dumped(tmp_path)[0][:, 1:], forces, atol=1e-4)
    np.testing.assert_allclose(real["PotEng"], energy * REAL_ENERGY, rtol=1e-6)
    np.testing.assert_allclose(
        dumped(tmp_path, "real.dump")[0][:, 1:], forces * REAL_ENERGY, rtol=1e-6, atol=1e-8
    )
    atmosphere = BAR / 1.01325
    virial = reference.virial[0].numpy().trace() / 3 / atoms.get_volume() * atmosphere
    np.testing.assert_allclose(real["Press"], virial, rtol=1e-6)


@pytest.mark.parametrize("ranks", [1, 2])
def test_quantities_of_atoms(tmp_path: Path, ranks: int) -> None:
    atoms = liquid()
    begin = setup(write_data(tmp_path, "liquid", atoms), write_model(tmp_path, "two"))
    script = (
        begin
        + """
compute energy all pe/atom
compute stress all stress/atom NULL pair
compute centroid all centroid/stress/atom NULL pair
dump 1 all custom 1 atoms.dump id c_energy c_stress[*] c_centroid[*]
dump_modify 1 format float %.17g
"""
    )
    script += THERMO + "run 0\n"
    table = run(tmp_path, script, ranks).table
    found = dumped(tmp_path)[0][:, 1:]
    reference = expected("two", atoms)
    np.testing.assert_allclose(found[:, 0], reference.atom_energy.detach().numpy(), rtol=1e-9, atol=1e-10)
    whole = np.array([table[name][0] for name in PRESSURES]) * -atoms.get_volume()
    np.testing.assert_allclose(found[:, 1:7].sum(0), whole, rtol=1e-8, atol=1e-2)
    centroid = found[:, 7:16].sum(0)
    np.testing.assert_allclose(centroid[:6], whole, rtol=1e-8, atol=1e-2)
    np.testing.assert_allclose(centroid[6:], whole[3:], rtol=1e-8, atol=1e-2)


def test_numerical_derivatives(tmp_path: Path) -> None:
    atoms = liquid(16)
    data, model = write_data(tmp_path, "liquid", atoms), write_model(tmp_path, "two")
    script = (
        setup(data, model, before="atom_modify map array")
        + """
fix forces all numdiff 1 1e-4
fix virial all numdiff/virial 1 1e-4
compute virial all pressure NULL virial
variable difference atom sqrt((fx-f_forces[1])^2+(fy-f_forces[2])^2+(fz-f_forces[3])^2)
compute largest all reduce max v_difference
thermo_style custom step c_largest c_virial[*] f_virial[*]
"""
    )
    table = run(tmp_path, script + FORMAT + "run 0\n").table
    assert table["c_largest"][0] < 1e-6
    # The fix has the order xx, yy, zz, yz, xz, xy.
    for exact, numerical in zip((1, 2, 3, 6, 5, 4), range(1, 7), strict=True):
        found, exactly = table[f"f_virial[{numerical}]"], table[f"c_virial[{exact}]"]
        np.testing.assert_allclose(found, exactly, rtol=1e-5, atol=1.0)
