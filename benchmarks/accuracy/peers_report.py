"""The results of ``peers.py train`` as benchmarks/results/*.json and as a picture of the learning curves."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import record  # noqa: E402
from own_training import OWN_MODELS, count_operations, train, write_result  # noqa: E402

from symmd_md.figures import save  # noqa: E402

PICTURE = record.ROOT / "docs" / "images" / "accuracy_per_compute.png"
SHARES = {"1/8": 0.125, "1/4": 0.25, "1/2": 0.5, "1": 1.0}
"""Of the operations that the Equiformer was trained with."""
STEPS_PER_EPOCH = 90
THRESHOLDS = (150.0, 100.0, 70.0, 50.0, 40.0, 30.0, 25.0)
"""Validation errors (meV/Å) at which the operations of two networks are compared."""


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """What has been trained, by name, with the operations of our own networks counted now."""
    results: dict[str, dict[str, Any]] = {}
    for name in ("ours", "equiformer", "mace", "nequip"):
        path = folder / name / "result.json"
        if path.exists():
            results[name] = json.loads(path.read_text(encoding="utf-8"))
            if name in OWN_MODELS:
                results[name] |= count_operations(name, folder)
    return results


def schema_rows(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each model and test: meV/atom, meV/Å, operations of a step by atom and of training."""
    rows = []
    for found in results.values():
        for test in found["tests"]:
            rows.append(
                {
                    "model": found["model"],
                    "package": found["package"],
                    "parameters": found["parameters"],
                    "cpu_minutes": round(found["cpu_minutes"], 1),
                    "steps": found["steps"],
                    "test": test["test"],
                    "energy_rmse": round(test["energy_rmse"], 3),
                    "energy_mae": round(test["energy_mae"], 3),
                    "force_rmse": round(test["force_rmse"], 2),
                    "force_mae": round(test["force_mae"], 2),
                    "step_flops_per_atom": round(found["step_flops_per_atom"]),
                    "training_flops": float(f"{found['flops_per_training_step'] * found['steps']:.4g}"),
                    "source": "trained here",
                }
            )
    return rows


def display_rows(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The table of docs/measured.md."""
    rows = []
    for found in sorted(results.values(), key=lambda item: item["tests"][0]["test"]):
        tests = {test["test"]: test for test in found["tests"]}
        row = {
            "model": f"{found['model']} ({found['package']})",
            "parameters": f"{found['parameters']:,}",
            "steps": f"{found['steps']:,}",
            "training (PFLOP)": f"{found['flops_per_training_step'] * found['steps'] / 1e15:.3g}",
            "energy and forces (MFLOP per atom)": f"{found['step_flops_per_atom'] / 1e6:.3g}",
        }
        for name in ("300K", "600K", "1200K"):
            test = tests[name]
            row[f"{name}: energy RMSE (meV/atom)"] = f"{test['energy_rmse']:.2f}"
            row[f"{name}: force RMSE (MAE) (meV/Å)"] = f"{test['force_rmse']:.1f} ({test['force_mae']:.1f})"
        row["settings"] = found["settings"]
        rows.append(row)
    return rows


def reached(found: dict[str, Any], error: float) -> dict[str, float] | None:
    """Where a run's validation force error is first at or below ``error`` (meV/Å)."""
    for point in found["curve"]:
        if point["valid_force_rmse"] <= error:
            return dict(point)
    return None


def comparison_rows(ours: dict[str, Any], other: dict[str, Any]) -> list[dict[str, Any]]:
    """Operations and CPU time until the same validation error, for errors that both have reached."""
    best = min(point["valid_force_rmse"] for point in other["curve"])
    rows = []
    for error in (*THRESHOLDS, best):
        here, there = reached(ours, error), reached(other, error)
        if here is None or there is None:
            continue
        flops = [
            found["flops_per_training_step"] * point["step"] / 1e12
            for found, point in ((ours, here), (other, there))
        ]
        lean = ours["flops_per_training_step_without_zeros"] * here["step"] / 1e12
        without = other["flops_per_training_step_without_radial"] * there["step"] / 1e12
        label = f"{error:.0f}" if error != best else f"{best:.1f}, the best of the {other['model']}"
        rows.append(
            {
                "validation force RMSE (meV/Å)": label,
                f"{ours['model']} (steps)": here["step"],
                f"{other['model']} (steps)": there["step"],
                f"{ours['model']} (TFLOP)": f"{flops[0]:.3g}",
                f"{other['model']} (TFLOP)": f"{flops[1]:.3g}",
                "operations (×)": f"{flops[1] / flops[0]:.2f}",
                f"{ours['model']} without zeros (×)": f"{flops[1] / lean:.2f}",
                f"and {other['model']} without radial networks (×)": f"{without / lean:.2f}",
                "CPU time (×)": f"{there['cpu_minutes'] / here['cpu_minutes']:.1f}",
            }
        )
    return rows


def match(folder: Path) -> None:
    """Train SymMD with shares of the operations that the Equiformer had, each with a whole schedule."""
    torch.set_num_threads(1)
    results = read_results(folder)
    total = results["equiformer"]["flops_per_training_step"] * results["equiformer"]["steps"]
    per_step = count_operations("ours", folder)["flops_per_training_step"]
    for name, share in SHARES.items():
        path = folder / "matched" / f"{name.replace('/', '_')}.json"
        if not path.exists():
            epochs = max(1, round(share * total / per_step / STEPS_PER_EPOCH))
            path.parent.mkdir(exist_ok=True)
            write_result(train(OWN_MODELS["ours"], folder, max_epochs=epochs), path)


def matched_rows(results: dict[str, dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The Equiformer, and SymMD trained with shares of its operations."""
    ours, other = results["ours"], results["equiformer"]
    total = other["flops_per_training_step"] * other["steps"]
    runs = [(other, other["flops_per_training_step"], "–")]
    for name in SHARES:
        path = folder / "matched" / f"{name.replace('/', '_')}.json"
        if path.exists():
            lean = ours["flops_per_training_step_without_zeros"]
            found = json.loads(path.read_text(encoding="utf-8"))
            runs.append((found, ours["flops_per_training_step"], f"{found['steps'] * lean / total:.2f}"))
    rows = []
    for found, per_step, lean_share in runs:
        best = min(found["curve"], key=lambda point: point["valid_force_rmse"])
        test = next(test for test in found["tests"] if test["test"] == "300K")
        rows.append(
            {
                "network": found["model"],
                "steps": f"{found['steps']:,}",
                "operations (TFLOP)": f"{found['steps'] * per_step / 1e12:.2f}",
                "of the Equiformer's": f"{found['steps'] * per_step / total:.2f}",
                "the same without zeros": lean_share,
                "CPU-minutes": f"{found['cpu_minutes']:.2f}",
                "validation force RMSE (meV/Å)": f"{best['valid_force_rmse']:.1f}",
                "test 300K: force RMSE (meV/Å)": f"{test['force_rmse']:.1f}",
                "test 300K: energy RMSE (meV/atom)": f"{test['energy_rmse']:.2f}",
            }
        )
    return rows


def operation_rows(ours: dict[str, Any], other: dict[str, Any]) -> list[dict[str, Any]]:
    """Operations of the two networks of the same size."""
    rows = []
    for found, part in ((ours, ""), (ours, "_without_zeros"), (other, ""), (other, "_without_radial")):
        rows.append(
            {
                "network": found["model"] + part.replace("_", " ").replace("radial", "its radial networks"),
                "parameters": f"{found['parameters']:,}",
                "energy and forces (MFLOP per atom)": f"{found[f'step_flops_per_atom{part}'] / 1e6:.2f}",
                "a step of training (GFLOP)": f"{found[f'flops_per_training_step{part}'] / 1e9:.2f}",
            }
        )
    equations = {
        "network": f"{ours['model']} by the equations, as the engine",
        "parameters": f"{ours['parameters']:,}",
        "energy and forces (MFLOP per atom)": f"{ours['step_flops_per_atom_by_the_equations'] / 1e6:.2f}",
        "a step of training (GFLOP)": "–",
    }
    return [*rows[:2], equations, *rows[2:]]


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Validation force error against CPU time, and against operations."""
    figure = Figure(figsize=(8.4, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    by_time, by_flops = figure.subplots(1, 2, sharey=True)
    for found in results.values():
        curve = found["curve"]
        errors = [point["valid_force_rmse"] for point in curve]
        per_step = found["flops_per_training_step"] / 1e12
        by_time.plot([point["cpu_minutes"] for point in curve], errors, linewidth=1.3, label=found["model"])
        by_flops.plot([per_step * point["step"] for point in curve], errors, linewidth=1.3)
    for panel, label in ((by_time, "CPU time (minutes)"), (by_flops, "operations of training (TFLOP)")):
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlabel(label)
        panel.grid(True, which="both", alpha=0.2)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter(NullFormatter())
    by_time.set_yticks(
        [20, 30, 50, 100, 200, 300, 500], labels=["20", "30", "50", "100", "200", "300", "500"]
    )
    by_time.set_ylabel("validation force RMSE (meV/Å)")
    by_time.legend(frameon=False)
    figure.suptitle("3BPA at 300 K, the same CPU time for all, one thread", fontsize=10)
    save(figure, path, colours=32)


def report(folder: Path) -> None:
    """Write every result and the picture from what has been trained in ``folder``."""
    results = read_results(folder)
    minutes = max(found["cpu_minutes"] for found in results.values())
    each = f"python benchmarks/accuracy/peers.py train MODEL --minutes {minutes:.0f} --data FOLDER"
    title = f"3BPA, {minutes:.0f} CPU-minutes of one thread for each model"
    record.write_result("peers_accuracy", title, each, schema_rows(results))
    record.write_result("accuracy_per_compute", title, each, display_rows(results))
    if {"ours", "equiformer"} <= set(results):
        pair = results["ours"], results["equiformer"]
        title = "Operations until the same validation error on 3BPA, SymMD beside an Equiformer"
        record.write_result("equiformer_curve", title, each, comparison_rows(*pair))
        if (folder / "matched").exists():
            title = (
                "SymMD trained with a share of the operations that the Equiformer had, a whole schedule each"
            )
            command = "python benchmarks/accuracy/peers.py match"
            record.write_result("equiformer_matched", title, command, matched_rows(results, folder))
        title = "Operations of the two networks on 3BPA, counted as plain torch runs them"
        record.write_result("equiformer_operations", title, each, operation_rows(*pair))
    draw(results, PICTURE)
