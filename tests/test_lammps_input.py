"""Input files that ``symmd lammps`` writes: they run as they are; unknown elements are refused."""

from __future__ import annotations

from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest

from lammps_cases import expected, liquid, molecule, narrow_crystal, needs_lammps, run, write_model
from symmd_md.engines.lammps import write_lammps_input
from symmd_md.errors import DataError, EngineError


def slab() -> ase.Atoms:
    """Periodic in two directions, without a box vector in the third."""
    atoms = liquid(30)
    atoms.pbc = (True, True, False)
    atoms.cell[2] = 0.0
    return atoms


def low_slab() -> ase.Atoms:
    """With a box vector in the open direction, and atoms on both sides of its origin."""
    atoms = liquid(30)
    atoms.pbc = (True, True, False)
    atoms.positions[:, 2] -= 3.0
    return atoms


STRUCTURES = {
    "liquid": liquid,
    "molecule": molecule,
    "crystal": narrow_crystal,
    "slab": slab,
    "low slab": low_slab,
}


@needs_lammps
@pytest.mark.parametrize("name", STRUCTURES)
def test_input_runs_as_it_is(tmp_path: Path, name: str) -> None:
    atoms = STRUCTURES[name]()
    # In another orientation, which LAMMPS cannot have.
    atoms.rotate(35, (1, 2, 3), rotate_cell=True)
    ase.io.write(tmp_path / f"{name}.xyz", atoms, format="extxyz")
    model = tmp_path / "my models" / "two.safetensors"
    model.parent.mkdir()
    write_model(model.parent, "two")
    folder = tmp_path / "run"
    script, data = write_lammps_input(model, tmp_path / f"{name}.xyz", folder, temperature=10, steps=3)
    assert (script.name, data.name) == ("in.lammps", f"{name}.data")
    table = run(folder, script.read_text()).table
    np.testing.assert_allclose(table["PotEng"][0], expected("two", atoms).energy.item(), rtol=1e-4)
    assert (folder / "final.data").exists()
    with pytest.raises(DataError, match=r"exists already; remove it"):
        write_lammps_input(model, tmp_path / f"{name}.xyz", folder)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    model = tmp_path / write_model(tmp_path, "one")
    with pytest.raises(DataError, match="found nothing; check the path"):
        write_lammps_input(model, tmp_path / "absent.xyz", tmp_path)
    (tmp_path / "broken.xyz").write_text("3\nthree atoms\nH 0 0 0\n")
    with pytest.raises(DataError, match="cannot be read as a structure"):
        write_lammps_input(model, tmp_path / "broken.xyz", tmp_path)
    ase.io.write(tmp_path / "uranium.xyz", ase.Atoms("UO2", positions=np.eye(3) * 2.0))
    with pytest.raises(EngineError, match="atomic number 92"):
        write_lammps_input(model, tmp_path / "uranium.xyz", tmp_path)
    assert not (tmp_path / "in.lammps").exists()
