"""From a structure file to what OpenMM simulates. Files are in Å, what is returned has OpenMM's units."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import openmm
import openmm.app
from openmm import unit

from symmd_md.errors import DataError
from symmd_md.lattice import reduced_box
from symmd_md.openmm.force import SymmdForce

if TYPE_CHECKING:
    import ase

PROTEIN_FORMATS = {
    ".pdb": openmm.app.PDBFile,
    ".cif": openmm.app.PDBxFile,
    ".mmcif": openmm.app.PDBxFile,
    ".pdbx": openmm.app.PDBxFile,
}
"""Read by OpenMM, with residues and bonds; everything else is ASE's."""


class Read(NamedTuple):
    """What a structure says."""

    topology: openmm.app.Topology
    positions: unit.Quantity
    """[atoms, 3] nm"""
    masses: list[float]
    """Daltons; 0 holds an atom in its place."""


class Simulated(NamedTuple):
    """What ``openmm.app.Simulation`` and a Context are made of."""

    topology: openmm.app.Topology
    system: openmm.System
    positions: unit.Quantity
    """[atoms, 3] nm"""


def system_from(
    structure: str | os.PathLike[str] | ase.Atoms, model: str | os.PathLike[str], **settings: Any
) -> Simulated:
    """A System of all atoms of a structure under a model.

    ``structure``: a file, or ASE's atoms; of several frames the last one counts. Residues and bonds come
    from PDB and PDBx files, others have none, nor has a PDB file that names several atoms of a residue alike.
    A cell is turned and reduced into the shape that OpenMM demands, with the atoms in it. Masses are those of
    the structure; atoms that ASE holds in place (``FixAtoms``) get mass 0, with which OpenMM does the same.
    Velocities stay behind. ``settings`` are those of ``SymmdForce``, but for ``atoms``. Without bonds, a
    barostat moves atoms one by one.
    """
    if "atoms" in settings:
        raise DataError(
            "system_from puts all atoms under the model, found atoms=..., which would leave the others "
            "without any force; make the System with a force field and add SymmdForce(model, topology, atoms)"
        )
    if isinstance(structure, (str, os.PathLike)):
        path = Path(structure)
        if not path.is_file():
            raise DataError(f"{path}: expected a structure file, found nothing; check the path")
        reader = PROTEIN_FORMATS.get(path.suffix.lower())
        read = _read_by_openmm(path, reader) if reader else None
        topology, positions, masses = read or _from_ase(_read_by_ase(path))
    else:
        topology, positions, masses = _from_ase(structure)
    force = SymmdForce(model, topology, **settings)
    system = openmm.System()
    for mass in masses:
        system.addParticle(mass)
    box = topology.getPeriodicBoxVectors()
    if box is not None:
        system.setDefaultPeriodicBoxVectors(*box)
    system.addForce(force)
    return Simulated(topology, system, positions)


def _read_by_openmm(path: Path, reader: Any) -> Read | None:
    """None for a file that has its suffix and cannot be read by OpenMM: it is for ASE."""
    # A CIF file of a crystal has other items than the mmCIF file of a protein.
    if reader is openmm.app.PDBxFile and "_atom_site." not in path.read_text(errors="replace"):
        return None
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            file = reader(str(path))
    except Exception as error:  # readers raise whatever their parsing raises
        raise DataError(f"{path} cannot be read as a structure: {error}") from None
    # Programs that know no residues name atoms by their elements; OpenMM keeps one of each name.
    if any("duplicate atom" in str(warning.message) for warning in said):
        return None
    for warning in said:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    masses = []
    for atom in file.topology.atoms():
        if atom.element is None:
            raise DataError(
                f"{path}: expected an element for every atom, found none for atom {atom.index} "
                f"({atom.name} of {atom.residue.name}), as virtual sites have none; make the System with a "
                "force field and add SymmdForce(model, topology, atoms)"
            )
        masses.append(atom.element.mass.value_in_unit(unit.dalton))
    last = file.getNumFrames() - 1
    return Read(file.topology, file.getPositions(asNumpy=True, frame=last), masses)


def _read_by_ase(path: Path) -> ase.Atoms:
    try:
        import ase.io
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"reading {path} needs the Python package 'ase', which is not installed; "
            "install it with: pip install ase",
            name="ase",
        ) from None
    try:
        atoms = ase.io.read(path, index=-1)
    except Exception as error:  # ASE's readers raise whatever their parsing raises
        raise DataError(f"{path} cannot be read as a structure: {error}") from None
    if isinstance(atoms, list):
        raise DataError(f"{path}: expected a structure with atoms, found none")
    return atoms


def _from_ase(atoms: ase.Atoms) -> Read:
    """With a topology of one residue without bonds."""
    periodic = atoms.pbc
    if periodic.any() and not periodic.all():
        raise DataError(
            f"OpenMM has boxes that are periodic along three axes or none, found pbc {periodic.tolist()}; "
            "make all axes periodic, with vacuum along the open ones"
        )
    topology = openmm.app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    for index, number in enumerate(atoms.numbers):
        if number == 0:
            raise DataError(f"atom {index} has no element (X); remove it")
        element = openmm.app.Element.getByAtomicNumber(int(number))
        topology.addAtom(f"{element.symbol}{index + 1}", element, residue)
    positions = atoms.positions
    if periodic.all():
        vectors, rotation = reduced_box(atoms.cell.array)
        positions = positions @ rotation
        topology.setPeriodicBoxVectors([openmm.Vec3(*row) for row in vectors / 10.0] * unit.nanometer)
    return Read(topology, unit.Quantity(positions / 10.0, unit.nanometer), _masses(atoms))


def _masses(atoms: ase.Atoms) -> list[float]:
    masses = atoms.get_masses()
    for constraint in atoms.constraints:
        if type(constraint).__name__ != "FixAtoms":
            raise DataError(
                f"expected no constraint but FixAtoms, found {type(constraint).__name__}, which would be "
                "lost; give ase.Atoms without it, and add what OpenMM has for it to the System"
            )
        masses[constraint.get_indices()] = 0.0
    return [float(mass) for mass in masses]
