"""``symmd bench``: the time of a step in the engine and of the same network in torch, measured side by side.

A step is energy and forces. The sides take turns until the time for a case is spent, so that a change of the
machine's speed meets all of them. Torch is given the edges; the engine finds them among those of its list.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from ase.data import atomic_numbers
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

from symmd_md._engine import Engine
from symmd_md.analysis.bench_structures import FloatArray, Structure, species_of, structure_of
from symmd_md.analysis.machine import available_cores, available_memory, machine
from symmd_md.data.neighbours import neighbour_list
from symmd_md.errors import SymmdError
from symmd_md.export import network_from_model_file
from symmd_md.export.portable import PortableNetwork
from symmd_md.files import write_atomically
from symmd_md.model import AtomBatch, SymmdNetwork
from symmd_md.model.network import edge_vectors
from symmd_md.models import model_path

ENGINE, REBUILDING, EAGER, SCRIPTED = "engine", "new list", "torch eager", "TorchScript"
FEWEST_ROUNDS = 2
WARM_UP_CALLS, WARM_UP_SECONDS = 3, 3.0
"""TorchScript specialises its code in the first two calls; no third one where they are that slow."""
LONGEST_BURST = 50
BURST_SHARE, SHORTEST_TURN = 0.25, 0.02
"""How long a fast side runs in its turn: compared with a step of the slowest, and at least (s)."""
BYTES_PER_NUMBER_OF_A_MESSAGE = 60.0
"""What torch keeps for the backward pass, for each edge, channel and component of a layer's message."""
MOST_THREADS = 256
DEFAULT_ATOMS = "22,192,1536"
DEFAULT_SECONDS = 4.0


@dataclass(frozen=True)
class Row:
    """What one side needs for one structure with one number of threads."""

    structure: str
    atoms: int
    neighbours: float
    """Mean number within the cutoff."""
    threads: int
    side: str
    steps: int
    """How many were timed."""
    median_ms: float
    minimum_ms: float
    per_atom_us: float
    """The median by atom."""
    times_engine: float
    """Its median over the engine's, with as many threads."""
    speedup: float
    """Its median with the fewest threads over this one."""


@dataclass(frozen=True)
class Benchmark:
    """Everything that was measured on a model."""

    model: str
    sha256: str
    precision: str
    instruction_set: str
    device: str
    machine: str
    versions: dict[str, str]
    replaced: dict[str, str]
    """Elements that the model does not know, and what stood for them."""
    largest_force_difference: float
    """Between the engine and torch eager, relative to the largest force component."""
    left_out: list[str]
    """What was not measured, and why."""
    rows: list[Row]

    def table(self) -> Table:
        """All rows, a section for each structure and number of threads."""
        # Eighty columns hold it.
        table = Table(
            title=f"Energy and forces with {self.model}: time of a step",
            caption=self._caption(),
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            show_edge=False,
        )
        table.add_column("structure", no_wrap=True)
        table.add_column("side", no_wrap=True)
        for name in (
            "median\n(ms)",
            "fastest\n(ms)",
            "per atom\n(µs)",
            "engine is\nfaster (×)",
            "speed-up\n(×)",
        ):
            table.add_column(name, justify="right", no_wrap=True)
        cases: dict[tuple[str, int, int], list[Row]] = {}
        for row in self.rows:
            cases.setdefault((row.structure, row.atoms, row.threads), []).append(row)
        for (structure, atoms, threads), rows in cases.items():
            described = (
                *(structure, f"{atoms:,} atoms", f"{rows[0].neighbours:.1f} neighbours"),
                "1 thread" if threads == 1 else f"{threads} threads",
            )
            for text, found in itertools.zip_longest(described, rows):
                table.add_row(text, *(() if found is None else _cells(found)))
            table.add_section()
        return table

    def _caption(self) -> str:
        where = self.instruction_set if self.device == "cpu" else f"all sides on {self.device}"
        lines = [
            f"{self.machine}; {where}; torch {self.versions['torch']}; {self.precision}",
            "torch is given its edges; new list: the engine builds its own each step",
            "faster: medians compared with the engine's; speed-up: with the fewest threads",
            f"largest difference of a force: {self.largest_force_difference:.0e} of the largest force",
        ]
        lines += [
            f"no {element} in the model: {other} stands for it" for element, other in self.replaced.items()
        ]
        return "\n".join(lines + self.left_out)

    def write(self, path: Path) -> None:
        """The same as JSON; times in ms and µs as the keys say."""
        content = json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"
        write_atomically(path, content.encode("utf-8"))


def _cells(row: Row) -> tuple[str, ...]:
    return (
        *(row.side, _three_digits(row.median_ms), _three_digits(row.minimum_ms)),
        *(_three_digits(row.per_atom_us), f"{row.times_engine:.1f}", f"{row.speedup:.2f}"),
    )


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def run_bench(
    model: Path,
    atoms: str,
    threads: str | None,
    seconds: float,
    json_file: Path | None,
    device: str = "cpu",
    console: Console | None = None,
) -> None:
    """What ``symmd bench`` does: measure, print the table, write the JSON if asked.

    ``atoms`` and ``threads`` are numbers separated by commas; absent ``threads``: 1 and, with two cores, 2.
    On a ``device`` other than the CPU there is no number of threads to choose.
    """
    console = console or Console()
    counts = numbers_of("--atoms", atoms)
    if threads is None:
        threads = "1,2" if available_cores() > 1 and device == "cpu" else "1"
    result = measure(model, counts, numbers_of("--threads", threads), seconds, device)
    console.print(result.table())
    if json_file is not None:
        result.write(json_file)
        console.print(f"written: {json_file}", markup=False, highlight=False)


def numbers_of(option: str, text: str) -> list[int]:
    """The positive whole numbers in ``text``, separated by commas."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise SymmdError(f"{option} takes positive whole numbers separated by commas, found '{text}'")
    return [int(part) for part in parts]


def measure(
    model: Path, atoms: Sequence[int], threads: Sequence[int], seconds: float, device: str = "cpu"
) -> Benchmark:
    """Time all sides on structures of about so many ``atoms``; ``seconds`` for each, after warming up."""
    if max(threads) > MOST_THREADS:
        raise SymmdError(f"--threads takes at most {MOST_THREADS}, found {max(threads)}")
    model = model_path(model)
    if not model.is_file():
        raise SymmdError(f"there is no model file {model}; give one made by 'symmd export'")
    structures = [structure_of(count) for count in atoms]
    network = network_from_model_file(model).float()
    rows: list[Row] = []
    replaced: dict[str, str] = {}
    left_out: list[str] = []
    differences: list[float] = []
    threads_before = torch.get_num_threads()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(structures) * len(threads))
        try:
            for structure in structures:
                case = Case(model, network, structure, device)
                replaced |= case.replaced
                left_out += [text for text in case.left_out if text not in left_out]
                single: dict[str, float] = {}
                for count in sorted(set(threads)):
                    progress.update(task, description=f"{structure.atoms} atoms, {count} threads")
                    found = case.time(count, seconds)
                    for row in found:
                        single.setdefault(row.side, row.median_ms)
                    rows += [replace(row, speedup=single[row.side] / row.median_ms) for row in found]
                    progress.advance(task)
                differences += case.force_differences()
        finally:
            torch.set_num_threads(threads_before)
    described = Engine(model, device=device)
    return Benchmark(
        model=model.name,
        sha256=described.model["sha256"],
        precision="float32",
        instruction_set=described.instruction_set,
        device=device,
        machine=machine(),
        versions={package: version(package) for package in ("symmd-md", "torch", "numpy")},
        replaced=replaced,
        largest_force_difference=max(differences, default=0.0),
        left_out=left_out,
        rows=rows,
    )


class EngineStep:
    """A step in the engine; one that ``moves`` takes all atoms to the other side of the origin and back.

    That is another place as far as the list is concerned, which is built anew, but the same structure.
    """

    def __init__(
        self,
        model: Path,
        structure: Structure,
        species: NDArray[np.int32],
        threads: int,
        moves: bool = False,
        device: str = "cpu",
    ) -> None:
        self.engine = Engine(model, threads=threads, device=device)
        self.structure, self.species = structure, species
        self.places = [structure.positions, -structure.positions if moves else structure.positions]
        self.calls = 0
        self.forces = np.zeros_like(structure.positions)
        """[N, 3] eV/Å."""

    def __call__(self) -> None:
        place = self.places[self.calls % 2]
        found = self.engine.compute(self.species, place, self.structure.cell, self.structure.periodic)
        self.forces = found["forces"]
        self.calls += 1


class Case:
    """One structure, with a step of every side."""

    def __init__(self, model: Path, network: SymmdNetwork, structure: Structure, device: str = "cpu") -> None:
        self.model, self.network, self.structure, self.device = model, network, structure, device
        self.species, self.replaced = species_of(structure, network.config.species)
        self.batch = batch_of(structure, self.species, network.config.cutoff)
        self.edges = len(self.batch.edge_receiver)
        needed = self.torch_bytes()
        self.left_out = []
        has_device = device == "cpu" or torch.cuda.is_available()
        if not has_device:
            self.left_out.append(f"torch: {torch.__version__} finds no GPU")
        self.torch_fits = has_device and needed < memory_of(device)
        if has_device and not self.torch_fits:
            self.left_out.append(
                f"{structure.atoms:,} atoms in torch: would need about {needed / 1e9:.0f} GB of memory"
            )
        if self.torch_fits and device != "cpu":
            self.network, self.batch = network.to(device), self.batch.to(device)
        self.forces: dict[str, FloatArray] = {}

    def torch_bytes(self) -> float:
        """About what torch holds of the edges until its backward pass is done."""
        config = self.network.config
        degrees = [config.message_degree(layer) for layer in range(config.layers)]
        numbers = self.edges * config.channels * sum((degree + 1) ** 2 for degree in degrees)
        return BYTES_PER_NUMBER_OF_A_MESSAGE * numbers

    def time(self, threads: int, seconds: float) -> list[Row]:
        """The rows of all sides with so many threads, timed in turns."""
        torch.set_num_threads(threads)
        engine = EngineStep(self.model, self.structure, self.species, threads, device=self.device)
        moving = EngineStep(self.model, self.structure, self.species, threads, True, self.device)
        sides: dict[str, Callable[[], None]] = {ENGINE: engine, REBUILDING: moving}
        if self.torch_fits:
            sides[EAGER] = self.eager_step()
            sides[SCRIPTED] = self.scripted_step()
        times = time_in_turns(sides, seconds)
        self.forces[ENGINE] = engine.forces
        median = statistics.median(times[ENGINE])
        atoms = self.structure.atoms
        return [
            Row(
                structure=self.structure.name,
                atoms=atoms,
                neighbours=self.edges / atoms,
                threads=threads,
                side=side,
                steps=len(found),
                median_ms=1e3 * statistics.median(found),
                minimum_ms=1e3 * min(found),
                per_atom_us=1e6 * statistics.median(found) / atoms,
                times_engine=statistics.median(found) / median,
                speedup=1.0,
            )
            for side, found in times.items()
        ]

    def eager_step(self) -> Callable[[], None]:
        """A step of the network in torch, as it is trained."""

        def step() -> None:
            forces = self.network(self.batch, forces=True).forces
            assert forces is not None
            self.forces[EAGER] = forces.cpu().numpy()

        return step

    def scripted_step(self) -> Callable[[], None]:
        """A step of the network that TorchScript compiled."""
        batch, numbers = self.batch, self.model_numbers()
        energy = torch.jit.script(ScriptedEnergy(self.network))

        def step() -> None:
            vectors = edge_vectors(batch).requires_grad_()
            learned = energy(numbers, vectors, batch.edge_receiver, batch.edge_sender)
            (pull,) = torch.autograd.grad(learned, vectors)
            forces = pull.new_zeros(batch.atom_count, 3).index_add(0, batch.edge_receiver, pull)
            self.forces[SCRIPTED] = forces.index_add(0, batch.edge_sender, -pull).cpu().numpy()

        return step

    def model_numbers(self) -> Tensor:
        """[N] atomic numbers of the species that the atoms have in the model."""
        known = torch.tensor([atomic_numbers[symbol] for symbol in self.network.config.species])
        return known.to(self.batch.species.device)[self.batch.species]

    def force_differences(self) -> list[float]:
        """Largest difference between the engine and each torch side, over the largest force component."""
        expected = self.forces[ENGINE]
        scale = max(float(np.abs(expected).max()), 1e-12)
        others = [self.forces[side] for side in (EAGER, SCRIPTED) if side in self.forces]
        return [float(np.abs(other - expected).max()) / scale for other in others]


class ScriptedEnergy(nn.Module):
    """The network of the portable TorchScript module, which would find its edges by looking at all pairs."""

    def __init__(self, network: SymmdNetwork) -> None:
        super().__init__()
        self.network = PortableNetwork(network)

    def forward(self, numbers: Tensor, vectors: Tensor, receiver: Tensor, sender: Tensor) -> Tensor:
        """Learned energy (eV) of all atoms [N] with edges [E, 3]."""
        learned, _ = self.network.atom_energies(numbers, vectors, receiver, sender)
        return learned.sum()


def memory_of(device: str) -> float:
    """Bytes that are free on the CPU or on a GPU of torch."""
    return available_memory() if device == "cpu" else float(torch.cuda.mem_get_info(device)[0])


def batch_of(structure: Structure, species: NDArray[np.int32], cutoff: float) -> AtomBatch:
    """The structure with all edges shorter than ``cutoff`` (Å)."""
    cell = np.zeros((3, 3)) if structure.cell is None else structure.cell
    periodic = np.array(structure.periodic)
    receiver, sender, shift = neighbour_list(structure.positions, cell, periodic, cutoff)
    return AtomBatch(
        positions=torch.from_numpy(structure.positions),
        species=torch.from_numpy(species.astype(np.int64)),
        structure=torch.zeros(structure.atoms, dtype=torch.int64),
        cells=torch.from_numpy(cell)[None],
        edge_receiver=torch.from_numpy(receiver),
        edge_sender=torch.from_numpy(sender),
        edge_shift=torch.from_numpy(shift.astype(np.float64)),
    )


def time_in_turns(sides: Mapping[str, Callable[[], None]], seconds: float) -> dict[str, list[float]]:
    """Seconds of single calls by side, until ``seconds`` are spent after warming up, two rounds at least.

    A fast side takes several steps in its turn and the first of them does not count: it finds its threads
    asleep and the caches full of what another side left there, which a simulation never does.
    """
    last: dict[str, float] = {}
    for name, step in sides.items():
        step()
        last[name] = _timed(step)
        for _ in range(WARM_UP_CALLS - 2):
            if last[name] < WARM_UP_SECONDS:
                last[name] = _timed(step)
    turn = max(SHORTEST_TURN, BURST_SHARE * max(last.values()))
    bursts = {name: int(min(LONGEST_BURST, turn // duration)) for name, duration in last.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < FEWEST_ROUNDS or time.perf_counter() < end:
        for name, step in sides.items():
            if bursts[name] > 0:
                step()
            times[name] += [_timed(step) for _ in range(max(1, bursts[name]))]
        rounds += 1
    return times


def _timed(step: Callable[[], None]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started
