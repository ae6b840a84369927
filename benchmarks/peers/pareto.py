"""The picture of force error against time of a step, with every model of which both are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from symmd_md.figures import save

PUBLISHED = Path(__file__).resolve().parent / "published.json"
TEST = "300K"
MOLECULES = ("3BPA", "alanine dipeptide")
"""The structure whose time is drawn: the one that the errors belong to where it was timed."""
OURS = "SymMD"


def points(speed: list[dict[str, Any]], accuracy: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """(model, ms of a step by its fastest route on one thread, force RMSE in meV/Å) where both are known."""
    named = {row["structure"] for row in speed}
    molecule = next((name for name in MOLECULES if name in named), None)
    fastest: dict[str, float] = {}
    for row in speed:
        if (row["structure"], row["threads"]) == (molecule, 1) and row["median (ms)"] is not None:
            fastest[row["model"]] = min(row["median (ms)"], fastest.get(row["model"], float("inf")))
    return [
        (row["model"], fastest[row["model"]], row["force_rmse"])
        for row in accuracy
        if row["test"] == TEST and row["model"] in fastest
    ]


def front(found: list[tuple[str, float, float]]) -> list[tuple[float, float]]:
    """The (time, error) of models that no other beats in both, by time."""
    best: list[tuple[float, float]] = []
    for _, time, error in sorted(found, key=lambda point: point[1:]):
        if not best or error < best[-1][1]:
            best.append((time, error))
    return best


def draw(speed: list[dict[str, Any]], trained: list[dict[str, Any]], where: str, path: Path) -> Path | None:
    """Write the picture; None, and no picture, where no error belongs to a model that was timed."""
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    groups = [
        ("trained here, the same CPU time each", "o", points(speed, trained)),
        (f"published: {published['citation'].split(', NeurIPS')[0]}", "s", points(speed, published["rows"])),
    ]
    if not any(found for _, _, found in groups):
        return None
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for (label, marker, found), colour in zip(groups, ("tab:blue", "tab:gray"), strict=True):
        if not found:
            continue
        times, errors = [point[1] for point in found], [point[2] for point in found]
        panel.scatter(times, errors, marker=marker, color=colour, s=36, label=label, zorder=3)
        if len(front(found)) > 1:
            panel.plot(*zip(*front(found), strict=True), color=colour, linewidth=1.0, alpha=0.6)
        for model, time, error in found:
            ours = model.startswith(OURS)
            if ours:
                panel.scatter([time], [error], marker=marker, color="tab:red", s=64, zorder=4)
            panel.annotate(
                model,
                (time, error),
                (6, 4),
                textcoords="offset points",
                fontsize=8,
                weight="bold" if ours else None,
            )
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.margins(x=0.15, y=0.15)
    named = {row["structure"]: row["atoms"] for row in speed}
    molecule = next(name for name in MOLECULES if name in named)
    panel.set_xlabel(f"energy and forces of {molecule}, {named[molecule]} atoms, one thread (ms)")
    panel.set_ylabel("force RMSE, 3BPA at 300 K (meV/Å)")
    panel.grid(True, which="both", alpha=0.15)
    panel.legend(frameon=False, fontsize=8)
    panel.set_title(where, fontsize=9)
    save(figure, path, colours=32)
    return path
