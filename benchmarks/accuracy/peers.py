"""Accuracy for the same compute on 3BPA: SymMD, an Equiformer, MACE and NequIP, each so many CPU-minutes.

``python benchmarks/accuracy/peers.py train MODEL --data FOLDER`` for each of ours, equiformer, mace and
nequip, then ``... peers.py match`` and ``... peers.py report``. A model whose result is in the output folder
is not trained again. MACE and NequIP run in the environments that ``benchmarks/peers/environments.py`` makes.
"""

from __future__ import annotations

import argparse
import lzma
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

from symmd_md.data.splitting import draw_indices  # noqa: E402
from symmd_md.files import write_atomically  # noqa: E402

ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
ENVIRONMENTS = Path("build") / "peers"
PACKAGES = ("mace", "nequip")

TRAIN, MIXED = "3bpa_train_300K.extxyz.xz", "3bpa_train_mixedT.extxyz.xz"
TEST = "3bpa_test_300K.extxyz.xz"
HOT = {"600K": slice(167, 334), "1200K": slice(334, 500)}
"""Frames of the mixed-temperature training file; nobody trains on it here. The published tests are others."""


def frames_of(path: Path) -> list[str]:
    """The frames of an extended XYZ file as text."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        lines = file.readlines()
    frames = []
    while lines:
        size = int(lines[0]) + 2
        frames.append("".join(lines[:size]))
        del lines[:size]
    return frames


def coordinates(frame: str) -> list[str]:
    """Species and positions, to find a frame again."""
    return [" ".join(line.split()[:4]) for line in frame.splitlines()[2:]]


def write_files(data: Path, output: Path) -> None:
    """The 450 training and 50 validation frames and the tests as files that every package reads."""
    known, mixed = frames_of(data / TRAIN), frames_of(data / MIXED)
    train, valid = draw_indices(list(range(len(known))), 450, 50, seed=1)
    sets = {"train": [known[i] for i in train], "valid": [known[i] for i in valid]}
    sets["test_300K"] = frames_of(data / TEST)
    seen = [coordinates(frame) for frame in known]
    for name, part in HOT.items():
        sets[f"test_{name}"] = [frame for frame in mixed[part] if coordinates(frame) not in seen]
    output.mkdir(parents=True, exist_ok=True)
    for name, frames in sets.items():
        path = output / f"{name}.xyz"
        if not path.exists():
            write_atomically(path, "".join(frames).encode())


def train(name: str, minutes: float, data: Path, output: Path, environments: Path) -> None:
    """One model in a process of its own with one thread, which leaves OUTPUT/NAME/result.json."""
    write_files(data, output)
    (output / name).mkdir(exist_ok=True)
    if (output / name / "result.json").exists():
        print(f"{output / name}/result.json is there; remove it to train {name} again")
        return
    if name in PACKAGES:
        python, script = environments / name / "bin" / "python", "package_training.py"
    else:
        python, script = Path(sys.executable), "own_training.py"
    command = [str(python), str(HERE / script), name, str(minutes), str(output)]
    subprocess.run(command, check=True, env={**os.environ, **ONE_THREAD})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("train", help="train one model")
    one.add_argument("name", choices=("ours", "equiformer", *PACKAGES))
    one.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    one.add_argument("--minutes", type=float, default=25.0, help="CPU time of the training (minutes)")
    one.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="folder of the environments")
    matched = commands.add_parser(
        "match", help="train SymMD with a share of the operations that the Equiformer had"
    )
    whole = commands.add_parser("report", help="write results and picture from all that has been trained")
    for command in (one, matched, whole):
        command.add_argument(
            "-o", "--output", type=Path, default=Path("runs/peers"), help="folder of the runs"
        )
    arguments = parser.parse_args()
    if arguments.command == "train":
        train(arguments.name, arguments.minutes, arguments.data, arguments.output, arguments.environments)
    else:
        from peers_report import match, report

        (match if arguments.command == "match" else report)(arguments.output)


if __name__ == "__main__":
    main()
