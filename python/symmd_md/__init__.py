"""SymMD: molecular dynamics with a symmetry-equivariant transformer potential.

Units everywhere in Python: energies in eV, lengths in Å, forces in eV/Å, stress in eV/Å³ (ASE's sign).
"""

__version__ = "0.1.0"
