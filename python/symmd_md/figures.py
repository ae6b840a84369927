"""What every picture of the project shares: panels in a row, no display, saved whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from symmd_md.files import write_atomically


def panels(count: int, width: float = 4.2) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels of ``width`` × 3.6 inches side by side."""
    figure = Figure(figsize=(width * count, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(np.atleast_1d(figure.subplots(1, count)))


def save(figure: Figure, path: Path) -> None:
    """Write the figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write_atomically(path, buffer.getvalue())
