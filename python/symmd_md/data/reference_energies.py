"""Reference energies E0 of the elements: given, from isolated atoms, or by least squares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from ase.data import chemical_symbols

from symmd_md.data.frame import FloatArray, Frame
from symmd_md.errors import ConfigurationError, DataError

RANK_TOLERANCE = 1e-10
"""Relative singular value below which a direction of composition counts as absent from the data."""


def given_energies(energies: Mapping[str, float], species: tuple[str, ...]) -> dict[str, float]:
    """E0 (eV) of each of ``species`` out of a configured mapping that may hold more."""
    missing = [symbol for symbol in species if symbol not in energies]
    if missing:
        raise ConfigurationError(
            f"'data.reference_energies' must give an energy in eV for each of {', '.join(species)}; "
            f"{', '.join(missing)} is missing"
        )
    return {symbol: float(energies[symbol]) for symbol in species}


def isolated_atom_energies(frames: Iterable[Frame]) -> dict[str, float]:
    """E0 (eV) of each element among single-atom frames; two energies for one element are refused."""
    energies: dict[str, float] = {}
    for frame in frames:
        if not frame.is_isolated_atom:
            raise DataError(
                f"{frame.source}: expected an isolated atom, found {frame.atom_count} atoms or a narrow "
                "cell; keep only single atoms, open or in a wide box, in 'data.isolated_atoms'"
            )
        if frame.energy is None:
            raise DataError(
                f"{frame.source}: expected the energy of an isolated atom, found none; set 'data.energy_key'"
            )
        symbol = chemical_symbols[frame.numbers[0]]
        known = energies.setdefault(symbol, frame.energy)
        if abs(known - frame.energy) > 1e-6:
            raise DataError(
                f"{frame.source}: expected one energy for an isolated {symbol} atom, found {known} and "
                f"{frame.energy} "
                "eV; keep one of them"
            )
    return energies


def least_squares_energies(
    compositions: FloatArray, energies: FloatArray, species: tuple[str, ...]
) -> dict[str, float]:
    """E0 (eV) that fit total ``energies`` [F] from atom counts ``compositions`` [F, S], by energy per atom.

    Where the compositions leave E0 undetermined, as for a single molecule, the solution of least norm is
    taken. NaN energies are left out; with no energy at all every E0 is 0.
    """
    labelled = np.isfinite(energies)
    if not labelled.any():
        return dict.fromkeys(species, 0.0)
    counts = compositions[labelled]
    atoms = counts.sum(axis=1)
    solution = np.linalg.lstsq(counts / atoms[:, None], energies[labelled] / atoms, rcond=RANK_TOLERANCE)[0]
    return {symbol: float(value) for symbol, value in zip(species, solution, strict=True)}
