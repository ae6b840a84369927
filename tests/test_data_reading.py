"""Reading structures: formats, units, labels, and the one error that names file and frame."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from symmd_md.data import checked_frame, frame_from_atoms, label_keys_found, read_frames, write_store
from symmd_md.data.keys import LabelKeys
from symmd_md.errors import DataError

KILOCALORIE_PER_MOLE = 0.04336410390059322
HARTREE = 27.211386024367243
WATER_POSITIONS = np.array([[0.0, 0.0, 0.1], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]])
STRESS = np.array([[0.1, 0.04, 0.05], [0.04, 0.2, 0.06], [0.05, 0.06, 0.3]])
VOIGT = [0.1, 0.2, 0.3, 0.06, 0.05, 0.04]
CELL = np.array([[5.0, 0.0, 0.0], [1.0, 6.0, 0.0], [0.5, -1.0, 7.0]])

HEADER = 'Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5 pbc="F F F"'
ATOM_LINES = ["O 0 0 0.1 0 0 1.0", "H 0 0.76 -0.48 0 0.5 -0.5", "H 0 -0.76 -0.48 0 -0.5 -0.5"]
FRAME_TEXT = "\n".join(["3", HEADER, *ATOM_LINES]) + "\n"

QM9_TEXT = (
    "2\n"
    "gdb 7\t10.0\t10.0\t10.0\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749\t-1.25\t-40.476062\t"
    "-40.475117\t-40.498597\t6.469\t\n"
    "O\t 0.1\t 1.0858041578\t 8.0*^-6\t-0.535689\n"
    "H\t-1.5*^-1\t 0.2\t 0.3\t 0.133921\n"
    "1341.307\t1341.3284\n"
    "O\tO\t\n"
    "InChI=1S/HO\tInChI=1S/HO\t\n"
)


def labelled_water(shift: float = 0.0) -> Atoms:
    atoms = Atoms("OH2", positions=WATER_POSITIONS + shift, cell=CELL, pbc=True)
    forces = np.arange(9.0).reshape(3, 3) + shift
    atoms.calc = SinglePointCalculator(atoms, energy=-14.5 + shift, forces=forces, stress=VOIGT)
    return atoms


def assert_is_labelled_water(frame: Any, shift: float = 0.0) -> None:
    np.testing.assert_array_equal(frame.numbers, [8, 1, 1])
    np.testing.assert_allclose(frame.positions, WATER_POSITIONS + shift, atol=1e-8)
    np.testing.assert_allclose(frame.cell, CELL, atol=1e-8)
    assert frame.pbc.all()
    assert frame.energy == pytest.approx(-14.5 + shift)
    np.testing.assert_allclose(frame.forces, np.arange(9.0).reshape(3, 3) + shift, atol=1e-8)
    np.testing.assert_allclose(frame.stress, STRESS, atol=1e-8)


@pytest.mark.parametrize("suffix", ["extxyz", "xyz", "extxyz.xz", "extxyz.gz", "xyz.bz2", "traj"])
def test_what_ase_writes_is_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"water.{suffix}"
    structures = [labelled_water(), labelled_water(0.25)]
    if suffix == "traj":
        write(path, structures)
    else:
        write(path, structures, format="extxyz")
    frames = read_frames(path)
    assert len(frames) == 2
    assert_is_labelled_water(frames[0])
    assert_is_labelled_water(frames[1], 0.25)
    assert frames[1].source == f"{path}, frame 1"
    assert frames[0].positions.dtype == np.float64


def test_folder_is_read_file_by_file(tmp_path: Path) -> None:
    for name, shift in (("b.extxyz", 0.5), ("a.extxyz", 0.0)):
        write(tmp_path / name, labelled_water(shift), format="extxyz")
    frames = read_frames(tmp_path)
    assert_is_labelled_water(frames[0], 0.0)
    assert_is_labelled_water(frames[1], 0.5)


def test_configured_keys_take_precedence_over_the_calculator(tmp_path: Path) -> None:
    atoms = labelled_water()
    atoms.info["REF_energy"] = 3.0
    atoms.arrays["REF_forces"] = np.full((3, 3), 2.0)
    atoms.info["REF_stress"] = 2 * STRESS
    path = tmp_path / "keys.extxyz"
    write(path, atoms, format="extxyz")
    for frame in (
        read_frames(path, "REF_energy", "REF_forces", "REF_stress")[0],
        frame_from_atoms(atoms, "x", LabelKeys("REF_energy", "REF_forces", "REF_stress")),
    ):
        assert frame.energy == 3.0
        assert (frame.forces == 2.0).all()
        np.testing.assert_allclose(frame.stress, 2 * STRESS)
    missing = read_frames(path, "other", "other", "other")[0]
    assert missing.energy is None
    assert missing.forces is None
    assert missing.stress is None


def test_labels_of_another_name_are_not_mixed_with_the_calculators() -> None:
    frame = frame_from_atoms(labelled_water(), "x", LabelKeys(energy="REF_energy"))
    assert frame.energy is None
    assert frame.forces is not None


@pytest.mark.parametrize("stress", [STRESS, STRESS.reshape(9), VOIGT], ids=["matrix", "nine", "Voigt"])
def test_stress_in_every_notation(stress: Any) -> None:
    frame = checked_frame(numbers=[1], positions=[[0, 0, 0]], cell=CELL, pbc=True, stress=stress, source="x")
    np.testing.assert_allclose(frame.stress, STRESS)


def test_stress_without_a_volume_is_left_out() -> None:
    frame = checked_frame(numbers=[1], positions=[[0, 0, 0]], stress=np.zeros(6), source="x")
    assert frame.stress is None


def test_plain_xyz_and_atomic_numbers(tmp_path: Path) -> None:
    path = tmp_path / "plain.xyz"
    path.write_text("2\njust a comment\nO 0 0 0 9.0\n1 0 0 1.0 9.0\n\n1\n\nhe 0 0 1\n")
    first, second = read_frames(path)
    np.testing.assert_array_equal(first.numbers, [8, 1])
    np.testing.assert_array_equal(first.positions[1], [0, 0, 1])
    np.testing.assert_array_equal(second.numbers, [2])
    assert first.energy is None
    assert not first.pbc.any()


def test_lattice_without_pbc_is_periodic_and_open_structures_lose_their_cell(tmp_path: Path) -> None:
    path = tmp_path / "cell.extxyz"
    lattice = 'Lattice="5 0 0 1 6 0 0.5 -1 7"'
    path.write_text(f'1\n{lattice}\nHe 0 0 0\n1\n{lattice} pbc="F F F"\nHe 0 0 0\n')
    periodic, isolated = read_frames(path)
    np.testing.assert_array_equal(periodic.cell, CELL)
    assert periodic.pbc.all()
    assert not isolated.cell.any()


@pytest.mark.parametrize(
    "stress",
    [
        '"0.1 0.2 0.3 0.06 0.05 0.04"',
        "[0.1, 0.2, 0.3, 0.06, 0.05, 0.04]",
        "{0.1 0.04 0.05 0.04 0.2 0.06 0.05 0.06 0.3}",
        '"_JSON [[0.1, 0.04, 0.05], [0.04, 0.2, 0.06], [0.05, 0.06, 0.3]]"',
        "[[0.1,0.04,0.05],[0.04,0.2,0.06],[0.05,0.06,0.3]]",
    ],
)
def test_vectors_in_every_bracket(tmp_path: Path, stress: str) -> None:
    path = tmp_path / "brackets.xyz"
    path.write_text(
        f"1\nnote='energy=7 x' Lattice = \"9 0 0 0 9 0 0 0 9\" pbc=T stress={stress} energy=-2e0 flag\nHe 0 "
        "0 0\n"
    )
    (frame,) = read_frames(path)
    np.testing.assert_allclose(frame.stress, STRESS)
    assert frame.energy == -2.0
    assert frame.pbc.all()


def test_columns_in_any_order_with_numbers_for_elements(tmp_path: Path) -> None:
    path = tmp_path / "columns.xyz"
    path.write_text("1\nProperties=tag:S:1:forces:R:3:Z:I:1:pos:R:3 energy=2\nx 1 2 3 14 4 5 6\n")
    (frame,) = read_frames(path)
    np.testing.assert_array_equal(frame.numbers, [14])
    np.testing.assert_array_equal(frame.forces, [[1, 2, 3]])
    np.testing.assert_array_equal(frame.positions, [[4, 5, 6]])


def molecule_arrays() -> dict[str, Any]:
    generator = np.random.default_rng(1)
    return {
        "numbers": np.array([8, 1, 1], dtype=np.uint8),
        "positions": WATER_POSITIONS + 0.01 * generator.normal(size=(4, 3, 3)),
        "energies": generator.normal(size=4),
        "forces": generator.normal(size=(4, 3, 3)),
    }


@pytest.mark.parametrize("kind", ["rMD17", "MD17"])
def test_molecule_archives_are_in_kilocalories(tmp_path: Path, kind: str) -> None:
    values = molecule_arrays()
    path = tmp_path / "molecule.npz"
    if kind == "rMD17":
        np.savez_compressed(
            path,
            nuclear_charges=values["numbers"],
            coords=values["positions"],
            energies=values["energies"],
            forces=values["forces"],
            old_indices=np.arange(4),
        )
    else:
        np.savez(
            path,
            z=values["numbers"],
            R=values["positions"],
            E=values["energies"][:, None],
            F=values["forces"],
        )
    frames = read_frames(path)
    assert len(frames) == 4
    assert frames[2].energy == pytest.approx(values["energies"][2] * KILOCALORIE_PER_MOLE, rel=1e-14)
    np.testing.assert_allclose(frames[2].forces, values["forces"][2] * KILOCALORIE_PER_MOLE, rtol=1e-14)
    np.testing.assert_array_equal(frames[2].positions, values["positions"][2])


def test_archive_that_states_its_units_is_taken_at_its_word(tmp_path: Path) -> None:
    values = molecule_arrays()
    arrays = {
        "z": values["numbers"],
        "R": values["positions"],
        "E": values["energies"],
        "F": values["forces"],
    }
    np.savez(tmp_path / "ev.npz", **arrays, e_unit="eV", r_unit="Ang")
    assert read_frames(tmp_path / "ev.npz")[1].energy == values["energies"][1]
    np.savez(tmp_path / "bohr.npz", **arrays, e_unit=np.bytes_("eV"), r_unit=np.bytes_("bohr"))
    with pytest.raises(DataError, match=r"bohr\.npz, frame 0: expected kcal/mol, eV or Hartree and Ang"):
        read_frames(tmp_path / "bohr.npz")


def test_original_qm9_is_recognised_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "dsgdb9nsd_000007.xyz"
    path.write_text(QM9_TEXT * 2)
    frames = read_frames(path)
    assert len(frames) == 2
    np.testing.assert_array_equal(frames[1].numbers, [8, 1])
    np.testing.assert_allclose(frames[1].positions, [[0.1, 1.0858041578, 8e-6], [-0.15, 0.2, 0.3]])
    assert frames[1].energy == pytest.approx(-1.25 * HARTREE, rel=1e-14)
    assert frames[1].forces is None


def broken(**changes: str) -> str:
    """A good frame followed by one in which pieces of text are replaced."""
    second = FRAME_TEXT
    for old, new in changes.items():
        old = {"count": "3\n", "pos": "0.76 -0.48 0 0.5"}.get(old, old)
        assert old in second
        second = second.replace(old, new, 1)
    return FRAME_TEXT + second


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (broken(pos="nan -0.48 0 0.5"), "expected finite positions, found NaN or infinity at atom 1"),
        (broken(pos="0.76 -0.48 0 inf"), "expected finite forces, found NaN or infinity at atom 1"),
        (broken(**{"energy=-1.5": "energy=nan"}), "expected finite energy, found NaN"),
        (broken(**{"energy=-1.5": "energy=low"}), "expected a number for the energy, found 'low'"),
        (broken(pos="0.76 -0.48 0"), "expected 7 columns at atom 1, found 6"),
        (broken(pos="0.76 -0.48 0 x"), "expected a number in each column"),
        (broken(**{"H": "Qq"}), "expected an element symbol, found 'Qq'"),
        (broken(**{"H": "119"}), "expected atomic numbers from 1 to 118, found 119"),
        (broken(count="4\n"), "expected 4 atoms, found 3: the file is truncated"),
        (broken(count="three\n"), "expected the number of atoms, found 'three'"),
        (FRAME_TEXT + "0\n\n", "expected at least one atom, found none"),
        (FRAME_TEXT + "3\n", "expected a comment line, found the end of the file"),
        (
            broken(**{"species:S:1:pos:R:3:forces:R:3": "species:S:1:pos:R:3:forces:R:2:charge:R:1"}),
            r"expected the forces in shape \[3, 3\], found \[3, 2\]",
        ),
        (broken(**{"pos:R:3": "place:R:3"}), "expected positions 'pos:R:3' in Properties"),
        (broken(**{"species:S:1": "name:S:1"}), "expected elements 'species:S:1' in Properties"),
        (broken(**{"forces:R:3": "forces:R"}), "expected Properties as name:type:count"),
        (
            broken(**{'pbc="F F F"': 'Lattice="9 0 0 0 9 0 0 0 0.4"'}),
            "at least 0.5 Å thick along each periodic axis, found 0.4 Å along c, thinner than an atom",
        ),
        (
            broken(**{'pbc="F F F"': 'Lattice="9 0 0 18 0 0 0 0 9"'}),
            "found 0 Å along a, thinner than an atom",
        ),
        (broken(**{'pbc="F F F"': 'pbc="T T T"'}), "found 0 Å along a, thinner than an atom"),
        (
            broken(**{'pbc="F F F"': 'Lattice="9 0 0 0 9 0 0 0 9" stress="1 0 0 0.5 1 0 0 0 1"'}),
            "expected a symmetric stress, found components that differ by 0.5",
        ),
        (
            broken(**{'pbc="F F F"': 'Lattice="9 0 0 0 9 0 0 0 9" stress="1 0 0 0 0"'}),
            r"expected the stress in shape \[3, 3\], found \[5\]",
        ),
        (broken(**{"F F F": "F F maybe"}), "expected pbc as three of T or F, found 'F F maybe'"),
        (broken(**{'pbc="F F F"': 'Lattice="9 9 9"'}), r"expected the cell in shape \[3, 3\], found \[3\]"),
        (QM9_TEXT + QM9_TEXT.rsplit("\n", 2)[0], "expected frequencies, SMILES and InChI"),
        (
            QM9_TEXT + QM9_TEXT.replace(" 8.0*^-6", ""),
            "expected an element, 3 coordinates and a charge at atom 0",
        ),
        (QM9_TEXT + QM9_TEXT.replace("-1.25", "U0"), "expected a number for the U0, found 'U0'"),
    ],
)
def test_error_names_file_and_frame(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.xyz"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"bad\.xyz, frame 1: .*{message}"):
        read_frames(path)


@pytest.mark.parametrize("suffix", ["xz", "gz"])
def test_truncated_compressed_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut.extxyz.{suffix}"
    generator = np.random.default_rng(0)
    rows = [" ".join(map(str, row)) for row in generator.normal(size=(300, 6))]
    text = "".join(f"1\n{HEADER}\nH {row}\n" for row in rows).encode()
    whole = lzma.compress(text) if suffix == "xz" else gzip.compress(text)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"cut\.extxyz\.{suffix}, frame \d+: .*truncated"):
        read_frames(path)


@pytest.mark.parametrize("name", ["wrong.xyz.xz", "wrong.xyz.gz", "wrong.xyz"])
def test_content_that_is_not_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"\xff\xfe\x00 binary")
    with pytest.raises(DataError, match=r"frame 0: expected XYZ text, found a truncated or damaged file"):
        read_frames(path)


def test_damaged_archives(tmp_path: Path) -> None:
    values = molecule_arrays()
    arrays = {
        "z": values["numbers"],
        "R": values["positions"],
        "E": values["energies"],
        "F": values["forces"],
    }
    whole = tmp_path / "whole.npz"
    np.savez(whole, **arrays)
    cut = tmp_path / "cut.npz"
    cut.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"cut\.npz, frame 0: expected a NumPy archive, found a truncated"):
        read_frames(cut)
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(DataError, match=r"other\.npz, frame 0: expected the arrays .* found x"):
        read_frames(tmp_path / "other.npz")
    np.savez(tmp_path / "shape.npz", **{**arrays, "F": values["forces"][:, :2]})
    with pytest.raises(DataError, match=r"shape\.npz, frame 0: expected the forces in shape \[4, 3, 3\]"):
        read_frames(tmp_path / "shape.npz")
    values["forces"][2, 1, 0] = np.nan
    np.savez(tmp_path / "nan.npz", **arrays)
    with pytest.raises(DataError, match=r"nan\.npz, frame 2: expected finite forces, .* at atom 1"):
        read_frames(tmp_path / "nan.npz")


@pytest.mark.parametrize("name", ["empty.extxyz", "empty.npz", "empty.h5", "empty.traj", "blank.xyz"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("\n\n" if name.startswith("blank") else "")
    with pytest.raises(DataError, match=rf"{name}, frame 0: .* found an empty file"):
        read_frames(path)


def test_missing_file_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.xyz, frame 0: expected a structure file, found nothing"):
        read_frames(tmp_path / "none.xyz")
    with pytest.raises(DataError, match="expected at least one structure, found none"):
        read_frames(tmp_path)


def test_file_that_ase_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "structure.vasp"
    path.write_text("silicon\nnot-a-number\n")
    with pytest.raises(DataError, match=r"structure\.vasp, frame 0: expected a structure that ASE can read"):
        read_frames(path)


def test_names_of_possible_labels_in_every_format(tmp_path: Path) -> None:
    text = tmp_path / "set.xyz"
    header = 'Lattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3:dft_forces:R:3 dipole="0 0 1" E=-1'
    text.write_text(f"1\nenergy=-13.5\nH 0 0 0\n1\n{header}\nH 0 0 0 1 1 1\n")
    assert label_keys_found(text) == {"energy", "E", "dipole", "dft_forces"}
    (tmp_path / "set.xyz.gz").write_bytes(gzip.compress(text.read_bytes()))
    assert label_keys_found(tmp_path / "set.xyz.gz") == label_keys_found(text)
    (tmp_path / "qm9.xyz").write_text(QM9_TEXT)
    assert label_keys_found(tmp_path / "qm9.xyz") == {"energy"}
    atoms = labelled_water()
    atoms.info["charge"] = 1
    write(tmp_path / "set.traj", atoms)
    assert label_keys_found(tmp_path / "set.traj") == {"energy", "forces", "stress", "charge"}
    write_store(read_frames(tmp_path / "set.xyz"), tmp_path / "set.h5")
    assert label_keys_found(tmp_path / "set.h5") == {"energy"}
    folder = tmp_path / "folder"
    folder.mkdir()
    text.rename(folder / "a.xyz")
    (tmp_path / "set.traj").rename(folder / "b.traj")
    assert {"dft_forces", "charge"} <= label_keys_found(folder)
