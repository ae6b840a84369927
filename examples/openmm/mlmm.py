"""A molecule under the model in classical water: python mlmm.py model.pt

The molecule comes from a PDB file, alanine dipeptide unless another one is given, and is solvated with
OpenMM. openmmml lets the model compute what is inside of the molecule; the classical force field computes
everything else.
"""

import argparse
import sys
from pathlib import Path

import openmm
from openmm import app, unit
from openmmml import MLPotential

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="what symmd export wrote")
parser.add_argument(
    "--pdb",
    default=str(Path(__file__).with_name("alanine_dipeptide.pdb")),
    help="one molecule, with all atoms",
)
parser.add_argument("--padding", type=float, default=1.0, help="of water around the molecule (nm)")
parser.add_argument("--temperature", type=float, default=300.0, help="K")
parser.add_argument("--timestep", type=float, default=0.5, help="fs")
parser.add_argument("--picoseconds", type=float, default=5.0, help="length of the simulation")
parser.add_argument("--every", type=int, default=100, help="steps between lines of the table and frames")
parser.add_argument("--threads", type=int, default=0, help="of the model; 0: as many as OpenMP takes")
parser.add_argument("--platform", default="CPU")
parser.add_argument("--output", default="mlmm", help="beginning of the names of what is written")
arguments = parser.parse_args()
temperature = arguments.temperature * unit.kelvin

molecule = app.PDBFile(arguments.pdb)
learned = list(range(molecule.topology.getNumAtoms()))
classical = app.ForceField("amber14-all.xml", "amber14/tip3p.xml")
modeller = app.Modeller(molecule.topology, molecule.positions)
modeller.addSolvent(classical, padding=arguments.padding * unit.nanometer)
topology = modeller.topology

cutoff = min(1.0, 0.45 * topology.getUnitCellDimensions().x) * unit.nanometer
system = classical.createSystem(topology, nonbondedMethod=app.PME, nonbondedCutoff=cutoff)
potential = MLPotential("symmd", modelPath=arguments.model)
mixed = potential.createMixedSystem(topology, system, learned, threads=arguments.threads)

timestep = arguments.timestep * unit.femtosecond
integrator = openmm.LangevinMiddleIntegrator(temperature, 1 / unit.picosecond, timestep)
platform = openmm.Platform.getPlatformByName(arguments.platform)
simulation = app.Simulation(topology, mixed, integrator, platform)
simulation.context.setPositions(modeller.positions)
simulation.minimizeEnergy(maxIterations=100)
simulation.context.setVelocitiesToTemperature(temperature)

steps = round(arguments.picoseconds * unit.picosecond / timestep)
simulation.reporters = [
    app.StateDataReporter(
        sys.stdout, arguments.every, time=True, potentialEnergy=True, temperature=True, progress=True,
        remainingTime=True, speed=True, totalSteps=steps, separator="\t",
    ),
    app.DCDReporter(f"{arguments.output}.dcd", arguments.every),
]  # fmt: skip
simulation.step(steps)
with open(f"{arguments.output}.pdb", "w") as file:
    state = simulation.context.getState(positions=True, enforcePeriodicBox=True)
    app.PDBFile.writeFile(topology, state.getPositions(), file)
