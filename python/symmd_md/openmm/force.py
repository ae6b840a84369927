"""SymmdForce: a model file as a force of OpenMM. Names of methods and units are in OpenMM's way."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable

from symmd_md.openmm.library import require_library

require_library()

import numpy as np  # noqa: E402
import openmm  # noqa: E402
import openmm.app  # noqa: E402
from openmm import unit  # noqa: E402

import symmd_md.openmm._forces as _forces  # noqa: E402
from symmd_md._engine import model_file_summary  # noqa: E402
from symmd_md.errors import DataError, ModelFileError  # noqa: E402
from symmd_md.models import model_path  # noqa: E402

EMPTY = '<Force type="SymmdForce" version="2"/>'


class SymmdForce(openmm.Force):
    """Energy and forces of a model file for the atoms of a topology, on every platform of OpenMM.

    ``model``: ``model.pt``, ``.safetensors`` or the name of a model that ships; the force keeps its content,
    also in XML. ``topology``: that of the System. ``atoms``: indices of the atoms that the model describes;
    None for all.
    ``precision``: "single" and "mixed" (fp32 arithmetic on fp64 differences of coordinates, fp64 energies)
    or "double". ``device``: where the engine computes, whatever the platform: "cpu", "cuda" (the first GPU)
    or "cuda:K". ``threads``: OpenMP threads, 0 for OpenMP's own number, fewer for a few atoms.
    ``periodic``: None takes it from the topology, which has a box or none. ``deterministic``: the same
    positions give the same bits whatever was computed before. ``scaleParameter``: the global parameter,
    1 in a new Context, that multiplies energy and forces.

    A System has a box of its own, which counts: ``system.setDefaultPeriodicBoxVectors`` gives it that of the
    topology. A Context refuses the cube of 2 nm that Systems begin with, unless the topology has it too.

    Bonds of the topology between ``atoms`` say which atoms are a molecule, for barostats and images; the
    energy does not depend on them.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        topology: openmm.app.Topology,
        atoms: Iterable[int] | None = None,
        *,
        precision: str = "mixed",
        device: str = "cpu",
        threads: int = 0,
        periodic: bool | None = None,
        deterministic: bool = False,
        scaleParameter: str = "symmd_scale",
        forceGroup: int = 0,
    ) -> None:
        self.this = openmm.XmlSerializer.deserialize(EMPTY).this
        box = topology.getPeriodicBoxVectors() is not None
        if periodic and not box:
            raise DataError(
                "a periodic SymmdForce needs a topology with a box, found one without; give it one with "
                "topology.setPeriodicBoxVectors, or say periodic=False"
            )
        self.setUsesPeriodicBoundaryConditions(box if periodic is None else periodic)
        self.setPrecision(precision)
        self.setDevice(device)
        self.setThreads(threads)
        self.setDeterministic(deterministic)
        self.setScaleParameterName(scaleParameter)
        self.setForceGroup(forceGroup)
        self.setModel(model)
        self.setAtoms(topology, atoms)

    @staticmethod
    def wrap(force: openmm.Force) -> SymmdForce:
        """The same object with these methods: ``system.getForce(k)`` returns a plain ``openmm.Force``."""
        if not isinstance(force, openmm.Force):
            raise DataError(f"expected a SymmdForce, found {type(force).__name__}; give system.getForce(k)")
        if not _forces.is_symmd(int(force.this)):
            raise DataError(f"expected a SymmdForce, found the force named {force.getName()!r}")
        force.__class__ = SymmdForce
        wrapped: SymmdForce = force
        return wrapped

    def setModel(self, model: str | os.PathLike[str]) -> None:
        """Take the content of a model file or a shipped model; ``updateParametersInContext`` brings it into a
        Context."""
        path, name = model_path(model), os.fspath(model)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ModelFileError(
                f"cannot read model file {path}: {error.strerror}; name a file that symmd export wrote"
            ) from None
        model_file_summary(content, name)  # refuses what is no model
        _forces.set_model(self._address, content, name)

    def getModel(self) -> bytes:
        """Content of the model file."""
        content: bytes = _forces.get_model(self._address)
        return content

    def getModelName(self) -> str:
        """What messages call the model: the path or name that was given."""
        name: str = _forces.get_model_name(self._address)
        return name

    def setAtoms(self, topology: openmm.app.Topology, atoms: Iterable[int] | None = None) -> None:
        """Act on these atoms of the topology, or on all; bonds between them are those of the topology.

        A Context refuses a System with fewer particles than the topology, or without its box.
        """
        everything = list(topology.atoms())
        chosen = None if atoms is None else [_index(atom) for atom in atoms]
        if chosen is None and not everything:
            raise DataError("SymmdForce needs at least one atom, found a topology without any")
        if chosen is not None and not chosen:
            raise DataError("SymmdForce needs at least one atom, found atoms=[]; None stands for all of them")
        known = model_file_summary(self.getModel(), self.getModelName())["header"]["species"]
        numbers = []
        for index in range(len(everything)) if chosen is None else chosen:
            if not 0 <= index < len(everything):
                raise DataError(
                    f"atoms must be indices from 0 to {len(everything) - 1} of the topology, found {index}"
                )
            element = everything[index].element
            if element is None:
                raise DataError(
                    f"particle {index} of the topology has no element, as virtual sites have none; "
                    "name the particles that are atoms with atoms=[...]"
                )
            if element.symbol not in known:
                raise DataError(
                    f"the model {self.getModelName()} knows {', '.join(known)}, found {element.symbol} at "
                    f"atom {index} of the topology; use a model that was trained with it"
                )
            numbers.append(element.atomic_number)
        _forces.set_atoms(self._address, numbers, chosen or [])
        vectors = topology.getPeriodicBoxVectors()
        box = [] if vectors is None else [list(vector) for vector in vectors.value_in_unit(unit.nanometer)]
        _forces.set_topology(self._address, len(everything), box)
        inside = set(range(len(everything)) if chosen is None else chosen)
        bonds = [(bond.atom1.index, bond.atom2.index) for bond in topology.bonds()]
        _forces.set_bonds(self._address, [bond for bond in bonds if inside.issuperset(bond)])

    def getAtoms(self) -> list[int] | None:
        """Indices of the particles that the force acts on; None for all."""
        particles: list[int] = _forces.get_particles(self._address)
        return particles or None

    def getAtomicNumbers(self) -> list[int]:
        """Of the particles that the force acts on."""
        numbers: list[int] = _forces.get_atomic_numbers(self._address)
        return numbers

    def getBonds(self) -> list[tuple[int, int]]:
        """Pairs of particles that belong to the same molecule."""
        bonds: list[tuple[int, int]] = _forces.get_bonds(self._address)
        return bonds

    def setPrecision(self, precision: str) -> None:
        """ "single", "mixed" or "double"."""
        _forces.set_precision(self._address, precision)

    def getPrecision(self) -> str:
        """ "single", "mixed" or "double"."""
        precision: str = _forces.get_precision(self._address)
        return precision

    def setDevice(self, device: str) -> None:
        """ "cpu", "cuda" (the first GPU) or "cuda:K"; a Context that is made refuses what is not there."""
        _forces.set_device(self._address, device)

    def getDevice(self) -> str:
        """ "cpu", "cuda" or "cuda:K"."""
        device: str = _forces.get_device(self._address)
        return device

    def setThreads(self, threads: int) -> None:
        """OpenMP threads; 0 for OpenMP's own number, fewer for a few atoms."""
        _forces.set_threads(self._address, threads)

    def getThreads(self) -> int:
        """OpenMP threads, 0 for OpenMP's own number."""
        threads: int = _forces.get_threads(self._address)
        return threads

    def setDeterministic(self, deterministic: bool) -> None:
        """Whether the same positions give the same bits whatever was computed before."""
        _forces.set_deterministic(self._address, deterministic)

    def getDeterministic(self) -> bool:
        """Whether the same positions give the same bits whatever was computed before."""
        deterministic: bool = _forces.get_deterministic(self._address)
        return deterministic

    def setUsesPeriodicBoundaryConditions(self, periodic: bool) -> None:
        """Periodic along all three box vectors of the Context, or along none."""
        _forces.set_periodic(self._address, periodic)

    def setScaleParameterName(self, name: str) -> None:
        """Name of the global parameter that multiplies energy and forces."""
        _forces.set_scale_parameter(self._address, name)

    def getScaleParameterName(self) -> str:
        """Name of the global parameter that multiplies energy and forces."""
        name: str = _forces.get_scale_parameter(self._address)
        return name

    def addEnergyParameterDerivative(self, name: str) -> None:
        """Ask for the derivative of the energy with respect to the scale; platforms Reference and CPU."""
        _forces.add_derivative(self._address, name)

    def getNumEnergyParameterDerivatives(self) -> int:
        """1 if the derivative was asked for, else 0."""
        count: int = _forces.get_derivatives(self._address)
        return count

    def getEnergyParameterDerivativeName(self, index: int) -> str:
        """The scale's name, if the derivative was asked for."""
        name: str = _forces.get_derivative_name(self._address, index)
        return name

    def updateParametersInContext(self, context: openmm.Context) -> None:
        """Bring model, precision, device, threads and atoms into a Context of a System that has this force.

        The Context keeps the bonds it was made with, and refuses another periodicity, name of the scale, or
        derivative; ``context.reinitialize()`` takes them. A force inside of a ``CustomCVForce`` needs it too.
        """
        if not isinstance(context, openmm.Context):
            raise TypeError(
                f"expected an openmm.Context, found {type(context).__name__}; that of a Simulation is "
                "simulation.context"
            )
        _forces.update_parameters(self._address, int(context.this))

    @property
    def _address(self) -> int:
        return int(self.this)


def _index(atom: object) -> int:
    # True and False are integers to Python: a mask would name atoms 0 and 1.
    if isinstance(atom, (bool, np.bool_)):
        raise DataError(
            "atoms must be indices, found True and False; a mask becomes indices with numpy.flatnonzero(mask)"
        )
    return operator.index(atom)  # type: ignore[arg-type]
