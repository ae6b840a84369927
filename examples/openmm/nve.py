"""Constant energy from a structure file: python nve.py model.pt structure.xyz

The total energy in the table stays the same up to the fluctuation of the integrator, which is the first
thing to look at with a new model.
"""

import argparse
import sys

import openmm
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

topology, system, positions = system_from(
    arguments.structure, arguments.model, precision=arguments.precision, threads=arguments.threads
)
integrator = openmm.VerletIntegrator(arguments.timestep * unit.femtosecond)
platform = openmm.Platform.getPlatformByName(arguments.platform)
simulation = app.Simulation(topology, system, integrator, platform)
simulation.context.setPositions(positions)
# A few steps only: the structure shall stay near what was given.
simulation.minimizeEnergy(maxIterations=20)
simulation.context.setVelocitiesToTemperature(arguments.temperature * unit.kelvin)

steps = round(arguments.picoseconds * unit.picosecond / integrator.getStepSize())
simulation.reporters = [
    app.StateDataReporter(
        sys.stdout, arguments.every, time=True, potentialEnergy=True, kineticEnergy=True, totalEnergy=True,
        temperature=True, progress=True, remainingTime=True, speed=True, totalSteps=steps, separator="\t",
    ),
    app.DCDReporter(f"{arguments.output}.dcd", arguments.every),
]  # fmt: skip
simulation.step(steps)
simulation.saveState(f"{arguments.output}.xml")
