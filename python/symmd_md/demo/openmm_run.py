"""The run in OpenMM: bias by PLUMED, or by app.Metadynamics, whose hills are written in PLUMED's form too."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import openmm
from openmm import app, unit

from symmd_md.demo.progress import SimulationProgress
from symmd_md.demo.settings import (
    COLVAR,
    GRID,
    HILLS,
    NAMES,
    PERIOD,
    PLUMED_INPUT,
    PLUMED_LOG,
    TRAJECTORY,
    DemoSettings,
    Result,
    plumed_input,
)
from symmd_md.errors import SymmdError
from symmd_md.free_energy.grid import GAS_CONSTANT
from symmd_md.free_energy.hills import PLAIN, hills_constants
from symmd_md.free_energy.tables import bound_text
from symmd_md.molecules import ALANINE_DIPEPTIDE_SYMBOLS, PHI, PSI, alanine_dipeptide_positions
from symmd_md.openmm import SymmdForce

RELAXATION_STEPS, RELAXATION_FRICTION = 1000, 50.0
"""Steps and friction (1/ps) of the motion without temperature that leads to the nearest minimum."""
MOST_STEPS_AT_ONCE = 1000
"""Steps between two looks at the clock."""


def run_openmm(model: Path, folder: Path, settings: DemoSettings, kernel: str | None) -> Result:
    """Simulate in ``folder``; ``kernel``: PLUMED's, None for app.Metadynamics."""
    try:
        return _simulated(model, folder, settings, kernel)
    except openmm.OpenMMException as error:
        raise SymmdError(f"OpenMM ended with: {' '.join(str(error).split())}") from error


def _simulated(model: Path, folder: Path, settings: DemoSettings, kernel: str | None) -> Result:
    topology = molecule_topology()
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    system.addForce(SymmdForce(model, topology, precision="single", threads=settings.threads))
    system.addForce(openmm.CMMotionRemover(100))
    positions = relaxed(system, topology, settings)

    metadynamics: app.Metadynamics | None = None
    plumed: Any = None
    if kernel is None:
        route, metadynamics = "OpenMM's app.Metadynamics", metadynamics_of(system, settings)
    else:
        from symmd_md.openmm import PlumedForce

        route = "PLUMED"
        script = plumed_input(settings, PHI, PSI)
        (folder / PLUMED_INPUT).write_text(script, encoding="utf-8")
        for name in (HILLS, COLVAR):
            script = script.replace(f"FILE={name}", f"FILE={{{folder / name}}}")
        plumed = PlumedForce(script, kernel, settings.temperature, log=folder / PLUMED_LOG)
        system.addForce(plumed)
    simulation = simulation_of(system, topology, settings, settings.temperature, settings.friction)
    simulation.context.setPositions(positions)
    simulation.context.setVelocitiesToTemperature(settings.temperature, settings.seed)
    with ExitStack() as files:

        def opened(name: str) -> TextIO:
            return files.enter_context((folder / name).open("w", encoding="utf-8"))

        frames = _Frames(opened(TRAJECTORY), settings.frame_stride)
        frames.report(simulation, simulation.context.getState(positions=True))
        simulation.reporters.append(frames)
        if metadynamics is not None:
            group = system.getForce(system.getNumForces() - 1).getForceGroup()
            rows = _HillsAndRows(metadynamics, group, opened(HILLS), opened(COLVAR), settings)
            rows.write_row(simulation)
            simulation.reporters.append(rows)
        progress = files.enter_context(
            SimulationProgress(
                f"OpenMM with {route}", settings.steps, settings.time_step, settings.most_seconds
            )
        )
        while simulation.currentStep < settings.steps and not progress.out_of_time:
            count = min(MOST_STEPS_AT_ONCE, settings.steps - simulation.currentStep)
            if metadynamics is None:
                simulation.step(count)
            else:
                metadynamics.step(simulation, count)
            progress.update(simulation.currentStep)
        seconds = progress.seconds
    if plumed is not None:
        plumed.close()  # what it has not written yet goes into its files
    return Result("openmm", route, simulation.currentStep, seconds, settings)


def molecule_topology() -> app.Topology:
    topology = app.Topology()
    residue = topology.addResidue("ALA", topology.addChain())
    for index, symbol in enumerate(ALANINE_DIPEPTIDE_SYMBOLS, 1):
        topology.addAtom(f"{symbol}{index}", app.Element.getBySymbol(symbol), residue)
    return topology


def simulation_of(
    system: openmm.System,
    topology: app.Topology,
    settings: DemoSettings,
    temperature: float,
    friction: float,
) -> app.Simulation:
    """Langevin dynamics on the platform Reference, whose overhead is least for so few atoms."""
    integrator = openmm.LangevinMiddleIntegrator(
        temperature * unit.kelvin,
        friction / unit.picosecond,
        settings.time_step * unit.picosecond,
    )
    integrator.setRandomNumberSeed(settings.seed)
    return app.Simulation(topology, system, integrator, openmm.Platform.getPlatform("Reference"))


def relaxed(system: openmm.System, topology: app.Topology, settings: DemoSettings) -> Any:
    """The minimum C7eq, before there is a bias.

    By damped motion: the line search of a minimiser may leap to where no atom has a neighbour, which no model
    has learned.
    """
    simulation = simulation_of(system, topology, settings, 0.0, RELAXATION_FRICTION)
    simulation.context.setPositions(0.1 * alanine_dipeptide_positions())
    simulation.step(RELAXATION_STEPS)
    return simulation.context.getState(positions=True).getPositions(asNumpy=True)


def metadynamics_of(system: openmm.System, settings: DemoSettings) -> app.Metadynamics:
    variables = []
    for atoms in (PHI, PSI):
        dihedral = openmm.CustomTorsionForce("theta")
        dihedral.addTorsion(*atoms)
        # Both ends of the period are points of OpenMM's grid.
        variables.append(app.BiasVariable(dihedral, *PERIOD, settings.width, True, GRID + 1))
    return app.Metadynamics(
        system,
        variables,
        settings.temperature * unit.kelvin,
        settings.bias_factor,
        settings.height * unit.kilojoule_per_mole,
        settings.stride,
    )


class _Frames:
    """Positions (Å) as XYZ, which every viewer reads."""

    def __init__(self, file: TextIO, stride: int) -> None:
        self.file, self.stride = file, stride

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """Which step comes next, and what is needed then."""
        steps = self.stride - simulation.currentStep % self.stride
        return {"steps": steps, "periodic": False, "include": ["positions"]}

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Write one frame."""
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        lines = [str(len(positions)), f"step={simulation.currentStep}"]
        for symbol, (x, y, z) in zip(ALANINE_DIPEPTIDE_SYMBOLS, positions, strict=True):
            lines.append(f"{symbol} {x:.6f} {y:.6f} {z:.6f}")
        self.file.write("\n".join(lines) + "\n")


class _HillsAndRows:
    """HILLS and COLVAR in PLUMED's form; reporters see the bias as it is before the step's hill."""

    def __init__(
        self,
        metadynamics: app.Metadynamics,
        group: int,
        hills: TextIO,
        rows: TextIO,
        settings: DemoSettings,
    ) -> None:
        self.metadynamics, self.group, self.hills, self.rows = metadynamics, group, hills, rows
        self.settings = settings
        periods = [PERIOD] * len(NAMES)
        sigmas = " ".join(f"sigma_{name}" for name in NAMES)
        hills.write(f"#! FIELDS time {' '.join(NAMES)} {sigmas} height biasf\n")
        rows.write(f"#! FIELDS time {' '.join(NAMES)} metad.bias\n")
        for name, value in hills_constants(NAMES, periods, PLAIN).items():
            hills.write(f"#! SET {name} {value}\n")
        for name, period in zip(NAMES, periods, strict=True):
            rows.write(f"#! SET min_{name} {bound_text(period[0])}\n")
            rows.write(f"#! SET max_{name} {bound_text(period[1])}\n")

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """Which step comes next, and what is needed then."""
        return {"steps": self.settings.stride - simulation.currentStep % self.settings.stride, "include": []}

    def write_row(self, simulation: app.Simulation) -> tuple[str, float]:
        """Write time, variables and bias into COLVAR; the first two as text, and the bias (kJ/mol)."""
        values = self.metadynamics.getCollectiveVariables(simulation)
        energy = simulation.context.getState(energy=True, groups={self.group}).getPotentialEnergy()
        bias = energy.value_in_unit(unit.kilojoule_per_mole)
        place = f"{simulation.currentStep * self.settings.time_step:.6f}"
        place += "".join(f" {value:.9f}" for value in values)
        self.rows.write(f" {place} {bias:.9f}\n")
        return place, bias

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Write a row, and the hill that app.Metadynamics is about to add."""
        place, bias = self.write_row(simulation)
        height = self.settings.height * math.exp(-bias / (GAS_CONSTANT * self.settings.bias_temperature))
        # PLUMED writes heights times γ/(γ−1), so that their sum is the free energy.
        factor = self.settings.bias_factor
        widths = " ".join(f"{self.settings.width:g}" for _ in NAMES)
        self.hills.write(f" {place} {widths} {height * factor / (factor - 1.0):.9f} {factor:g}\n")
