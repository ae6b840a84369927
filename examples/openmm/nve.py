"""Constant energy from a structure file: python nve.py model.pt structure.xyz

The total energy in the table stays the same up to the fluctuation of the integrator, which is the first
thing to look at with a new model. The run ends with a sentence when the model does not hold the structure
together.
"""

import argparse
import sys

import numpy as np
import openmm
from ase import Atoms
from ase.neighborlist import natural_cutoffs, neighbor_list
from openmm import app, unit

from symmd_md.openmm import system_from

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="what symmd export wrote")
parser.add_argument("structure", help="xyz, extended xyz, pdb, cif, or whatever ASE reads")
parser.add_argument("--temperature", type=float, default=300.0, help="of the velocities at the beginning (K)")
parser.add_argument("--timestep", type=float, default=0.5, help="fs")
parser.add_argument("--picoseconds", type=float, default=5.0, help="length of the simulation")
parser.add_argument("--every", type=int, default=100, help="steps between lines of the table and frames")
parser.add_argument("--precision", choices=("mixed", "double"), default="mixed")
parser.add_argument("--threads", type=int, default=0, help="0: as many as OpenMP takes")
parser.add_argument("--platform", default="CPU")
parser.add_argument("--output", default="nve", help="beginning of the names of what is written")
arguments = parser.parse_args()

# OpenMM's minimiser begins with a move of 0.02 nm, far enough to carry hydrogens through their neighbours.
RELAXATION_STEPS, LARGEST_MOVE = 200, 0.0005
"""LARGEST_MOVE in nm, of a step along an axis."""
BONDS_BETWEEN = 0.85, 1.3
"""Lengths after the relaxation, in those before."""


def relaxed(system: openmm.System, positions: unit.Quantity, platform: openmm.Platform) -> unit.Quantity:
    """Positions after short moves along the forces with friction, which stay near what was given."""
    integrator = openmm.CustomIntegrator(0.5 * unit.femtosecond)
    integrator.addGlobalVariable("largest", LARGEST_MOVE)
    integrator.addComputePerDof("v", "0.9*v + dt*f/m")
    integrator.addComputePerDof("x", "x + max(-largest, min(largest, dt*v))")
    context = openmm.Context(system, integrator, platform)
    context.setPositions(positions)
    integrator.step(RELAXATION_STEPS)
    return context.getState(positions=True).getPositions(asNumpy=True)


def check_bonds(topology: app.Topology, before: unit.Quantity, after: unit.Quantity) -> None:
    """End the program where neighbours of the structure moved into or away from each other."""
    box = topology.getPeriodicBoxVectors()
    atoms = Atoms(
        [atom.element.atomic_number for atom in topology.atoms()],
        before.value_in_unit(unit.angstrom),
        cell=None if box is None else box.value_in_unit(unit.angstrom),
        pbc=box is not None,
    )
    first, second, lengths, vectors = neighbor_list("ijdD", atoms, natural_cutoffs(atoms, mult=1.2))
    moved = (after - before).value_in_unit(unit.angstrom)
    now = np.linalg.norm(vectors + moved[second] - moved[first], axis=1)
    for k in np.flatnonzero((now < BONDS_BETWEEN[0] * lengths) | (now > BONDS_BETWEEN[1] * lengths))[:1]:
        sys.exit(
            f"the model does not hold this structure: expected neighbours to stay, found atoms {first[k]} "
            f"and {second[k]} go from {lengths[k]:.2f} to {now[k]:.2f} Å in a short relaxation; check the "
            "structure and its unit, and whether the model was trained for such structures"
        )


class TemperatureLimit:
    """A reporter that ends the program where a simulation has become much hotter than it began."""

    def __init__(self, every: int, kelvin: float, freedoms: int) -> None:
        self.every, self.kelvin, self.freedoms = every, kelvin, max(freedoms, 1)

    def describeNextReport(self, simulation: app.Simulation) -> dict:
        """What OpenMM asks reporters for before each step."""
        return {
            "steps": self.every - simulation.currentStep % self.every,
            "periodic": None,
            "include": ["energy"],
        }

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Called by OpenMM."""
        kelvin = 2.0 * state.getKineticEnergy() / (self.freedoms * unit.MOLAR_GAS_CONSTANT_R)
        if not kelvin.value_in_unit(unit.kelvin) < self.kelvin:
            sys.exit(
                f"the simulation has blown up: expected less than {self.kelvin:.0f} K, found "
                f"{kelvin.value_in_unit(unit.kelvin):.3g} K at step {simulation.currentStep}; take a shorter "
                "--timestep, or train the model with structures as they occur here"
            )


topology, system, positions = system_from(
    arguments.structure, arguments.model, precision=arguments.precision, threads=arguments.threads
)
platform = openmm.Platform.getPlatformByName(arguments.platform)
given, positions = positions, relaxed(system, positions, platform)
check_bonds(topology, given, positions)

integrator = openmm.VerletIntegrator(arguments.timestep * unit.femtosecond)
simulation = app.Simulation(topology, system, integrator, platform)
simulation.context.setPositions(positions)
simulation.context.setVelocitiesToTemperature(arguments.temperature * unit.kelvin)

steps = round(arguments.picoseconds * unit.picosecond / integrator.getStepSize())
moving = sum(system.getParticleMass(k) > 0 * unit.dalton for k in range(system.getNumParticles()))
simulation.reporters = [
    app.StateDataReporter(
        sys.stdout, arguments.every, time=True, potentialEnergy=True, kineticEnergy=True, totalEnergy=True,
        temperature=True, progress=True, remainingTime=True, speed=True, totalSteps=steps, separator="\t",
    ),
    app.DCDReporter(f"{arguments.output}.dcd", arguments.every),
    # Atoms share what is left over from the relaxation, and few atoms fluctuate much.
    TemperatureLimit(arguments.every, 5.0 * max(arguments.temperature, 300.0), 3 * moving),
]  # fmt: skip
simulation.step(steps)
simulation.saveState(f"{arguments.output}.xml")
