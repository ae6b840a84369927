"""``symmd verify``: all checks on one model file, one after the other."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.data import atomic_numbers
from rich.console import Console
from rich.progress import Progress

from symmd_md._engine import Engine, model_file_summary
from symmd_md.analysis.machine import machine
from symmd_md.engines.ase import SymmdCalculator
from symmd_md.errors import ModelFileError
from symmd_md.models import model_path
from symmd_md.verify import dynamics, lammps, potentials
from symmd_md.verify.certificate import Certificate, Omission
from symmd_md.verify.checks import Answer, Check, NotChecked, Potential, Precision, Yardstick, compared
from symmd_md.verify.cutoff import cutoff_checks
from symmd_md.verify.derivatives import derivative_checks, jacobian_check
from symmd_md.verify.determinism import determinism_checks
from symmd_md.verify.structures import Subject, subject_of
from symmd_md.verify.symmetry import size_checks, symmetry_checks

PACKAGES = ("symmd-md", "numpy", "ase", "torch", "openmm", "lammps")
PRECISIONS: tuple[Precision, ...] = ("float64", "float32")
RANKS = (1, 2)
AGREEMENT, DRIFT = "same as the reference", "energy drift"


@dataclass(frozen=True)
class Stage:
    """One thing to look at; ``NotChecked`` of ``run`` is an omission, any other error a failed check."""

    group: str
    name: str
    precision: str
    run: Callable[[], list[Check]]


@dataclass(frozen=True)
class _Reference:
    """The answer that all others are compared with."""

    answer: Answer
    computed_by: str
    """``network``, or ``engine`` where the network could not be asked."""
    failed: list[Check] = field(default_factory=list)
    omissions: list[Omission] = field(default_factory=list)


def run_verify(
    model: Path,
    structure: Path | None,
    json_file: Path | None,
    device: str = "cpu",
    console: Console | None = None,
) -> bool:
    """What ``symmd verify`` does: check, print, write the JSON if asked; whether all that ran held."""
    console = console or Console()
    certificate = verify(model, structure, device)
    console.print(certificate.table())
    for line in certificate.lines():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if json_file is not None:
        certificate.write(json_file)
        console.print(f"written: {json_file}", markup=False, highlight=False, soft_wrap=True)
    return certificate.held


def verify(model: Path, structure: Path | None = None, device: str = "cpu") -> Certificate:
    """Check a model file on a structure file or on one made for it, with all engines on ``device``."""
    started = time.monotonic()
    model = model_path(model)
    if not model.is_file():
        raise ModelFileError(f"there is no model file {model}; give one made by 'symmd export'")
    engines = {
        precision: Engine(model, precision=precision, threads=1, device=device) for precision in PRECISIONS
    }
    known = engines["float64"].model
    subject = subject_of(known["species"], structure)
    # Atoms that the model cannot compute are the caller's mistake, and end it here.
    potentials.engine_potential(engines["float64"])(subject.atoms)

    checks: list[Check] = []
    omissions: list[Omission] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("the network in torch")
        reference = _reference(model, engines, subject)
        checks += reference.failed
        omissions += reference.omissions
        plan = stages(model, engines, subject, reference.answer, reference.computed_by)
        progress.update(task, total=len(plan))
        for stage in plan:
            progress.update(task, description=f"{stage.group}: {stage.name}")
            try:
                checks += stage.run()
            except NotChecked as reason:
                omission = Omission(stage.group, stage.name, str(reason))
                if omission not in omissions:  # it is the same in both precisions
                    omissions.append(omission)
            except Exception as error:  # whatever a front end raises, it did not do what it should
                checks.append(_failure(stage.group, stage.name, stage.precision, error))
            progress.advance(task)
    return Certificate(
        model=_about_model(model),
        structure=_about_structure(subject, reference.computed_by),
        machine={
            "processor": machine(),
            "instruction_set": engines["float64"].instruction_set,
            "device": device,
        },
        versions=_versions(),
        written=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seconds=time.monotonic() - started,
        checks=checks,
        not_checked=omissions,
    )


def _reference(model: Path, engines: dict[Precision, Engine], subject: Subject) -> _Reference:
    """The network's answer, or where there is none the engine's."""
    name = "network in torch"
    answer = potentials.engine_potential(engines["float64"])(subject.atoms)
    try:
        return _Reference(potentials.network_potential(model)(subject.atoms), "network")
    except NotChecked as reason:
        return _Reference(answer, "engine", omissions=[Omission(AGREEMENT, name, str(reason))])
    except Exception as error:  # as in every other stage
        return _Reference(answer, "engine", failed=[_failure(AGREEMENT, name, "float64", error)])


def _failure(group: str, name: str, precision: str, error: Exception) -> Check:
    message = " ".join(f"{type(error).__name__}: {error}".split())
    return Check(group, name, precision, "error", None, 0.0, "", message)


def stages(
    model: Path, engines: dict[Precision, Engine], subject: Subject, reference: Answer, computed_by: str
) -> list[Stage]:
    """All checks in the order in which they run."""
    atoms, header = subject.atoms, engines["float64"].model["header"]
    device = engines["float64"].device
    energies = {atomic_numbers[symbol]: value for symbol, value in header["reference_energies"].items()}
    yardstick = Yardstick(
        reference,
        np.array([energies[number] for number in atoms.numbers]),
        header["energy_scale"],
        header["cutoff"],
    )
    engine = {precision: potentials.engine_potential(engines[precision]) for precision in PRECISIONS}
    plan: list[Stage] = []

    def agreement(name: str, precision: Precision, answer: Callable[[], Answer]) -> None:
        def run() -> list[Check]:
            return compared(AGREEMENT, name, precision, reference, answer(), yardstick)

        plan.append(Stage(AGREEMENT, name, precision, run))

    for precision in PRECISIONS:
        if not (computed_by == "engine" and precision == "float64"):
            agreement("engine", precision, lambda p=precision: engine[p](atoms))  # type: ignore[misc]
    for precision in PRECISIONS:
        agreement(
            "OpenMM SymmdForce",
            precision,
            lambda p=precision: potentials.openmm_potential(model, p, device)(atoms),  # type: ignore[misc]
        )
    for ranks in RANKS:
        for precision in PRECISIONS:
            agreement(
                f"LAMMPS on {ranks} rank{'s' if ranks > 1 else ''}",
                precision,
                lambda p=precision, r=ranks: lammps.single_point(model, atoms, p, r, device),  # type: ignore[misc]
            )
    for precision in PRECISIONS:
        agreement(
            "TorchScript module",
            precision,
            lambda p=precision: potentials.script_potential(model, p, device)(atoms),  # type: ignore[misc]
        )

    double = engine["float64"]
    cutoffs = header["layer_cutoffs"]
    derivatives: list[tuple[str, Callable[[], list[Check]]]] = [
        ("forces and virial", lambda: derivative_checks(double, atoms, yardstick)),
        ("Jacobian", lambda: [jacobian_check(double, atoms)]),
    ]
    plan += [Stage("derivatives", name, "float64", run) for name, run in derivatives]
    for precision in PRECISIONS:
        plan += _symmetry_stages(
            model, engine[precision], atoms, header["cutoff"], yardstick, precision, device
        )
    plan.append(
        Stage("cutoff", "atoms come", "float64", lambda: cutoff_checks(double, atoms, cutoffs, yardstick))
    )
    return plan + _dynamics_stages(model, atoms, device)


def _symmetry_stages(
    model: Path,
    potential: Potential,
    atoms: ase.Atoms,
    cutoff: float,
    yardstick: Yardstick,
    precision: Precision,
    device: str,
) -> list[Stage]:
    def fresh(threads: int) -> Potential:
        return potentials.engine_potential(
            Engine(model, precision=precision, threads=threads, deterministic=True, device=device)
        )

    cases: list[tuple[str, str, Callable[[], list[Check]]]] = [
        ("equivariance", "turned and moved", lambda: symmetry_checks(potential, atoms, yardstick, precision)),
        (
            "size consistency",
            "two copies",
            lambda: size_checks(potential, atoms, cutoff, yardstick, precision),
        ),
        ("determinism", "two runs", lambda: determinism_checks(fresh, atoms, yardstick, precision)),
    ]
    return [Stage(group, name, precision, run) for group, name, run in cases]


def _dynamics_stages(model: Path, atoms: ase.Atoms, device: str) -> list[Stage]:
    """Energies of runs in fp32, which is what simulations use."""
    prepared: list[dynamics.Run] = []

    def calculator() -> SymmdCalculator:
        return SymmdCalculator(model, threads=1, device=device)

    def start() -> dynamics.Run:
        if not prepared:
            prepared.append(dynamics.prepare(atoms, calculator()))
        return prepared[0]

    def in_openmm() -> dynamics.Series:
        potentials.require_openmm(atoms)  # before the structure is relaxed for nothing
        return dynamics.in_openmm(start(), model, "float32", device)

    def in_lammps() -> dynamics.Series:
        lammps.require_lammps()
        return dynamics.in_lammps(start(), model, "float32", device)

    runs: dict[str, Callable[[], dynamics.Series]] = {
        "ASE and engine": lambda: dynamics.in_ase(start(), calculator()),
        "LAMMPS": in_lammps,
        "OpenMM": in_openmm,
    }

    def stage(name: str, series: Callable[[], dynamics.Series]) -> Stage:
        return Stage(
            DRIFT,
            name,
            "float32",
            lambda: [dynamics.drift_check(name, "float32", series(), len(atoms))],
        )

    return [stage(name, series) for name, series in runs.items()]


def _about_model(model: Path) -> dict[str, Any]:
    summary = model_file_summary(model)
    header = summary["header"]
    return {
        "file": model.name,
        "file_bytes": model.stat().st_size,
        "file_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "sha256": summary["sha256"],
        "form": "TorchScript archive" if model.suffix == ".pt" else "safetensors",
        "format_version": summary["format_version"],
        "precision_of_weights": summary["dtype"],
        "species": header["species"],
        "cutoff": header["cutoff"],
        "layer_cutoffs": header["layer_cutoffs"],
        "units": header["units"],
        "validated_precisions": header["validated_precisions"],
        "provenance": header["provenance"],
    }


def _about_structure(subject: Subject, computed_by: str) -> dict[str, Any]:
    return {
        "description": subject.description,
        "formula": subject.atoms.get_chemical_formula(),
        "atoms": len(subject.atoms),
        "periodic": subject.atoms.pbc.tolist(),
        "cell": subject.atoms.cell.array.tolist(),
        "reference": f"{computed_by} in float64",
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
