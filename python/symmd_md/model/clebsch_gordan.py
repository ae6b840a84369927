"""Coupling paths and their coefficients (docs/theory.md, eq. 10-12).

A path couples two real-harmonic features of degree ``l1`` and ``l2`` to degree ``l3``. Only paths that keep
parity (-1)^l are used: ``l1 + l2 + l3`` even. Coefficients come from e3nn's real Wigner 3j symbols.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from e3nn import o3


@dataclass(frozen=True)
class Path:
    """One coupling (l1, l2) -> l3 with its non-zero coefficients ``(m1, m2, m3, value)``, indices from 0."""

    l1: int
    l2: int
    l3: int
    terms: tuple[tuple[int, int, int, float], ...]


def component_slice(degree: int) -> slice:
    """Positions of the 2l+1 components of ``degree`` in the flat (l, m) axis."""
    return slice(degree * degree, (degree + 1) ** 2)


def component_count(max_degree: int) -> int:
    """Length of the flat (l, m) axis for all l <= max_degree."""
    return (max_degree + 1) ** 2


@cache
def coupling_paths(max_l1: int, max_l2: int, max_l3: int, symmetric: bool = False) -> tuple[Path, ...]:
    """All parity-even paths, scaled so that every output component has unit variance for unit-variance input.

    ``symmetric`` leaves out (l1, l2) when (l2, l1) is already there, for products of a feature with itself.
    """
    kept: list[tuple[int, int, int]] = []
    for l3 in range(max_l3 + 1):
        for l1 in range(max_l1 + 1):
            for l2 in range(max_l2 + 1):
                allowed = abs(l1 - l2) <= l3 <= l1 + l2 and (l1 + l2 + l3) % 2 == 0
                if allowed and not (symmetric and l1 > l2):
                    kept.append((l1, l2, l3))
    into = [sum(1 for path in kept if path[2] == l3) for l3 in range(max_l3 + 1)]
    return tuple(Path(l1, l2, l3, _scaled(bare_terms(l1, l2, l3), into[l3] ** -0.5)) for l1, l2, l3 in kept)


def bare_terms(l1: int, l2: int, l3: int) -> list[tuple[int, int, int, float]]:
    """Non-zero coefficients ``(m1, m2, m3, value)`` of one path times (2 l3 + 1)^½; the first is positive."""
    table = o3.wigner_3j(l1, l2, l3, dtype=torch.float64) * (2 * l3 + 1) ** 0.5
    first = table.flatten()[table.abs().flatten() > 1e-12][0]
    sign = -1.0 if first < 0 else 1.0
    return [
        (m1, m2, m3, sign * float(table[m1, m2, m3]))
        for m1 in range(2 * l1 + 1)
        for m2 in range(2 * l2 + 1)
        for m3 in range(2 * l3 + 1)
        if abs(float(table[m1, m2, m3])) > 1e-12
    ]


def _scaled(
    terms: list[tuple[int, int, int, float]], scale: float
) -> tuple[tuple[int, int, int, float], ...]:
    return tuple((m1, m2, m3, scale * value) for m1, m2, m3, value in terms)
