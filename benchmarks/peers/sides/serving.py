"""The half of a side that talks with run.py: one JSON line in, one out, until the input ends.

A side is one model by one route in one process with its own number of threads. Only numpy is needed here:
this file runs in the environment of every peer.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

CUTOFF = 5.0
"""Å, of every model."""
SPECIES = ("H", "C", "N", "O")
NUMBERS = (1, 6, 7, 8)
"""Their atomic numbers."""
FIRST_COUNTS_FROM = 0.5
"""s; a step this long does not feel the cold caches and sleeping threads that the first of a turn finds."""
STEP_DIFFERENCE = 5e-3
"""Å along the forces, over which a difference of energies shows that they are its slope."""


class Side(ABC):
    """One model by one route. Energies and forces in its own units; Å."""

    package: str
    """Name and version."""
    parameters: int
    list_in_step = False
    """Whether a step builds the neighbour list, so that the two cannot be timed one without the other."""

    @abstractmethod
    def load(self, numbers: np.ndarray, cell: np.ndarray | None) -> None:
        """Take atoms [N] (atomic numbers) in ``cell`` [3, 3] Å, or with open boundaries."""

    @abstractmethod
    def place(self, positions: np.ndarray) -> float | None:
        """Put the atoms at ``positions`` [N, 3] Å and build their list; returns pairs in it, both ways."""

    @abstractmethod
    def step(self) -> tuple[float, np.ndarray]:
        """Energy, and forces [N, 3], where the atoms are."""

    def timed_step(self) -> float:
        """Seconds of a step in dynamics, its list kept."""
        return timed(self.step)

    def fresh_step(self) -> float | None:
        """Seconds of a step that begins with a new list; None where place() is what a list costs."""
        return None

    def operations(self) -> dict[str, float] | None:
        """Floating-point operations of a step by kind; None where they cannot be counted."""
        return None


class Server:
    """Answers what run.py asks of one side."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.positions = np.zeros((0, 3))

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"describe": self.describe, "load": self.load, "turn": self.turn, "operations": self.count}[
            request.pop("do")
        ](**request)

    def describe(self) -> dict[str, Any]:
        return {"package": self.side.package, "parameters": self.side.parameters}

    def load(self, structure: str, check: bool) -> dict[str, Any]:
        """Take a structure (npz) and compute it once; with ``check``, compare forces with energies."""
        with np.load(structure) as file:
            arrays = dict(file)
        numbers, self.positions, cell = arrays["numbers"], arrays["positions"], arrays.get("cell")
        self.side.load(numbers, cell)
        pairs = self.side.place(self.positions)
        # TorchScript specialises its code in the first two.
        self.side.step()
        energy, forces = self.side.step()
        if not np.isfinite(energy) or not np.isfinite(forces).all() or forces.shape != self.positions.shape:
            raise ValueError(f"expected finite forces {self.positions.shape}, found {forces.shape}, {energy}")
        return {"pairs": pairs, "slope": self.slope(forces) if check and self.side.parameters else None}

    def slope(self, forces: np.ndarray) -> float:
        """Difference of energies along the forces over what the forces say: 1 where they are its slope."""
        length = np.linalg.norm(forces)
        direction = forces / length
        energies = []
        for sign in (1, -1):
            self.side.place(self.positions + sign * STEP_DIFFERENCE * direction)
            energies.append(self.side.step()[0])
        self.side.place(self.positions)
        return float((energies[1] - energies[0]) / (2 * STEP_DIFFERENCE * length))

    def turn(self, seconds: float) -> dict[str, Any]:
        """Seconds of steps, and of new lists, one after the other until ``seconds`` are spent."""
        steps = self._repeat(self.side.timed_step, seconds)
        if self.side.list_in_step:
            return {"steps": steps, "lists": [], "fresh": []}
        if self.side.fresh_step() is None:
            lists = self._repeat(lambda: timed(lambda: self.side.place(self.positions)), seconds / 2)
            return {"steps": steps, "lists": lists, "fresh": []}
        return {"steps": steps, "lists": [], "fresh": self._repeat(self.side.fresh_step, seconds / 2)}

    @staticmethod
    def _repeat(measure: Callable[[], float | None], seconds: float) -> list[float]:
        end = time.perf_counter() + seconds
        first = measure()
        found = [first] if first >= FIRST_COUNTS_FROM else []
        while time.perf_counter() < end or not found:
            found.append(measure())
        return found

    def count(self) -> dict[str, Any]:
        return {"operations": self.side.operations()}


def timed(call: Callable[[], Any]) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def command_line(description: str | None, variants: Iterable[str]) -> argparse.Namespace:
    """What run.py says when it starts a side."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("variant", choices=list(variants))
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="for files that a side keeps between runs")
    parser.add_argument("--replies", type=int, required=True, help="descriptor of the pipe for the answers")
    return parser.parse_args()


def serve(make: Callable[[], Side], replies: int) -> None:
    """Make the side and answer until the input ends; packages may print, as the answers have a pipe."""
    server = None
    with os.fdopen(replies, "w", encoding="utf-8") as pipe:
        for line in sys.stdin:
            try:
                server = server or Server(make())
                reply = server.answer(json.loads(line))
            except Exception as error:
                traceback.print_exc()
                reply = {"error": f"{type(error).__name__}: {error}"}
            give_memory_back()
            pipe.write(json.dumps(reply) + "\n")
            pipe.flush()


def give_memory_back() -> None:
    """Return what is free to the system: the side whose turn is next may need it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def count_operations(step: Callable[[], Any]) -> dict[str, float]:
    """Floating-point operations of a step in torch, by the rule of benchmarks/flop_counter.py."""
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    from flop_counter import count

    found = count(step)
    return {"products": found.matrix, "pointwise": found.pointwise}


def atom_types(numbers: np.ndarray) -> np.ndarray:
    """[N] indices into SPECIES; carbon stands for an element that is not there, at the same cost."""
    known = {number: index for index, number in enumerate(NUMBERS)}
    return np.array([known.get(int(number), 1) for number in numbers], dtype=np.int64)
