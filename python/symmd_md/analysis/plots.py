"""Learning curves and parity plots, drawn without a display."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatter, LogLocator, MaxNLocator, NullFormatter

from symmd_md.analysis.errors import Evaluation, Pairs
from symmd_md.figures import panels, save

MOST_POINTS = 20_000
"""Points in one panel; more only make the file larger."""

LOG_EPOCHS = 20
"""From this many epochs on the epoch axis is logarithmic."""


def draw_learning_curve(rows: Sequence[dict[str, float]], path: Path) -> None:
    """Root-mean-square errors against the epoch, from the rows of ``log.csv``; stress where it is there."""
    quantities = [
        ("energy_rmse_meV_per_atom", "energy RMSE (meV/atom)"),
        ("forces_rmse_meV_per_A", "force RMSE (meV/Å)"),
    ]
    stress = "stress_rmse_meV_per_A3"
    if any(row[f"{part}_{stress}"] > 0 for row in rows for part in ("train", "valid")):
        quantities.append((stress, "stress RMSE (meV/Å³)"))
    figure, axes = panels(len(quantities))
    epochs = [row["epoch"] for row in rows]
    for panel, (column, label) in zip(axes, quantities, strict=True):
        for part, colour in (("train", "tab:grey"), ("valid", "tab:blue")):
            values = [row[f"{part}_{column}"] for row in rows]
            known = [(x, y) for x, y in zip(epochs, values, strict=True) if y > 0 and not math.isnan(y)]
            if known:
                marker = "o" if len(known) == 1 else None
                panel.plot(*zip(*known, strict=True), color=colour, linewidth=1.2, marker=marker, label=part)
                panel.set_yscale("log")
                for formatter in (panel.yaxis.set_major_formatter, panel.yaxis.set_minor_formatter):
                    formatter(LogFormatter(minor_thresholds=(1.5, 0.6)))
        if len(rows) >= LOG_EPOCHS:
            panel.set_xscale("log")
            panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            panel.xaxis.set_major_formatter("{x:.0f}")
            panel.xaxis.set_minor_formatter(NullFormatter())
        else:
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_xlabel("epoch")
        panel.set_ylabel(label)
        panel.grid(True, which="both", alpha=0.2)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(frameon=False)
    save(figure, path)


def draw_parity(evaluation: Evaluation, path: Path) -> None:
    """Predictions against labels: energy (eV/atom), forces (eV/Å), stress (eV/Å³), where there are labels.

    Energies are relative to a sum over elements fitted to the labels, beside which no error could be seen.
    """
    energy, offset = evaluation.energy_per_atom, evaluation.energy_offset
    above = Pairs(energy.label - offset, energy.prediction - offset)
    quantities = [
        ("relative energy", "eV/atom", "meV/atom", above),
        ("force", "eV/Å", "meV/Å", evaluation.forces),
        ("stress", "eV/Å³", "meV/Å³", evaluation.stress),
    ]
    quantities = [item for item in quantities if item[3].count]
    figure, axes = panels(max(1, len(quantities)))
    for panel, (name, unit, error_unit, pairs) in zip(axes, quantities, strict=False):
        if name == "force":
            for element in evaluation.elements():
                _scatter(panel, evaluation.forces_of(element), element)
            panel.legend(frameon=False, markerscale=4, loc="lower right")
        else:
            _scatter(panel, pairs, None)
        low, high = float(pairs.label.min()), float(pairs.label.max())
        panel.plot([low, high], [low, high], color="black", linewidth=0.7, zorder=0)
        panel.locator_params(nbins=5)
        panel.ticklabel_format(useOffset=False)
        panel.set_xlabel(f"{name}, label ({unit})")
        panel.set_ylabel(f"{name}, predicted ({unit})")
        panel.set_title(f"MAE {pairs.mae:.3g}, RMSE {pairs.rmse:.3g} {error_unit}", fontsize=9)
    save(figure, path)


def _scatter(panel: Axes, pairs: Pairs, label: str | None) -> None:
    step = max(1, -(-pairs.count // MOST_POINTS))
    shown = np.arange(0, pairs.count, step)
    panel.plot(pairs.label[shown], pairs.prediction[shown], ".", markersize=2, label=label, rasterized=True)
