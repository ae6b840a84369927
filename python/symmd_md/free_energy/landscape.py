"""Minima, barriers and paths of a free-energy surface on its grid, of any number of variables. In kJ/mol.

Points are flooded from the lowest up. A point without flooded neighbours is a minimum; where two basins meet
is the lowest barrier between them; a basin less deep than asked for becomes part of the one that it meets
first.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from symmd_md.errors import ConfigurationError
from symmd_md.free_energy.grid import Axis, Surface, thermal_energy
from symmd_md.free_energy.tables import FloatArray

Index = tuple[int, ...]


@dataclass(frozen=True)
class Minimum:
    """The lowest point of a basin."""

    name: str
    """A, B, … from the lowest up."""
    index: Index
    """Its grid point."""
    point: tuple[float, ...]
    """Its variables."""
    energy: float
    """kJ/mol above the lowest point of the surface."""


@dataclass(frozen=True)
class Barrier:
    """The lowest point on the border of two basins."""

    first: Minimum
    second: Minimum
    index: Index
    point: tuple[float, ...]
    energy: float
    """kJ/mol above the lowest point of the surface."""


@dataclass(frozen=True)
class Landscape:
    """Minima from the lowest up, and the barriers between basins that touch."""

    surface: Surface
    minima: tuple[Minimum, ...]
    barriers: tuple[Barrier, ...]
    basins: NDArray[np.int64]
    """[points of each axis] which minimum's basin a point belongs to; −1 where the surface is not known."""

    def minimum(self, name: str) -> Minimum:
        """The minimum of this name."""
        for found in self.minima:
            if found.name == name:
                return found
        raise ConfigurationError(
            f"expected a minimum out of {', '.join(m.name for m in self.minima)}; found {name!r}"
        )

    def basin_energy(self, minimum: Minimum, temperature: float) -> float:
        """−kT ln Σ exp(−F/kT) over a basin (kJ/mol), relative to that of the lowest minimum's basin."""
        kt, energies = thermal_energy(temperature), []
        for found in (minimum, self.minima[0]):
            inside = self.surface.energy[self.basins == self.minima.index(found)]
            energies.append(-kt * float(np.log(np.exp(-(inside - inside.min()) / kt).sum())) + inside.min())
        return energies[0] - energies[1]


def find_landscape(surface: Surface, depth: float) -> Landscape:
    """Minima whose basins are at least ``depth`` (kJ/mol) deep, the barriers between them and the basins."""
    if not depth > 0.0:
        raise ConfigurationError(f"the depth of a basin must be above 0 kJ/mol, found {depth:g}")
    surface = surface.at_zero()
    energy = surface.energy
    shape = energy.shape
    order = [np.unravel_index(flat, shape) for flat in np.argsort(energy, axis=None, kind="stable")]
    labels = np.full(shape, -1, dtype=np.int64)
    bottoms: list[Index] = []
    parents: list[int] = []
    borders: dict[tuple[int, int], Index] = {}

    def root(label: int) -> int:
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = parents[label]
        return label

    for position in order:
        here = tuple(int(i) for i in position)
        if np.isnan(energy[here]):
            break  # sorted to the end
        around = [n for n in _neighbours(here, surface.axes) if labels[n] >= 0]
        if not around:
            labels[here] = len(parents)
            parents.append(len(parents))
            bottoms.append(here)
            continue
        labels[here] = labels[min(around, key=lambda n: (energy[n], n))]
        touching = sorted({root(int(labels[n])) for n in around}, key=lambda b: (energy[bottoms[b]], b))
        for one, other in itertools.combinations(touching, 2):
            one, other = sorted((root(one), root(other)), key=lambda b: (energy[bottoms[b]], b))
            if one == other:
                continue
            if energy[here] - energy[bottoms[other]] < depth:
                parents[other] = one
                _merge_borders(borders, one, other, energy)
            else:
                borders.setdefault((min(one, other), max(one, other)), here)
    return _landscape(surface, labels, bottoms, [root(label) for label in range(len(parents))], borders)


def _merge_borders(borders: dict[tuple[int, int], Index], one: int, other: int, energy: FloatArray) -> None:
    """What ``other`` shared with third basins is shared with ``one`` now; the lower border counts."""
    for pair in [pair for pair in borders if other in pair]:
        place = borders.pop(pair)
        third = pair[0] if pair[1] == other else pair[1]
        if third != one:
            key = (min(one, third), max(one, third))
            borders[key] = min((borders.get(key, place), place), key=lambda index: energy[index])


def _landscape(
    surface: Surface,
    labels: NDArray[np.int64],
    bottoms: Sequence[Index],
    roots: Sequence[int],
    borders: dict[tuple[int, int], Index],
) -> Landscape:
    kept = sorted(set(roots), key=lambda basin: (float(surface.energy[bottoms[basin]]), basin))
    rank = {basin: place for place, basin in enumerate(kept)}
    minima = tuple(
        Minimum(
            _letters(rank[basin]),
            bottoms[basin],
            surface.coordinates(bottoms[basin]),
            float(surface.energy[bottoms[basin]]),
        )
        for basin in kept
    )
    barriers = [
        Barrier(
            minima[min(rank[pair[0]], rank[pair[1]])],
            minima[max(rank[pair[0]], rank[pair[1]])],
            index,
            surface.coordinates(index),
            float(surface.energy[index]),
        )
        for pair, index in borders.items()
    ]
    barriers.sort(key=lambda barrier: barrier.energy)
    place_of = np.array([rank[root] for root in roots] + [-1], dtype=np.int64)
    return Landscape(surface, minima, tuple(barriers), place_of[labels])


def _letters(place: int) -> str:
    """A … Z, AA, AB, …"""
    name = ""
    place += 1
    while place:
        place, letter = divmod(place - 1, 26)
        name = chr(ord("A") + letter) + name
    return name


def _neighbours(index: Index, axes: Sequence[Axis]) -> Iterator[Index]:
    """Points next to one, corners included, around the period of periodic axes."""
    for steps in itertools.product((-1, 0, 1), repeat=len(axes)):
        if not any(steps):
            continue
        moved = []
        for i, step, axis in zip(index, steps, axes, strict=True):
            place = (i + step) % axis.count if axis.periodic else i + step
            if not 0 <= place < axis.count:
                break
            moved.append(place)
        else:
            if tuple(moved) != index:
                yield tuple(moved)


@dataclass(frozen=True)
class Path:
    """Grid points from one minimum to another over the lowest barrier."""

    indices: tuple[Index, ...]
    points: FloatArray
    """[points, variables]; periodic variables run on beyond their period instead of jumping."""
    lengths: FloatArray
    """[points] length along the path in the unit of the variables, or in parts of their ranges."""
    energies: FloatArray
    """[points] kJ/mol above the lowest point of the surface."""
    highest: int
    """Which point is the barrier."""


def lowest_path(surface: Surface, first: Index, second: Index, temperature: float) -> Path | None:
    """The path with the lowest barrier; of all of these the one that least lengthens ∫ exp(F/kT) ds.

    None where no known points join the two.
    """
    surface = surface.at_zero()
    barrier = _lowest_barrier(surface, first, second)
    if barrier is None:
        return None
    energy, kt, spacings = surface.energy, thermal_energy(temperature), _spacings(surface.axes)
    # Among points below the barrier the way of the largest flux follows the valleys (MaxFlux).
    cost = np.exp((energy - barrier) / kt)
    best: dict[Index, float] = {first: 0.0}
    before: dict[Index, Index] = {}
    heap: list[tuple[float, Index]] = [(0.0, first)]
    while heap:
        so_far, here = heapq.heappop(heap)
        if here == second:
            break
        if so_far > best[here]:
            continue
        for there in _neighbours(here, surface.axes):
            if not energy[there] <= barrier:
                continue
            step = float(np.linalg.norm(_step(here, there, surface.axes) * spacings))
            total = so_far + 0.5 * float(cost[here] + cost[there]) * step
            if total < best.get(there, np.inf):
                best[there], before[there] = total, here
                heapq.heappush(heap, (total, there))
    indices = [second]
    while indices[-1] != first:
        indices.append(before[indices[-1]])
    indices.reverse()
    return _path(surface, indices, spacings)


def _lowest_barrier(surface: Surface, first: Index, second: Index) -> float | None:
    """The lowest energy up to which the two are joined."""
    energy = surface.energy
    seen, heap = {first}, [(float(energy[first]), first)]
    highest = -np.inf
    while heap:
        value, here = heapq.heappop(heap)
        highest = max(highest, value)
        if here == second:
            return highest
        for there in _neighbours(here, surface.axes):
            if there not in seen and not np.isnan(energy[there]):
                seen.add(there)
                heapq.heappush(heap, (float(energy[there]), there))
    return None


def _spacings(axes: Sequence[Axis]) -> FloatArray:
    """Length of a step along each axis: its own where all have one unit, else in parts of the range."""
    same = len({axis.unit for axis in axes}) == 1 and axes[0].unit != ""
    return np.array([axis.spacing if same or len(axes) == 1 else axis.spacing / axis.range for axis in axes])


def _step(here: Index, there: Index, axes: Sequence[Axis]) -> FloatArray:
    """Steps along each axis from one neighbour to the next."""
    steps = np.array(there, dtype=np.float64) - np.array(here, dtype=np.float64)
    for i, axis in enumerate(axes):
        if axis.periodic:
            steps[i] -= axis.count * round(steps[i] / axis.count)
    return steps


def _path(surface: Surface, indices: Sequence[Index], spacings: FloatArray) -> Path:
    points = [np.array(surface.coordinates(indices[0]))]
    lengths = [0.0]
    own = np.array([axis.spacing for axis in surface.axes])
    for here, there in itertools.pairwise(indices):
        steps = _step(here, there, surface.axes)
        points.append(points[-1] + steps * own)
        lengths.append(lengths[-1] + float(np.linalg.norm(steps * spacings)))
    energies = np.array([surface.energy[index] for index in indices])
    return Path(tuple(indices), np.array(points), np.array(lengths), energies, int(energies.argmax()))
