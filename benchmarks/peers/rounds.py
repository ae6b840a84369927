"""Processes that each hold one side, and turns between them: every side is timed in every round."""

from __future__ import annotations

import json
import os
import re
import resource
import selectors
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from symmd_md.analysis.machine import available_memory

SIDES = Path(__file__).resolve().parent / "sides"
SHARE_OF_MEMORY = 0.9
"""Of what is free when a structure is loaded; a side that wants more is told that there is none."""
ONE_CALL_AT_A_TIME = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    *("TF_NUM_INTRAOP_THREADS", "DP_INTRA_OP_PARALLELISM_THREADS"),
)


@dataclass(frozen=True)
class Kind:
    """A model by a route."""

    model: str
    route: str
    environment: str | None
    """Under build/peers; None: this one."""
    script: str
    variant: str
    molecules_only: bool = False
    compiles: str = ""
    """``once``, or for each ``structure`` and number of threads anew; nothing that takes long otherwise."""

    @property
    def name(self) -> str:
        return f"{self.model}, {self.route}"


class SideError(Exception):
    """A side could not do what it was asked; the text goes into its row."""


class SideProcess:
    """One side in its process."""

    def __init__(self, kind: Kind, threads: int, environments: Path, log: Path) -> None:
        self.kind = kind
        folder = environments / "models"
        folder.mkdir(parents=True, exist_ok=True)
        python = _python(kind, environments)
        self.replies, theirs = os.pipe()
        environment = os.environ | dict.fromkeys(ONE_CALL_AT_A_TIME, str(threads))
        environment |= {
            # Threads that wait for their turn must not take the time of the side whose turn it is.
            "OMP_WAIT_POLICY": "passive",
            "TF_NUM_INTEROP_THREADS": "1",
            "DP_INTER_OP_PARALLELISM_THREADS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "TORCHINDUCTOR_CACHE_DIR": str(environments / "inductor"),
        }
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *(str(python), str(SIDES / kind.script), kind.variant, "--threads", str(threads)),
                    *("--folder", str(folder), "--replies", str(theirs)),
                ],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[theirs],
                env=environment,
            )
        os.close(theirs)
        self.buffer = b""

    def limit_memory(self) -> None:
        """Let it take what is free now and no more."""
        free = available_memory()
        if free != float("inf") and self.process.poll() is None:
            # What it has already counts too.
            limit = int(SHARE_OF_MEMORY * free) + _data_bytes(self.process.pid)
            resource.prlimit(self.process.pid, resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))

    def ask(self, limit: float, /, **request: Any) -> dict[str, Any]:
        """Its answer; a side that needs more than ``limit`` seconds, or ends, answers no more."""
        if self.process.poll() is not None:
            raise SideError(f"has ended with {self.process.returncode}")
        assert self.process.stdin is not None
        try:
            self.process.stdin.write((json.dumps(request) + "\n").encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            raise SideError(self._ended()) from None
        answer = json.loads(self._line(limit))
        if "error" in answer:
            raise SideError(problem_of(answer["error"]))
        return dict(answer)

    def _line(self, seconds: float) -> bytes:
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self.replies, selectors.EVENT_READ)
            while b"\n" not in self.buffer:
                if not selector.select(max(0.0, end - time.monotonic())):
                    self.process.kill()
                    raise SideError(f"more than {seconds:.0f} s")
                found = os.read(self.replies, 1 << 20)
                if not found:
                    raise SideError(self._ended())
                self.buffer += found
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    def _ended(self) -> str:
        code = self.process.wait()
        return "not enough memory" if code == -9 else f"has ended with {code}"

    def close(self) -> None:
        """End it and wait for that."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
            self.process.wait(timeout=20)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        os.close(self.replies)


def problem_of(error: str) -> str:
    """The first line of what a side says, without folders of this machine, short enough for a table."""
    text = re.sub(r"(/[^\s/:]+)+/", "", error.split("\n")[0])
    return "not enough memory" if re.search("alloc|memory", text, re.IGNORECASE) else text[:100]


def _python(kind: Kind, environments: Path) -> Path:
    return (
        Path(sys.executable)
        if kind.environment is None
        else environments / kind.environment / "bin" / "python"
    )


def _data_bytes(process: int) -> int:
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        return 0
    lines = [line for line in status.read_text().splitlines() if line.startswith("VmData:")]
    return 1024 * int(lines[0].split()[1]) if lines else 0


@dataclass
class Times:
    """What was measured of one side with one structure and number of threads. Seconds."""

    steps: list[float] = field(default_factory=list)
    lists: list[float] = field(default_factory=list)
    fresh: list[float] = field(default_factory=list)
    pairs: float | None = None
    slope: float | None = None
    operations: dict[str, float] | None = None
    problem: str | None = None
    """Why there are no times."""


@dataclass(frozen=True)
class Limits:
    """How long things may take. Seconds."""

    rounds: int = 3
    fewest_rounds: int = 2
    rounds_end: float = 30.0
    """After so long there is no further round, but for the fewest."""
    turn: float = 0.4
    load: float = 240.0
    step: float = 120.0


def take_turns(
    sides: Sequence[SideProcess], structure: Path, limits: Limits, check: bool, count: bool
) -> dict[str, Times]:
    """Load ``structure`` in every side, then let them compute in turns.

    ``check``: compare forces with energies; ``count``: operations of a step, after the last round.
    """
    times = {side.kind.name: Times() for side in sides}

    def attempt(side: SideProcess, limit: float, /, **request: Any) -> dict[str, Any]:
        found = times[side.kind.name]
        if found.problem is None:
            try:
                return side.ask(limit, **request)
            except SideError as error:
                found.problem = str(error)
                print(f"{side.kind.name}: {error}", flush=True)
        return {}

    for side in sides:
        side.limit_memory()
        answer = attempt(side, limits.load, do="load", structure=str(structure), check=check)
        for key in ("pairs", "slope"):
            setattr(times[side.kind.name], key, answer.get(key))
    started = time.monotonic()
    for round_number in range(limits.rounds):
        if round_number >= limits.fewest_rounds and time.monotonic() - started > limits.rounds_end:
            break
        for side in sides:
            answer = attempt(side, limits.step, do="turn", seconds=limits.turn)
            found = times[side.kind.name]
            for key in ("steps", "lists", "fresh"):
                getattr(found, key).extend(answer.get(key, []))
    for side in sides if count else ():
        found = times[side.kind.name]
        if found.problem is None:
            try:
                found.operations = side.ask(limits.load, do="operations")["operations"]
            except SideError as error:
                # The times stand.
                print(f"{side.kind.name}: operations: {error}", flush=True)
    return times
