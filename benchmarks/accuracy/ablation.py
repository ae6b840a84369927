"""Ablation on rMD17 ethanol: full, no attention, L = 0, no node products; three seeds each, Welch's t-test.

``python benchmarks/accuracy/ablation.py --data FOLDER``. Every run has the same data, epochs and optimiser; a
run that is already finished in the output folder is not repeated. Writes benchmarks/results/ablation.json and
ablation/forces.png.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from scipy import stats

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import record  # noqa: E402
from run import TEST_FILES, located  # noqa: E402

from symmd_md.analysis.report import evaluate_checkpoint  # noqa: E402
from symmd_md.files import write_atomically  # noqa: E402
from symmd_md.train import RunConfig, read_run_config, train  # noqa: E402

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "no attention": {"aggregation": "convolution"},
    "L = 0": {"max_degree": 0, "hidden_degree": 0},
    "no node products": {"body_order": 1},
}
SEEDS = (0, 1, 2)


def one_run(base: RunConfig, variant: str, seed: int, test: Path, output: Path) -> dict[str, float]:
    """Train one variant with one seed, or read what an earlier call left."""
    summary = output / "summary.json"
    if summary.exists():
        return dict(json.loads(summary.read_text(encoding="utf-8")))
    config = dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, **VARIANTS[variant]),
        training=dataclasses.replace(base.training, seed=seed),
    )
    result = train(config, output, resume=(output / "last.ckpt").exists())
    errors = evaluate_checkpoint(output / "best.ckpt", test)
    row = {"forces_mae": errors.forces.mae, "energy_mae": errors.energy.mae, "minutes": result.minutes}
    write_atomically(summary, (json.dumps(row) + "\n").encode("utf-8"))
    return row


def draw(results: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Force error of every run, by variant."""
    figure, axes = plt.subplots(figsize=(6.0, 3.5), layout="constrained")
    for place, (variant, rows) in enumerate(results.items()):
        values = [row["forces_mae"] for row in rows]
        axes.bar(place, np.mean(values), color="#9ecae1")
        axes.plot([place] * len(values), values, "o", color="#08519c")
        axes.annotate(f"{np.mean(values):.1f}", (place, np.mean(values)), ha="center", va="bottom")
        axes.set_xticks(range(len(results)), list(results), label=variant)
    axes.set_ylabel("force MAE on the test file (meV/Å)")
    axes.set_title("rMD17 ethanol, three seeds each")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/ablation"), help="folder of the runs")
    arguments = parser.parse_args()
    base = located(read_run_config(HERE / "ablation.yaml"), arguments.data)
    test = arguments.data / TEST_FILES["ethanol"]
    results: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for seed in SEEDS:
        for variant in VARIANTS:
            folder = arguments.output / f"{variant.replace(' ', '')}_{seed}"
            results[variant].append(one_run(base, variant, seed, test, folder))

    full = [row["forces_mae"] for row in results["full"]]
    rows = []
    for variant, runs in results.items():
        forces = [run["forces_mae"] for run in runs]
        welch = stats.ttest_ind(forces, full, equal_var=False) if variant != "full" else None
        rows.append(
            {
                "network": variant,
                "force MAE (meV/Å)": f"{np.mean(forces):.2f} ± {np.std(forces, ddof=1):.2f}",
                "energy MAE (meV)": f"{np.mean([run['energy_mae'] for run in runs]):.2f}",
                "Welch's t against full": "" if welch is None else f"{welch.statistic:.1f}",
                "p": "" if welch is None else f"{welch.pvalue:.1e}",
                "minutes per run": f"{np.mean([run['minutes'] for run in runs]):.1f}",
            }
        )
    draw(results, HERE / "ablation" / "forces.png")
    title = (
        f"Ablation on rMD17 ethanol: {base.training.max_epochs} epochs, C = {base.model.channels}, "
        f"mean ± standard deviation of {len(SEEDS)} seeds"
    )
    record.write_result("ablation", title, "python benchmarks/accuracy/ablation.py --data FOLDER", rows)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
