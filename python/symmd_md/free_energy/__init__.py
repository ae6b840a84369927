"""Free-energy surfaces: from hills, by reweighting, their minima, barriers and paths. Energies in kJ/mol.

Variables are in the units of the files (dihedrals in rad with PLUMED, in degrees with COLVARS).
"""

from symmd_md.free_energy.comparison import Comparison, compare
from symmd_md.free_energy.grid import Axis, Surface, read_surface, thermal_energy, write_surface
from symmd_md.free_energy.hills import (
    Hills,
    bias_at,
    bias_of_the_moment,
    free_energy_of_hills,
    read_hills,
    sum_hills,
    write_hills,
)
from symmd_md.free_energy.landscape import Barrier, Landscape, Minimum, find_landscape, lowest_path
from symmd_md.free_energy.reweighting import Blocks, gather
from symmd_md.free_energy.tables import read_table, write_table

__all__ = [
    "Axis",
    "Barrier",
    "Blocks",
    "Comparison",
    "Hills",
    "Landscape",
    "Minimum",
    "Surface",
    "bias_at",
    "bias_of_the_moment",
    "compare",
    "find_landscape",
    "free_energy_of_hills",
    "gather",
    "lowest_path",
    "read_hills",
    "read_surface",
    "read_table",
    "sum_hills",
    "thermal_energy",
    "write_hills",
    "write_surface",
    "write_table",
]
