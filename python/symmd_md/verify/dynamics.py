"""Conservation of the energy in a short run without a thermostat. Units Å, eV, ps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase import units
from ase.data import covalent_radii
from ase.md.verlet import VelocityVerlet
from ase.optimize import FIRE

from symmd_md.verify import lammps
from symmd_md.verify.checks import Check, FloatArray, Precision
from symmd_md.verify.potentials import openmm_context, require_openmm

TIME_STEP, TIME_STEP_WITHOUT_HYDROGEN = 0.0005, 0.001
"""ps."""
TEMPERATURE = 300.0
"""K of the velocities at the start, of which the relaxed structure's bonds take half."""
SEED = 11
STRIDE = 4
"""Steps between two looks at the energy."""
LONGEST, SHORTEST, ATOM_STEPS = 4000, 200, 200_000
"""Steps of a run: fewer for more atoms, so that it takes about as long."""
RELAXATION_STEPS, RELAXATION_LEAP, RELAXED = 100, 0.05, 0.05
"""Steps, longest one (Å) and largest force (eV/Å) at the end of the way to a minimum."""
TOO_CLOSE = 0.6
"""Sums of covalent radii, where relaxing ends: a random network may pull atoms into each other."""
DRIFT_BOUND = 0.1
"""meV/atom/ps of a run of 1 ps or more; over a shorter one, the energy may change by so many meV/atom."""

Series = tuple[FloatArray, FloatArray]
"""Times (ps) and total energies (eV)."""


@dataclass(frozen=True)
class Run:
    """What every engine starts from."""

    atoms: ase.Atoms
    """Relaxed, with velocities."""
    time_step: float
    """ps."""
    steps: int


def prepare(atoms: ase.Atoms, calculator: Any, steps: int | None = None) -> Run:
    """Relax ``atoms`` and give them velocities, the same each time."""
    relaxed = atoms.copy()
    relaxed.calc = calculator
    optimiser = FIRE(relaxed, logfile=None, maxstep=RELAXATION_LEAP)
    last = relaxed.positions.copy()
    for _ in optimiser.irun(fmax=RELAXED, steps=RELAXATION_STEPS):
        if _closest(relaxed) < TOO_CLOSE:
            break
        last = relaxed.positions.copy()
    start = ase.Atoms(atoms.numbers, last, cell=atoms.cell, pbc=atoms.pbc)
    widths = np.sqrt(start.get_masses() * units.kB * TEMPERATURE)
    momenta = widths[:, None] * np.random.default_rng(SEED).standard_normal((len(start), 3))
    start.set_momenta(momenta - momenta.mean(axis=0))
    if steps is None:
        steps = max(SHORTEST, min(LONGEST, ATOM_STEPS // len(atoms)))
    return Run(start, TIME_STEP if 1 in atoms.numbers else TIME_STEP_WITHOUT_HYDROGEN, steps)


def in_ase(run: Run, calculator: Any) -> Series:
    """ASE's velocity Verlet."""
    atoms = run.atoms.copy()
    atoms.calc = calculator
    integrator = VelocityVerlet(atoms, timestep=1000.0 * run.time_step * units.fs)
    energies = []
    integrator.attach(lambda: energies.append(atoms.get_total_energy()), interval=STRIDE)
    integrator.run(run.steps)
    return STRIDE * run.time_step * np.arange(float(len(energies))), np.array(energies)


def in_lammps(run: Run, model: Path, precision: Precision, device: str = "cpu") -> Series:
    """LAMMPS' fix nve on one rank."""
    return lammps.dynamics(model, run.atoms, precision, run.time_step, run.steps, STRIDE, device)


def in_openmm(run: Run, model: Path, precision: Precision, device: str = "cpu") -> Series:
    """OpenMM's Verlet integrator; its energies are those of whole steps."""
    require_openmm(run.atoms)
    from openmm import unit

    context = openmm_context(model, run.atoms, precision, run.time_step, device)
    velocities = run.atoms.get_velocities() * (1000.0 * units.fs) / 10.0
    context.setVelocities(velocities * unit.nanometer / unit.picosecond)
    # OpenMM keeps velocities half a step before the positions.
    forces = context.getState(forces=True).getForces(asNumpy=True)
    acceleration = (
        forces.value_in_unit(unit.kilojoule_per_mole / unit.nanometer) / (run.atoms.get_masses()[:, None])
    )
    context.setVelocities(velocities - 0.5 * run.time_step * np.asarray(acceleration))
    times, energies = [], []
    for step in range(0, run.steps + 1, STRIDE):
        if step:
            context.getIntegrator().step(STRIDE)
        state = context.getState(energy=True)
        total = state.getPotentialEnergy() + state.getKineticEnergy()
        times.append(step * run.time_step)
        energies.append(total.value_in_unit(unit.kilojoule_per_mole) * units.kJ / units.mol)
    return np.array(times), np.array(energies)


def drift_check(name: str, precision: Precision, series: Series, atoms: int) -> Check:
    """The slope of the total energy in time, beside how much it fluctuates about it."""
    times, energies = series
    drift, fluctuation = drift_of(times, 1000.0 * energies / atoms)
    note = f"fluctuation {fluctuation:.2g} meV/atom in {times[-1] if len(times) else 0.0:.2g} ps"
    bound = DRIFT_BOUND / min(1.0, float(times[-1])) if len(times) > 1 else DRIFT_BOUND
    return Check("energy drift", name, precision, "drift", abs(drift), bound, "meV/atom/ps", note)


def drift_of(times: FloatArray, energies: FloatArray) -> tuple[float, float]:
    """Slope of ``energies`` in time, and their standard deviation from the straight line; NaN of too few."""
    if len(times) < 3 or not np.isfinite(energies).all():
        return float("nan"), float("nan")
    line = np.polynomial.Polynomial.fit(times, energies, 1).convert()
    return float(line.coef[1]) if len(line.coef) > 1 else 0.0, float(np.std(energies - line(times)))


def _closest(atoms: ase.Atoms) -> float:
    """Smallest distance of two atoms, in sums of their covalent radii."""
    if len(atoms) < 2:
        return float("inf")
    radii = covalent_radii[atoms.numbers]
    distances = atoms.get_all_distances(mic=bool(atoms.pbc.any()))
    np.fill_diagonal(distances, np.inf)
    return float((distances / (radii[:, None] + radii[None])).min())
