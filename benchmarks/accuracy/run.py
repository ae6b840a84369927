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

from symmd_md.analysis.report import evaluate_checkpoint, write_report  # noqa: E402
from symmd_md.train import RunConfig, TrainingResult, read_run_config, train  # noqa: E402

TEST_FILES = {
    "3bpa": "3bpa_test_300K.extxyz.xz",
    "ethanol": "rmd17_ethanol_test_01.extxyz.xz",
    "aspirin": "rmd17_aspirin_test_01.extxyz.xz",
}


def located(config: RunConfig, folder: Path) -> RunConfig:
    """The configuration with its data file looked up in ``folder``."""
    name = config.data.train[0] if isinstance(config.data.train, (list, tuple)) else config.data.train
    train_file = type(name)(folder / Path(name).name)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, train=train_file))


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
    write_row(name, config, result, evaluation.as_mapping())


def write_row(name: str, config: RunConfig, result: TrainingResult, errors: dict[str, object]) -> None:
    """benchmarks/results/accuracy_NAME.json."""
    row = {
        "set": name,
        "epochs": result.epochs,
        "wall time (min)": round(result.minutes, 1),
        "threads": config.training.threads,
        "test errors": errors,
    }
    path = record.RESULTS / f"accuracy_{name}.json"
    command = f"python benchmarks/accuracy/run.py {name} --data FOLDER"
    record.write_result(path.stem, f"{name}: errors on the test file", command, [row])
    print(json.dumps(row, indent=2))


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
