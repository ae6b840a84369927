"""Train and test on a published benchmark: ``python benchmarks/accuracy/run.py 3bpa --data FOLDER``.

FOLDER holds the data sets as extended XYZ (eV, eV/Å): 3bpa_train_300K, 3bpa_test_300K,
rmd17_ethanol_train_01, rmd17_ethanol_test_01, rmd17_aspirin_train_01 and rmd17_aspirin_test_01, each
.extxyz.xz; they are not part of the project.
Validation frames are drawn from the training file; the test file is read once, after training.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import record  # noqa: E402

from symmd_md.analysis.errors import Evaluation  # noqa: E402
from symmd_md.analysis.report import evaluate_checkpoint, write_report  # noqa: E402
from symmd_md.train import RunConfig, TrainingResult, read_run_config, train  # noqa: E402

TEST_FILES = {
    "3bpa": "3bpa_test_300K.extxyz.xz",
    "ethanol": "rmd17_ethanol_test_01.extxyz.xz",
    "aspirin": "rmd17_aspirin_test_01.extxyz.xz",
}
# Batatia et al., arXiv 2206.07697, tables 1-3; L = 2.
PUBLISHED = {"3bpa": "force RMSE 8.8", "ethanol": "force MAE 2.1", "aspirin": "force MAE 6.6"}


def located(config: RunConfig, folder: Path) -> RunConfig:
    """The configuration with its data file looked up in ``folder``."""
    assert isinstance(config.data.train, Path)
    data = dataclasses.replace(config.data, train=folder / config.data.train.name)
    return dataclasses.replace(config, data=data)


def run(name: str, folder: Path, output: Path, resume: bool) -> None:
    """Train ``name``.yaml, evaluate on its test file, and keep figures, logs and errors in this folder."""
    config = located(read_run_config(HERE / f"{name}.yaml"), folder)
    result = train(config, output, resume=resume)
    evaluation = evaluate_checkpoint(output / "best.ckpt", folder / TEST_FILES[name])
    written = write_report(evaluation, output / "best.ckpt", folder / TEST_FILES[name], output / "test")
    keep = HERE / name
    keep.mkdir(exist_ok=True)
    shutil.copyfile(output / "learning_curve.png", keep / "learning_curve.png")
    shutil.copyfile(output / "log.csv", keep / "log.csv")
    for path in written:
        if path.suffix == ".png":
            shutil.copyfile(path, keep / path.name)
    write_row(name, config, result, evaluation)


def write_row(name: str, config: RunConfig, result: TrainingResult, evaluation: Evaluation) -> None:
    """The set's line of benchmarks/results/accuracy.json, beside those of the other sets."""
    row = {
        "set": name,
        "epochs": result.epochs,
        "wall time (min)": round(result.minutes, 1),
        "threads": config.training.threads,
        "test frames": evaluation.structures,
        "energy MAE (meV)": f"{evaluation.energy.mae:.2f}",
        "energy RMSE (meV)": f"{evaluation.energy.rmse:.2f}",
        "force MAE (meV/Å)": f"{evaluation.forces.mae:.2f}",
        "force RMSE (meV/Å)": f"{evaluation.forces.rmse:.2f}",
        "MACE, published": PUBLISHED[name],
    }
    path = record.RESULTS / "accuracy.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    rows = [other for other in rows if other["set"] != name] + [row]
    rows.sort(key=lambda entry: list(TEST_FILES).index(entry["set"]))
    title = "Errors on the published test files"
    record.write_result("accuracy", title, "python benchmarks/accuracy/run.py SET --data FOLDER", rows)
    print(json.dumps(row, indent=2, ensure_ascii=False))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name", choices=sorted(TEST_FILES))
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("-o", "--output", type=Path, help="folder of the run (default: runs/NAME)")
    parser.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint")
    arguments = parser.parse_args()
    run(arguments.name, arguments.data, arguments.output or Path("runs") / arguments.name, arguments.resume)


if __name__ == "__main__":
    main()
