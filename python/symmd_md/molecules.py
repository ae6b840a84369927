"""Molecules that several parts of the project need, made on the spot without files. Å."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# Alanine dipeptide, ACE-ALA-NME, near its C7eq minimum. Three earlier atoms place an atom: the length to
# the first (Å), the angle at it and the dihedral about the bond between first and second (degrees).
ALANINE_DIPEPTIDE: tuple[tuple[str, tuple[int, int, int], tuple[float, float, float]], ...] = (
    ("C", (-1, -1, -1), (0.0, 0.0, 0.0)),  # 0, methyl of the acetyl
    ("C", (0, -1, -1), (1.522, 0.0, 0.0)),  # 1
    ("O", (1, 0, -1), (1.229, 120.4, 0.0)),  # 2
    ("N", (1, 0, 2), (1.335, 116.6, 180.0)),  # 3
    ("C", (3, 1, 0), (1.449, 121.9, 180.0)),  # 4, alpha
    ("C", (4, 3, 1), (1.522, 110.1, -80.0)),  # 5
    ("O", (5, 4, 3), (1.229, 120.4, -100.0)),  # 6
    ("N", (5, 4, 6), (1.335, 116.6, 180.0)),  # 7
    ("C", (7, 5, 4), (1.449, 121.9, 180.0)),  # 8, methyl of the amide
    ("C", (4, 3, 5), (1.526, 109.7, -120.0)),  # 9, beta
    ("H", (4, 3, 5), (1.090, 109.5, 120.0)),  # 10
    ("H", (3, 1, 4), (1.010, 119.8, 180.0)),  # 11
    ("H", (7, 5, 8), (1.010, 119.8, 180.0)),  # 12
    ("H", (0, 1, 3), (1.090, 109.5, 180.0)),  # 13
    ("H", (0, 1, 3), (1.090, 109.5, 60.0)),  # 14
    ("H", (0, 1, 3), (1.090, 109.5, -60.0)),  # 15
    ("H", (8, 7, 5), (1.090, 109.5, 180.0)),  # 16
    ("H", (8, 7, 5), (1.090, 109.5, 60.0)),  # 17
    ("H", (8, 7, 5), (1.090, 109.5, -60.0)),  # 18
    ("H", (9, 4, 3), (1.090, 109.5, 180.0)),  # 19
    ("H", (9, 4, 3), (1.090, 109.5, 60.0)),  # 20
    ("H", (9, 4, 3), (1.090, 109.5, -60.0)),  # 21
)
ALANINE_DIPEPTIDE_SYMBOLS = tuple(symbol for symbol, _, _ in ALANINE_DIPEPTIDE)
PHI, PSI = (1, 3, 4, 5), (3, 4, 5, 7)
"""Atoms of its dihedrals φ (C, N, Cα, C) and ψ (N, Cα, C, N), counted from 0."""


def alanine_dipeptide_positions() -> FloatArray:
    """[22, 3] Å."""
    positions = np.zeros((len(ALANINE_DIPEPTIDE), 3))
    for atom, (_, placed_by, (length, angle, dihedral)) in enumerate(ALANINE_DIPEPTIDE):
        if atom == 0:
            continue
        # The first three atoms have no frame yet; these directions give them one.
        first = positions[placed_by[0]]
        second = positions[placed_by[1]] if placed_by[1] >= 0 else first + np.eye(3)[0]
        third = positions[placed_by[2]] if placed_by[2] >= 0 else second + np.eye(3)[1]
        positions[atom] = first + length * _direction(first, second, third, angle, dihedral)
    return positions


def _direction(
    first: FloatArray, second: FloatArray, third: FloatArray, angle: float, dihedral: float
) -> FloatArray:
    """[3] unit vector from ``first`` to an atom at this angle and dihedral (degrees)."""
    along = _unit(second - first)
    aside = third - second
    aside = _unit(aside - (aside @ along) * along)
    theta, phi = np.radians(angle), np.radians(dihedral)
    across = np.cos(phi) * aside - np.sin(phi) * np.cross(along, aside)
    return np.cos(theta) * along + np.sin(theta) * across


def _unit(vector: FloatArray) -> FloatArray:
    return vector / np.linalg.norm(vector)
