"""The ASE calculator over the compiled engine. Units are ASE's own: eV, Å, eV/Å, eV/Å³."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    from ase import Atoms
    from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "ase":
        raise
    raise ModuleNotFoundError(
        "SymmdCalculator needs the Python package 'ase', which is not installed; "
        "install it with: pip install ase",
        name="ase",
    ) from None

from symmd_md._engine import Engine
from symmd_md.errors import ModelFileError
from symmd_md.models import model_path

DERIVATIVES = {"forces", "stress"}
VOIGT = ((0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1))
"""Rows and columns of xx, yy, zz, yz, xz, xy."""


class SymmdCalculator(Calculator):
    """Energies, forces and stress of a model file, for everything that ASE does with a calculator.

    ``path``: what ``symmd export`` wrote, ``model.pt`` or a bare ``.safetensors``, or the name of a model
    that ships, such as ``"ala2"`` (``symmd models``). ``precision``: "float32" (coordinates, their
    differences and sums of energies are fp64 even so) or "float64". ``device``: "cpu",
    "cuda" (the first GPU) or "cuda:K". ``threads``: OpenMP
    threads, 0 for OpenMP's own number, fewer for a few atoms. ``skin``: Å by which the neighbour list is
    longer than the cutoff, so that it serves many steps. Other keywords are those of ASE's ``Calculator``.

    Stress is (1/V) dE/dε of the cell as it is, whatever its periodicity, as ASE's own EMT has it; without
    three independent cell vectors there is no volume, and asking for stress is a
    ``PropertyNotImplementedError``. A copy, or what another process receives, reads ``path`` again.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012
    discard_results_on_any_change = True
    ignored_changes = {"initial_charges", "initial_magmoms"}  # noqa: RUF012

    def __init__(
        self,
        path: str | os.PathLike[str],
        precision: str = "float32",
        threads: int = 0,
        skin: float = 1.0,
        device: str = "cpu",
        **settings: Any,
    ) -> None:
        parameters = {"precision": precision, "threads": threads, "skin": skin, "device": device}
        super().__init__(path=os.fspath(path), **parameters, **settings)

    def set(self, **settings: Any) -> dict[str, Any]:
        """Change ``path``, ``precision``, ``threads``, ``skin`` or ``device``; returns what was changed."""
        known = ("path", "precision", "threads", "skin", "device")
        for name in settings:
            if name not in known:
                raise TypeError(f"SymmdCalculator has the parameters {', '.join(known)}; found {name!r}")
        before = dict(self.parameters)
        changed: dict[str, Any] = super().set(**settings)
        if changed:
            try:
                self.engine = self._load()
            except Exception:
                self.parameters.clear()
                self.parameters.update(before)
                raise
        return changed

    def _load(self) -> Engine:
        return Engine(**{**self.parameters, "path": model_path(self.parameters["path"])})

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Compute ``properties`` of ``atoms`` into ``results``; derivatives only if one is asked for."""
        super().calculate(atoms, list(properties), system_changes)
        if system_changes:
            self.results = {}
        structure: Any = self.atoms
        volume = abs(float(np.linalg.det(structure.cell.array)))
        has_volume = structure.cell.rank == 3
        if "stress" in properties and not has_volume:
            raise PropertyNotImplementedError(
                f"stress needs a volume, found the cell {structure.cell.array.tolist()}; give the atoms a "
                "cell of three independent vectors or ask for energy and forces alone"
            )
        derivatives = not DERIVATIVES.isdisjoint(properties)
        found = self.engine.compute(
            self.engine.species_of(structure.numbers),
            structure.positions,
            structure.cell.array,
            structure.pbc,
            forces=derivatives,
            # Costs nothing beside the forces, and dynamics of the cell ask for both, one after the other.
            virial=derivatives and has_volume,
        )
        self.results |= {
            "energy": found["energy"],
            "free_energy": found["energy"],
            "energies": found["atom_energy"],
        }
        if derivatives:
            self.results["forces"] = found["forces"]
        if derivatives and has_volume:
            stress: NDArray[np.float64] = -found["virial"] / volume
            self.results["stress"] = stress[VOIGT]

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"sha256": self.engine.model["sha256"]}
        del state["engine"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        expected = state.pop("sha256")
        self.__dict__.update(state)
        self.engine = self._load()
        found = self.engine.model["sha256"]
        if found != expected:
            raise ModelFileError(
                f"expected {self.parameters['path']} to hold the model with SHA-256 {expected[:12]}…, found "
                f"{found[:12]}…; keep the file while calculators are copied"
            )
