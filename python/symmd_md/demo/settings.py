"""What is simulated: alanine dipeptide in vacuum, biased along its two dihedrals. kJ/mol, ps, rad, K."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from symmd_md.free_energy.grid import GAS_CONSTANT

NAMES = ("phi", "psi")
PERIOD = (-math.pi, math.pi)
GRID = 120
"""Steps of the bias' grid along each dihedral: 3°."""

TRAJECTORY, HILLS, COLVAR = "trajectory.xyz", "HILLS", "COLVAR"
PLUMED_INPUT, PLUMED_LOG = "plumed.dat", "plumed.log"

Progress = Callable[[int], None]
"""Told how many steps are done."""


@dataclass(frozen=True)
class DemoSettings:
    """Length and bias of the run."""

    steps: int = 1_000_000
    time_step: float = 0.001
    """ps; C–H bonds vibrate in 11 fs."""
    temperature: float = 300.0
    """K"""
    friction: float = 2.0
    """1/ps, of Langevin dynamics."""
    stride: int = 100
    """Steps between hills and between rows of COLVAR."""
    frame_stride: int = 1000
    """Steps between frames of the trajectory."""
    height: float = 1.2
    """kJ/mol, of the first hill."""
    width: float = 0.35
    """rad, standard deviation of a hill."""
    bias_factor: float = 6.0
    """γ: the dihedrals move as if they were at γ times the temperature."""
    most_seconds: float | None = 150.0
    """The run ends after this time even if steps are left."""
    seed: int = 1
    threads: int = 2

    @property
    def thermal(self) -> float:
        """k_B T (kJ/mol)."""
        return GAS_CONSTANT * self.temperature

    @property
    def bias_temperature(self) -> float:
        """ΔT = (γ−1) T (K)."""
        return (self.bias_factor - 1.0) * self.temperature


LONG = DemoSettings(steps=10_000_000, most_seconds=None)
"""10 ns, whatever time they take."""


@dataclass(frozen=True)
class Result:
    """What a run says about itself; everything else it has written into its folder."""

    engine: str
    """openmm or lammps"""
    route: str
    """What added the bias."""
    steps: int
    """Steps that were made."""
    seconds: float
    """Of wall time, for these steps alone."""
    settings: DemoSettings

    @property
    def nanoseconds(self) -> float:
        return self.steps * self.settings.time_step * 1e-3

    @property
    def nanoseconds_per_day(self) -> float:
        return self.nanoseconds / self.seconds * 86400.0


def plumed_input(settings: DemoSettings, phi: tuple[int, ...], psi: tuple[int, ...]) -> str:
    """PLUMED's script of the run; atoms of the dihedrals are counted from 0 here, from 1 there."""

    def atoms(indices: tuple[int, ...]) -> str:
        return ",".join(str(index + 1) for index in indices)

    s = settings
    return f"""\
# Written by symmd demo. Units: kJ/mol, nm, ps, rad.
phi: TORSION ATOMS={atoms(phi)}
psi: TORSION ATOMS={atoms(psi)}
metad: METAD ...
  ARG=phi,psi PACE={s.stride} HEIGHT={s.height} SIGMA={s.width},{s.width}
  BIASFACTOR={s.bias_factor:g} TEMP={s.temperature:g} FILE={HILLS}
  GRID_MIN=-pi,-pi GRID_MAX=pi,pi GRID_BIN={GRID},{GRID} CALC_RCT
...
PRINT ARG=phi,psi,metad.bias,metad.rbias FILE={COLVAR} STRIDE={s.stride}
"""
