"""The metadynamics of metad_plumed.py without PLUMED, by OpenMM's own app.Metadynamics:

    python metad_builtin.py model.pt --picoseconds 500

Writes a trajectory and the free energy (kJ/mol), free_energy.npy, for

    symmd fes show free_energy.npy --period phi=-pi:pi --period psi=-pi:pi
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from openmm import CustomTorsionForce, LangevinMiddleIntegrator, Platform, app, unit

from symmd_md.openmm import system_from

FOLDER = Path(__file__).resolve().parent
PHI, PSI = (1, 3, 4, 5), (3, 4, 5, 7)
POINTS = 100


def variable(atoms: tuple[int, int, int, int]) -> app.BiasVariable:
    """A dihedral angle; PLUMED counts its atoms from 1, OpenMM from 0."""
    torsion = CustomTorsionForce("theta")
    torsion.addTorsion(*atoms)
    return app.BiasVariable(torsion, -np.pi, np.pi, 0.35, True, POINTS)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", help="an exported model")
    parser.add_argument("--picoseconds", type=float, default=500.0)
    parser.add_argument("--temperature", type=float, default=300.0, help="K")
    arguments = parser.parse_args()
    temperature = arguments.temperature * unit.kelvin

    # 22 atoms are too few for several threads, of the model or of OpenMM.
    start = system_from(FOLDER / "alanine.xyz", arguments.model, threads=1)
    bias = app.Metadynamics(
        start.system,
        [variable(PHI), variable(PSI)],
        temperature,
        biasFactor=8,
        height=1.2 * unit.kilojoules_per_mole,
        frequency=100,
    )
    integrator = LangevinMiddleIntegrator(temperature, 10 / unit.picosecond, 0.001 * unit.picoseconds)
    platform = Platform.getPlatformByName("CPU")
    simulation = app.Simulation(start.topology, start.system, integrator, platform, {"Threads": "1"})
    simulation.context.setPositions(start.positions)
    simulation.minimizeEnergy(maxIterations=200)
    simulation.context.setVelocitiesToTemperature(temperature)
    simulation.reporters.append(app.DCDReporter("metad.dcd", 1000))
    steps = round(arguments.picoseconds * 1000)
    columns = {"time": True, "temperature": True, "potentialEnergy": True, "speed": True}
    report = app.StateDataReporter(sys.stdout, 5000, progress=True, totalSteps=steps, **columns)
    simulation.reporters.append(report)
    bias.step(simulation, steps)

    np.save("free_energy.npy", bias.getFreeEnergy().value_in_unit(unit.kilojoules_per_mole))


if __name__ == "__main__":
    main()
