"""The picture of the engine's speed: time by atom against the number of atoms, and where a step spends it."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from symmd_md.figures import save


def draw(
    by_atoms: dict[int, list[tuple[int, float]]], parts: list[tuple[str, float]], title: str, path: Path
) -> None:
    """``by_atoms``: by threads, atoms and µs per atom; ``parts``: names and µs per atom, in order."""
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    times, shares = figure.subplots(1, 2)
    _draw_times(times, by_atoms)
    _draw_parts(shares, parts)
    figure.suptitle(title, fontsize=10)
    save(figure, path, colours=32)


def _draw_times(panel: Axes, by_atoms: dict[int, list[tuple[int, float]]]) -> None:
    for (threads, points), colour in zip(by_atoms.items(), ("tab:blue", "tab:orange"), strict=False):
        label = "1 thread" if threads == 1 else f"{threads} threads"
        panel.plot(*zip(*points, strict=True), "o-", color=colour, linewidth=1.2, markersize=4, label=label)
    panel.set_xscale("log")
    panel.set_ylim(bottom=0)
    panel.set_xlabel("atoms")
    panel.set_ylabel("energy and forces (µs per atom)")
    panel.grid(True, which="major", alpha=0.2)
    panel.legend(frameon=False)


def _draw_parts(panel: Axes, parts: list[tuple[str, float]]) -> None:
    names, values = zip(*reversed(parts), strict=True)
    bars = panel.barh(names, values, color="tab:blue")
    panel.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
    panel.margins(x=0.12)
    panel.tick_params(axis="y", labelsize=8)
    panel.set_xlabel("µs per atom")
