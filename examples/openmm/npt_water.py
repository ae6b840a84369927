"""Water at constant pressure: python npt_water.py model.pt

A box of water is made and relaxed with TIP3P, then simulated with the model, which must know H and O and
should have been trained with stresses. The bonds of the topology let the barostat move each molecule as a
whole.
"""

import argparse
import sys

import openmm
from openmm import app, unit

from symmd_md.openmm import SymmdForce

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="what symmd export wrote")
parser.add_argument("--edge", type=float, default=1.9, help="of the cubic box (nm)")
parser.add_argument("--temperature", type=float, default=300.0, help="K")
parser.add_argument("--pressure", type=float, default=1.0, help="bar")
parser.add_argument("--timestep", type=float, default=0.5, help="fs")
parser.add_argument("--picoseconds", type=float, default=20.0, help="length of the simulation")
parser.add_argument("--every", type=int, default=100, help="steps between lines of the table and frames")
parser.add_argument("--threads", type=int, default=0, help="0: as many as OpenMP takes")
parser.add_argument("--platform", default="CPU")
parser.add_argument("--output", default="npt", help="beginning of the names of what is written")
arguments = parser.parse_args()
temperature = arguments.temperature * unit.kelvin
platform = openmm.Platform.getPlatformByName(arguments.platform)


def relaxed(topology: app.Topology, positions: unit.Quantity, classical: app.ForceField) -> unit.Quantity:
    """Positions after some steps with a classical force field, from which a model can go on."""
    cutoff = 0.45 * arguments.edge * unit.nanometer
    system = classical.createSystem(topology, nonbondedMethod=app.PME, nonbondedCutoff=cutoff)
    integrator = openmm.LangevinMiddleIntegrator(temperature, 5 / unit.picosecond, 1 * unit.femtosecond)
    simulation = app.Simulation(topology, system, integrator, platform)
    simulation.context.setPositions(positions)
    simulation.minimizeEnergy(maxIterations=100)
    simulation.step(200)
    return simulation.context.getState(positions=True).getPositions()


water = app.ForceField("amber14/tip3p.xml")
modeller = app.Modeller(app.Topology(), [] * unit.nanometer)
modeller.addSolvent(water, boxSize=openmm.Vec3(1, 1, 1) * arguments.edge * unit.nanometer)
topology = modeller.topology
positions = relaxed(topology, modeller.positions, water)

system = openmm.System()
for atom in topology.atoms():
    system.addParticle(atom.element.mass)
system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())
system.addForce(SymmdForce(arguments.model, topology, threads=arguments.threads))
system.addForce(openmm.MonteCarloBarostat(arguments.pressure * unit.bar, temperature, 25))

timestep = arguments.timestep * unit.femtosecond
integrator = openmm.LangevinMiddleIntegrator(temperature, 1 / unit.picosecond, timestep)
simulation = app.Simulation(topology, system, integrator, platform)
simulation.context.setPositions(positions)
simulation.minimizeEnergy(maxIterations=20)
simulation.context.setVelocitiesToTemperature(temperature)

steps = round(arguments.picoseconds * unit.picosecond / timestep)
simulation.reporters = [
    app.StateDataReporter(
        sys.stdout, arguments.every, time=True, potentialEnergy=True, temperature=True, volume=True,
        density=True, progress=True, remainingTime=True, speed=True, totalSteps=steps, separator="\t",
    ),
    app.DCDReporter(f"{arguments.output}.dcd", arguments.every),
    app.CheckpointReporter(f"{arguments.output}.checkpoint", 10 * arguments.every),
]  # fmt: skip
simulation.step(steps)
with open(f"{arguments.output}.pdb", "w") as file:
    state = simulation.context.getState(positions=True, enforcePeriodicBox=True)
    topology.setPeriodicBoxVectors(state.getPeriodicBoxVectors())
    app.PDBFile.writeFile(topology, state.getPositions(), file)
