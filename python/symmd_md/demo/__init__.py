"""``symmd demo``: metadynamics of alanine dipeptide with the model that ships, through OpenMM or LAMMPS."""

from symmd_md.demo.command import run_demo
from symmd_md.demo.settings import LONG, DemoSettings, Result

__all__ = ["LONG", "DemoSettings", "Result", "run_demo"]
