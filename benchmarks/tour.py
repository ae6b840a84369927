"""Measure ``make tour``: its errors and wall time, and the learning curve that the README shows."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import record

from symmd_md.figures import save_with_palette
from symmd_md.tour import run_tour


def main() -> None:
    """Run the tour, then write benchmarks/results/tour.json and docs/images/learning_curve.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("tour"), help="folder of the tour")
    output: Path = parser.parse_args().output

    started = time.monotonic()
    evaluation = run_tour(output)
    minutes = (time.monotonic() - started) / 60.0
    rows = [
        {
            "quantity": name,
            "MAE": f"{pairs.mae:.2f}",
            "RMSE": f"{pairs.rmse:.2f}",
            "spread of labels": f"{1e3 * pairs.label.std():.1f}",
            "unit": unit,
        }
        for name, pairs, unit in (
            ("energy", evaluation.energy_per_atom, "meV/atom"),
            ("forces", evaluation.forces, "meV/Å"),
            ("stress", evaluation.stress, "meV/Å³"),
        )
    ]
    count = evaluation.structures
    title = f"After {minutes:.1f} minutes: errors on {count} structures of alloys unseen in training"
    record.write_result("tour", title, "python benchmarks/tour.py", rows)

    curve = output / "run" / "learning_curve.png"
    save_with_palette(curve, record.ROOT / "docs" / "images" / "learning_curve.png", colours=32)


if __name__ == "__main__":
    main()
