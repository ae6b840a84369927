"""One Langevin run of a sampling, and all of them: parallel, and resumable run by run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.optimize import FIRE

from symmd_md.configuration import to_mapping
from symmd_md.errors import ConfigurationError, SymmdError
from symmd_md.files import remove_leftovers, replaced_on_success, write_atomically
from symmd_md.sample.contacts import with_one_contact
from symmd_md.sample.frames import Conformation, frame_text, iterate_conformations
from symmd_md.sample.methods import Method
from symmd_md.sample.parallel import in_order
from symmd_md.sample.plan import Job, SamplingPlan, jobs_of
from symmd_md.sample.restraint import DihedralRestraint, bonds, turn_dihedral

RELAXATION_STEPS = 40
RELAXED_FORCE = 1.0
"""eV/Å; turning a molecule into a window brings atoms together, and only the worst has to go."""


@dataclass(frozen=True)
class JobResult:
    """What a run gave: frames as text, and why it ended early if it did."""

    index: int
    text: str
    failure: str | None


@dataclass(frozen=True)
class SamplingSummary:
    """What a call of ``sample`` did."""

    frames: int
    """In the output file."""
    jobs: int
    resumed: int
    """Jobs that an earlier call had done."""
    failures: list[str]
    """One sentence for each run that ended early."""


def run_job(job: Job, structures: list[Atoms], method: Method) -> JobResult:
    """Langevin dynamics of one job; a failure of the method ends it, and the frames before it are kept."""
    run = job.run
    generator = np.random.default_rng(np.random.SeedSequence(job.seed))
    atoms = structures[job.start].copy()
    molecule = not atoms.pbc.any()
    bonded = bonds(atoms.numbers, atoms.positions) if molecule else None
    atoms.calc = method.calculator()
    atoms.set_constraint(
        [
            DihedralRestraint(restraint.atoms, angle, restraint.stiffness)
            for restraint, angle in zip(run.restraints, job.angles, strict=True)
        ]
    )
    if bonded is not None:
        for restraint, angle in zip(run.restraints, job.angles, strict=True):
            atoms.positions = turn_dihedral(atoms.positions, bonded, restraint.atoms, angle)
    notes = _notes(job, method)
    frames: list[str] = []
    try:
        if run.restraints:
            FIRE(atoms, logfile=None, maxstep=0.1).run(fmax=RELAXED_FORCE, steps=RELAXATION_STEPS)
        widths = np.sqrt(atoms.get_masses() * units.kB * job.temperature)
        atoms.set_momenta(generator.standard_normal((len(atoms), 3)) * widths[:, None])
        dynamics = Langevin(
            atoms,
            run.time_step * units.fs,
            temperature_K=job.temperature,
            friction=run.friction / units.fs,
            fixcm=False,
            rng=generator,
        )
        dynamics.run(run.equilibration)
        for number in range(job.frames):
            dynamics.run(run.every)
            _check(atoms, bonded if run.keep_bonds else None)
            step = run.equilibration + (number + 1) * run.every
            positions = atoms.positions
            if run.contacts is not None:
                bounds = (run.contacts[0], run.contacts[1])
                positions = with_one_contact(atoms.numbers, positions, bounds, generator)
            frames.append(
                frame_text(atoms.numbers, positions, {**notes, "step": step}, atoms.cell.array, atoms.pbc)
            )
    except Exception as error:  # whatever a calculator raises ends this run, not the others
        reason = " ".join(str(error).split()) or type(error).__name__
        return JobResult(job.index, "".join(frames), f"{_name(job)}, after {len(frames)} frames: {reason}")
    return JobResult(job.index, "".join(frames), None)


def _ended(job: Job) -> JobResult:
    return JobResult(job.index, "", f"{_name(job)}: its process ended (killed, out of memory, or a crash)")


def _check(atoms: Atoms, bonded: np.ndarray | None) -> None:
    if not np.isfinite(atoms.positions).all():
        raise SymmdError("the positions are no longer finite; take a shorter time_step")
    if bonded is not None:
        changed = np.argwhere(bonds(atoms.numbers, atoms.positions) != bonded)
        if len(changed):
            first, second = changed[0].tolist()
            raise SymmdError(f"the bond between the atoms {first} and {second} broke or formed")


def _notes(job: Job, method: Method) -> dict[str, str | int | float]:
    provenance = method.provenance()
    notes: dict[str, str | int | float] = {
        "run": job.run.name,
        "sampled_with": f"{provenance['method']}, {provenance['program']}",
        "temperature": job.temperature,
        "start": job.start,
        "seed": f"{job.seed[0]}.{job.seed[1]}",
    }
    if job.run.restraints:
        notes["window"] = ",".join(f"{angle:g}" for angle in job.angles)
    return notes


def _name(job: Job) -> str:
    window = ", window " + ", ".join(f"{angle:g}°" for angle in job.angles) if job.angles else ""
    return f"run {job.run.name!r} from structure {job.start} at {job.temperature:g} K{window}"


def sample(
    plan: SamplingPlan,
    output: Path,
    processes: int = 1,
    done: Callable[[int, int], None] | None = None,
) -> SamplingSummary:
    """Write the frames of all runs of ``plan`` to ``output`` (extended XYZ, Å).

    Runs that are over lie in a folder beside ``output``; an interrupted call is continued by the same call.
    ``done(jobs, of)`` is told how far it is.
    """
    if output.exists():
        raise ConfigurationError(f"{output} exists; remove it to sample anew, or choose another -o")
    method = plan.reference
    method.require()
    structures = list(iterate_conformations(plan.start))
    jobs = jobs_of(plan, len(structures))
    _check_atoms(plan, structures)
    parts = output.with_name(output.name + ".parts")
    _claim(parts, plan, structures)
    waiting = [job for job in jobs if not _part(parts, job.index).exists()]
    resumed = len(jobs) - len(waiting)
    work = partial(run_job, structures=[structure.atoms() for structure in structures], method=method)
    for count, result in enumerate(in_order(work, waiting, processes, _ended), start=resumed + 1):
        content = {"text": result.text, "failure": result.failure}
        write_atomically(_part(parts, result.index), json.dumps(content).encode())
        if done is not None:
            done(count, len(jobs))
    return _join(output, parts, jobs, resumed, plan.start)


def _join(output: Path, parts: Path, jobs: list[Job], resumed: int, start: Path) -> SamplingSummary:
    failures, frames = [], 0
    with replaced_on_success(output) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for job in jobs:
            content = json.loads(_part(parts, job.index).read_text(encoding="utf-8"))
            stream.write(content["text"])
            frames += content["text"].count("Properties=")
            if content["failure"]:
                failures.append(content["failure"])
        if frames == 0:
            # What lies in the parts is failures alone, which the next call has to try again.
            shutil.rmtree(parts)
            raise SymmdError(
                f"none of {len(jobs)} runs from {start} gave a frame; the first one: {failures[0]}"
            )
    shutil.rmtree(parts)
    return SamplingSummary(frames, len(jobs), resumed, failures)


def _part(parts: Path, index: int) -> Path:
    return parts / f"{index:06d}.json"


def _claim(parts: Path, plan: SamplingPlan, structures: list[Conformation]) -> None:
    """Make the folder of the parts, or refuse one that another plan or other structures began."""
    # The place of the file does not matter, its structures do.
    content = {
        "plan": to_mapping(replace(plan, start=Path())),
        "structures": [structure.digest() for structure in structures],
    }
    description = json.dumps(content, indent=1, sort_keys=True)
    file = parts / "plan.json"
    if file.exists() and file.read_text(encoding="utf-8") != description:
        raise ConfigurationError(
            f"{parts} holds runs of another plan or of other starting structures; remove that folder to "
            "sample anew, or choose another -o"
        )
    write_atomically(file, description.encode())
    remove_leftovers(parts)


def _check_atoms(plan: SamplingPlan, structures: list[Conformation]) -> None:
    fewest = min(len(structure.numbers) for structure in structures)
    for run in plan.runs:
        if run.contacts is not None and any(structure.pbc.any() for structure in structures):
            raise ConfigurationError(
                f"'contacts' of the run {run.name!r} are for molecules, but a structure of {plan.start} is "
                "periodic; remove the key"
            )
        for restraint in run.restraints:
            if max(restraint.atoms) >= fewest:
                raise ConfigurationError(
                    f"a restraint of the run {run.name!r} names atom {max(restraint.atoms)}, but a structure "
                    f"of {plan.start} has {fewest} atoms, counted from 0"
                )
