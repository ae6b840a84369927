"""Well-tempered metadynamics of alanine dipeptide in OpenMM, its bias by PLUMED:

    python metad_plumed.py model.pt --picoseconds 500

Writes HILLS and COLVAR (plumed.dat says what), plumed.log and a trajectory.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from openmm import LangevinMiddleIntegrator, Platform, app, unit

from symmd_md.openmm import PlumedForce, system_from

FOLDER = Path(__file__).resolve().parent


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
    bias = PlumedForce(FOLDER / "plumed.dat", temperature=temperature)
    start.system.addForce(bias)

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
    simulation.step(steps)
    bias.close()  # the last lines of HILLS and COLVAR


if __name__ == "__main__":
    main()
