"""Pictures of free-energy surfaces: curves with error bands, maps with minima and a path. kJ/mol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MultipleLocator

from symmd_md.errors import ConfigurationError
from symmd_md.figures import panels, save
from symmd_md.free_energy.comparison import Comparison
from symmd_md.free_energy.grid import Axis, Surface
from symmd_md.free_energy.landscape import Landscape
from symmd_md.free_energy.landscape import Path as LandscapePath
from symmd_md.free_energy.tables import FloatArray

GREEK = {"phi": "φ", "psi": "ψ", "omega": "ω", "theta": "θ", "chi": "χ", "chi1": "χ₁", "chi2": "χ₂"}
LEVELS = 18
"""Lines of equal free energy in a map."""
MOST_ENERGY = 100.0
"""kJ/mol: nothing above is drawn, since nobody samples it."""


def draw_landscape(landscape: Landscape, path: LandscapePath | None, target: Path) -> None:
    """A curve of one variable, or a map of two with its minima and F along the path."""
    surface = landscape.surface
    if len(surface.axes) == 1:
        figure, (panel,) = panels(1, 5.2)
        _curve(panel, surface, "tab:blue", None)
        for minimum in landscape.minima:
            _mark(panel, [*_shown_point(surface.axes, minimum.point), minimum.energy], minimum.name)
        _decorate_curve(panel, surface)
    elif len(surface.axes) == 2:
        figure, axes = panels(1 if path is None else 2, 4.8)
        _map(axes[0], surface)
        for minimum in landscape.minima:
            _mark(axes[0], _shown_point(surface.axes, minimum.point), minimum.name)
        if path is not None:
            _draw_on_map(axes[0], surface, path)
            _profile(axes[1], landscape, path)
    else:
        raise ConfigurationError(
            f"a picture shows one or two variables, found {len(surface.axes)}; choose with --cv"
        )
    save(figure, target)


def draw_comparison(comparison: Comparison, labels: Sequence[str], target: Path) -> None:
    """Two curves of one variable; of two variables two maps and their difference."""
    first, second = comparison.first, comparison.second
    if len(first.axes) == 1:
        figure, (panel,) = panels(1, 5.2)
        _curve(panel, first, "tab:grey", labels[0])
        _curve(panel, second, "tab:blue", labels[1])
        panel.axhline(comparison.threshold, color="black", linewidth=0.6, linestyle=":")
        _decorate_curve(panel, first)
        panel.legend(frameon=False)
    elif len(first.axes) == 2:
        figure, axes = panels(3)
        for panel, surface, label in zip(axes, (first, second), labels, strict=False):
            _map(panel, surface, 2.0 * comparison.threshold)
            panel.set_title(label, fontsize=9)
        size = max(1.0, float(np.nanmax(np.abs(comparison.difference))))
        mesh = axes[2].pcolormesh(
            *(_shown(axis, axis.points) for axis in first.axes),
            comparison.difference.T,
            cmap="RdBu_r",
            vmin=-size,
            vmax=size,
            shading="nearest",
            rasterized=True,
        )
        figure.colorbar(mesh, ax=axes[2], label="difference (kJ/mol)")
        axes[2].set_title(f"RMS {comparison.rms:.2f} kJ/mol", fontsize=9)
        _label_map(axes[2], first)
    else:
        raise ConfigurationError(
            f"a picture shows one or two variables, found {len(first.axes)}; choose with --cv"
        )
    save(figure, target)


def _curve(panel: Axes, surface: Surface, colour: str, label: str | None) -> None:
    axis = surface.axes[0]
    x, energy = _shown(axis, axis.points), surface.energy
    panel.plot(x, energy, color=colour, linewidth=1.2, label=label)
    if surface.error is not None:
        panel.fill_between(
            x, energy - surface.error, energy + surface.error, color=colour, alpha=0.25, linewidth=0
        )


def _decorate_curve(panel: Axes, surface: Surface) -> None:
    _ticks(panel.xaxis.set_major_locator, surface.axes[0])
    panel.set_xlabel(_label(surface.axes[0]))
    panel.set_ylabel("free energy (kJ/mol)")
    panel.grid(True, alpha=0.2)
    # A flat surface has a height too.
    highest = min(float(np.nanmax(surface.energy)), MOST_ENERGY) or 1.0
    panel.set_ylim(-0.03 * highest, 1.05 * highest)


def _map(panel: Axes, surface: Surface, highest: float = MOST_ENERGY) -> None:
    """Filled contours; a periodic variable closes at its period."""
    values, coordinates = surface.energy, []
    for position, axis in enumerate(surface.axes):
        points = axis.points
        if axis.periodic:
            values = np.concatenate([values, np.take(values, [0], axis=position)], axis=position)
            points = np.append(points, axis.maximum)
        coordinates.append(_shown(axis, points))
    top = min(float(np.nanmax(surface.energy)), highest)
    step = _round_step(top / LEVELS)
    levels = np.arange(0.0, top + step, step)
    # What was hardly ever visited is left white. The shift that brings two surfaces together may put the
    # lowest places below zero.
    masked = np.ma.masked_invalid(np.where(values <= levels[-1], np.maximum(values, 0.0), np.nan))
    filled = panel.contourf(*coordinates, masked.T, levels=levels, cmap="viridis")
    panel.contour(*coordinates, masked.T, levels=levels, colors="black", linewidths=0.3, alpha=0.5)
    assert panel.figure is not None
    panel.figure.colorbar(filled, ax=panel, label="free energy (kJ/mol)")
    _label_map(panel, surface)


def _label_map(panel: Axes, surface: Surface) -> None:
    _ticks(panel.xaxis.set_major_locator, surface.axes[0])
    _ticks(panel.yaxis.set_major_locator, surface.axes[1])
    panel.set_xlabel(_label(surface.axes[0]))
    panel.set_ylabel(_label(surface.axes[1]))


def _mark(panel: Axes, place: Sequence[float], name: str) -> None:
    x, y = place
    panel.plot([x], [y], "o", color="white", markeredgecolor="black", markersize=5, zorder=5, clip_on=False)
    panel.annotate(
        name,
        (x, y),
        xytext=(4, 4),
        textcoords="offset points",
        fontsize=9,
        fontweight="bold",
        color="black",
        bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.7, "linewidth": 0},
        zorder=6,
    )


def _draw_on_map(panel: Axes, surface: Surface, path: LandscapePath) -> None:
    """The path, broken where it crosses the end of a period."""
    columns = []
    jumps = np.zeros(len(path.points), dtype=np.bool_)
    for i, axis in enumerate(surface.axes):
        values = np.array([axis.points[index[i]] for index in path.indices])
        jumps[1:] |= np.abs(np.diff(values)) > 0.5 * axis.range
        columns.append(_shown(axis, values))
    cuts = np.flatnonzero(jumps)
    for part in np.split(np.arange(len(values)), cuts):
        panel.plot(columns[0][part], columns[1][part], color="white", linewidth=1.6)
        panel.plot(columns[0][part], columns[1][part], color="tab:red", linewidth=1.0)


def _profile(panel: Axes, landscape: Landscape, path: LandscapePath) -> None:
    """F along the path, with its error where that is known."""
    surface = landscape.surface
    unit = surface.axes[0].unit if len({axis.unit for axis in surface.axes}) == 1 else ""
    lengths = np.degrees(path.lengths) if unit == "rad" else path.lengths
    panel.plot(lengths, path.energies, color="tab:red", linewidth=1.2)
    if surface.error is not None:
        error = np.array([surface.error[index] for index in path.indices])
        panel.fill_between(
            lengths, path.energies - error, path.energies + error, color="tab:red", alpha=0.25, linewidth=0
        )
    for minimum in landscape.minima:
        if minimum.index in path.indices:
            place = path.indices.index(minimum.index)
            _mark(panel, [float(lengths[place]), float(path.energies[place])], minimum.name)
    angle = unit in ("rad", "deg")
    panel.set_xlabel("along the path" + (" (deg)" if angle else ""))
    panel.set_ylabel("free energy (kJ/mol)")
    panel.grid(True, alpha=0.2)


def _shown(axis: Axis, values: FloatArray) -> FloatArray:
    """Dihedrals are shown in degrees, everything else as it is."""
    return np.degrees(values) if axis.unit == "rad" else values


def _shown_point(axes: Sequence[Axis], point: Sequence[float]) -> list[float]:
    """The same for one point."""
    return [float(_shown(axis, np.array(value))) for axis, value in zip(axes, point, strict=True)]


def _label(axis: Axis) -> str:
    name = GREEK.get(axis.name, axis.name)
    return f"{name} (deg)" if axis.unit else name


def _ticks(set_locator: object, axis: Axis) -> None:
    if axis.unit:
        assert callable(set_locator)
        set_locator(MultipleLocator(60.0))


def _round_step(rough: float) -> float:
    """The nearest of 1, 2, 5 times a power of ten above."""
    if not rough > 0.0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * step for step in (1.0, 2.0, 5.0, 10.0) if power * step >= rough)
