"""MD17, revised MD17 and sGDML archives: one molecule, many geometries, in one npz."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import units as ase_units
from numpy.typing import NDArray

from symmd_md.data.frame import Frame, checked_frame
from symmd_md.errors import DataError

KEY_SETS = {
    "rMD17": ("nuclear_charges", "coords", "energies", "forces"),
    "MD17": ("z", "R", "E", "F"),
}
ENERGY_UNITS = {
    "kcal/mol": ase_units.kcal / ase_units.mol,
    "eV": 1.0,
    "Hartree": ase_units.Hartree,
}


def iterate_npz(path: Path) -> Iterator[Frame]:
    """Yield the frames of an MD17 or rMD17 archive, with kcal/mol turned into eV.

    An sGDML archive that states ``e_unit`` and ``r_unit`` is taken at its word.
    """
    numbers, positions, energies, forces, scale = _load(path)
    energies = energies.reshape(-1)
    expected = {
        "positions": (positions.shape, (len(positions), numbers.size, 3)),
        "forces": (forces.shape, positions.shape),
        "energies": (energies.shape, (len(positions),)),
    }
    for what, (found, wanted) in expected.items():
        if found != wanted:
            raise DataError(
                f"{path}, frame 0: expected the {what} in shape {list(wanted)}, found {list(found)}; "
                "the archive is not one of MD17 or rMD17"
            )
    for index in range(len(positions)):
        yield checked_frame(
            numbers=numbers,
            positions=positions[index],
            energy=energies[index] * scale,
            forces=forces[index] * scale,
            source=f"{path}, frame {index}",
        )


def _load(
    path: Path,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = next((names for names in KEY_SETS.values() if set(names) <= set(archive.files)), None)
            if names is None:
                wanted = " or ".join(", ".join(names) for names in KEY_SETS.values())
                raise DataError(
                    f"{path}, frame 0: expected the arrays {wanted}, found {', '.join(archive.files)}; "
                    "convert the archive to extended XYZ"
                )
            numbers, positions, energies, forces = (np.asarray(archive[name]) for name in names)
            units = {
                key: str(archive[key].item().decode())
                if archive[key].dtype.kind == "S"
                else str(archive[key])
                for key in ("e_unit", "r_unit")
                if key in archive.files
            }
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, KeyError, zlib.error) as error:
        raise DataError(
            f"{path}, frame 0: expected a NumPy archive, found a truncated or damaged file ({error}); copy "
            "it again"
        ) from None
    energy_unit = units.get("e_unit", "kcal/mol")
    if energy_unit not in ENERGY_UNITS or units.get("r_unit", "Ang") != "Ang":
        raise DataError(
            f"{path}, frame 0: expected kcal/mol, eV or Hartree and Ang, found {energy_unit} and "
            f"{units.get('r_unit', 'Ang')}; convert the archive to extended XYZ"
        )
    return (
        np.asarray(numbers, dtype=np.int64).reshape(-1),
        np.asarray(positions, dtype=np.float64),
        np.asarray(energies, dtype=np.float64),
        np.asarray(forces, dtype=np.float64),
        ENERGY_UNITS[energy_unit],
    )
