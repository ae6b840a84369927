"""Starting structures of alanine dipeptide (ACE-ALA-NME, 22 atoms): ``python start.py start.xyz``.

The molecule is built from bond lengths, angles and dihedrals, turned to places on the (φ, ψ) plane, and
relaxed with GFN2-xTB for at most 60 steps; where a place is no minimum, that ends on the way to one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ase import Atoms
from ase.optimize import LBFGS

from symmd_md.analysis.bench_structures import alanine_dipeptide
from symmd_md.files import write_atomically
from symmd_md.sample.frames import frame_text
from symmd_md.sample.methods import Method
from symmd_md.sample.restraint import bonds, dihedral_angle, turn_dihedral

PHI, PSI = (1, 3, 4, 5), (3, 4, 5, 7)
PLACES = {
    "C7eq": (-80.0, 75.0),
    "C7ax": (70.0, -60.0),
    "C5": (-155.0, 160.0),
    "alpha_R": (-75.0, -20.0),
    "alpha_L": (60.0, 35.0),
}
"""Degrees."""
RELAXATION_STEPS = 60
RELAXED_FORCE = 0.02
"""eV/Å."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    built = alanine_dipeptide()
    numbers = built.numbers.astype(int)
    bonded = bonds(numbers, built.positions)
    text = ""
    for name, (phi, psi) in PLACES.items():
        positions = turn_dihedral(built.positions, bonded, PHI, phi)
        positions = turn_dihedral(positions, bonded, PSI, psi)
        atoms = Atoms(numbers=numbers, positions=positions)
        atoms.calc = Method("GFN2-xTB").calculator()
        LBFGS(atoms, logfile=None).run(fmax=RELAXED_FORCE, steps=RELAXATION_STEPS)
        if (bonds(numbers, atoms.positions) != bonded).any():
            raise SystemExit(f"{name}: the relaxation changed the bonds")
        angles = [dihedral_angle(atoms.positions, dihedral) for dihedral in (PHI, PSI)]
        energy = atoms.get_potential_energy()
        print(f"{name:8s} φ {angles[0]:7.1f}°  ψ {angles[1]:7.1f}°  {energy:12.4f} eV")
        text += frame_text(numbers, atoms.positions, {"conformer": name})
    write_atomically(output, text.encode("utf-8"))


if __name__ == "__main__":
    main()
