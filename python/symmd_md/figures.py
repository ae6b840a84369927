"""What every picture of the project shares: panels in a row, no display, saved whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from symmd_md.files import write_atomically


def panels(count: int, width: float = 4.2) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels of ``width`` × 3.6 inches side by side."""
    figure = Figure(figsize=(width * count, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(np.atleast_1d(figure.subplots(1, count)))


def save(figure: Figure, path: Path, colours: int | None = None) -> None:
    """Write the figure as PNG, with ``colours`` as `save_with_palette` does."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    if colours is None:
        write_atomically(path, buffer.getvalue())
    else:
        save_with_palette(buffer, path, colours)


def save_with_palette(picture: Path | BinaryIO, path: Path, colours: int) -> None:
    """Write a picture as PNG of so many colours: lines and text stay, and it has a third of its size."""
    content = io.BytesIO()
    Image.open(picture).convert("RGB").quantize(colours).save(content, format="png", optimize=True)
    write_atomically(path, content.getvalue())
