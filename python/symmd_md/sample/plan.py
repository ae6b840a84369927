"""What a sampling is: starting structures, a method, and runs of Langevin dynamics, in one YAML file."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

from symmd_md.configuration import from_mapping, read_yaml
from symmd_md.errors import ConfigurationError
from symmd_md.sample.methods import Method


@dataclass(frozen=True)
class RestraintPlan:
    """A dihedral angle that is held near each of some angles in turn."""

    atoms: tuple[int, ...]
    """Four atoms, counted from 0."""
    angles: tuple[float, ...]
    """Degrees; every angle is a window of its own."""
    stiffness: float = 1.5
    """k of k (1 − cos(θ − θ₀)), eV/rad²."""

    def __post_init__(self) -> None:
        if len(self.atoms) != 4 or len(set(self.atoms)) != 4 or min(self.atoms) < 0:
            raise ConfigurationError(
                "a restraint's 'atoms' must be four different atoms, counted from 0; "
                f"found {list(self.atoms)}"
            )
        if not self.angles:
            raise ConfigurationError("a restraint needs at least one of 'angles' (degrees)")
        if not self.stiffness > 0:
            raise ConfigurationError(f"a restraint's 'stiffness' must be positive; found {self.stiffness}")


@dataclass(frozen=True)
class RunPlan:
    """Langevin runs: one for each start, temperature, window of the restraints and repeat."""

    name: str
    """Written into every frame as ``run``."""
    temperatures: tuple[float, ...]
    """K."""
    steps: int
    """Steps of each run after the equilibration."""
    every: int
    """Steps between two frames."""
    equilibration: int = 300
    """Steps before the first one counts."""
    starts: tuple[int, ...] | None = None
    """Which starting structures, counted from 0; absent: all."""
    restraints: tuple[RestraintPlan, ...] = ()
    """Held together; every combination of their angles is a window."""
    repeats: int = 1
    """Runs that differ in the seed alone."""
    time_step: float = 1.0
    """fs."""
    friction: float = 0.02
    """1/fs."""
    keep_bonds: bool = True
    """Whether a run of a molecule ends when a bond breaks or forms."""
    contacts: tuple[float, ...] | None = None
    """Two factors: in every frame that is written, the distance of a random pair of atoms is multiplied by
    one between them; the dynamics goes on without that. Molecules only."""

    def __post_init__(self) -> None:
        for key in ("steps", "every", "repeats", "time_step", "friction"):
            if not getattr(self, key) > 0:
                raise ConfigurationError(
                    f"'{key}' of the run {self.name!r} must be positive; found {getattr(self, key)}"
                )
        if self.equilibration < 0:
            raise ConfigurationError(
                f"'equilibration' of the run {self.name!r} must not be negative; found {self.equilibration}"
            )
        if not self.temperatures or min(self.temperatures) <= 0:
            raise ConfigurationError(
                f"'temperatures' of the run {self.name!r} must be positive (K); "
                f"found {list(self.temperatures)}"
            )
        if self.contacts is not None and not (
            len(self.contacts) == 2 and 0 < self.contacts[0] < self.contacts[1]
        ):
            raise ConfigurationError(
                f"'contacts' of the run {self.name!r} must be two rising positive factors of "
                f"distances, such as [0.75, 1.3]; found {list(self.contacts)}"
            )
        if self.every > self.steps:
            raise ConfigurationError(
                f"'every' = {self.every} of the run {self.name!r} exceeds its 'steps' = {self.steps}: "
                "no frame would be kept"
            )


@dataclass(frozen=True)
class SamplingPlan:
    """The whole file."""

    start: Path
    """Structures to start from: whatever SymMD reads."""
    runs: tuple[RunPlan, ...]
    method: str = "GFN2-xTB"
    """As for ``symmd label``."""
    charge: int = 0
    multiplicity: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.runs:
            raise ConfigurationError("the sampling needs at least one of 'runs'")

    @property
    def reference(self) -> Method:
        return Method(self.method, self.charge, self.multiplicity)


@dataclass(frozen=True)
class Job:
    """One Langevin run, complete in itself."""

    index: int
    run: RunPlan = field(repr=False)
    start: int
    temperature: float
    angles: tuple[float, ...]
    """Degrees, one for each of the run's restraints."""
    seed: tuple[int, int]

    @property
    def frames(self) -> int:
        return self.run.steps // self.run.every


def read_plan(path: Path) -> SamplingPlan:
    """The sampling that a YAML file describes; unknown and mistyped keys are refused by name."""
    return from_mapping(SamplingPlan, read_yaml(path))


def jobs_of(plan: SamplingPlan, structures: int) -> list[Job]:
    """Every run of the plan, for so many starting structures."""
    jobs: list[Job] = []
    for run in plan.runs:
        starts = range(structures) if run.starts is None else run.starts
        wrong = [start for start in starts if not 0 <= start < structures]
        if wrong or not starts:
            raise ConfigurationError(
                f"'starts' of the run {run.name!r} names structure {wrong[0] if wrong else 'none'}, but "
                f"{plan.start} has {structures}, counted from 0"
            )
        windows = itertools.product(*(restraint.angles for restraint in run.restraints))
        every = itertools.product(windows, starts, run.temperatures, range(run.repeats))
        for angles, start, temperature, _ in every:
            seed = (plan.seed, len(jobs))
            jobs.append(Job(len(jobs), run, start, temperature, angles, seed))
    return jobs
