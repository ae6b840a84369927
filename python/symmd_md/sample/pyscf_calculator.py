"""Hartree-Fock and density functional theory of molecules through pyscf, as an ASE calculator."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

from ase import units
from ase.calculators.calculator import CalculationFailed, Calculator, InputError, all_changes

HARTREE_FOCK = "hf"


class PyscfCalculator(Calculator):  # type: ignore[misc]
    """Energy (eV) and forces (eV/Å) of a molecule; a self-consistency that does not converge is an error."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, functional: str, basis: str, charge: int = 0, multiplicity: int = 1) -> None:
        """Functional and basis as pyscf names them (``HF`` is Hartree-Fock), charge (e) and 2S + 1."""
        super().__init__()
        self.functional = functional.strip()
        self.basis = basis.strip()
        self.charge = charge
        self.multiplicity = multiplicity
        self.provenance: dict[str, str] = {}
        """What the notes of the last structure have to say beyond the method."""

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        """Converge the wave function at these positions, from a new guess each time."""
        super().calculate(atoms, properties, system_changes)
        structure: Any = self.atoms
        if structure.pbc.any():
            raise InputError(
                "pyscf labels molecules alone, and this structure is periodic; label it with another method"
            )
        solver = self._solver()
        energy = solver.kernel()
        if not solver.converged:
            raise CalculationFailed(f"the self-consistency did not converge in {solver.max_cycle} cycles")
        gradient = solver.nuc_grad_method()
        if hasattr(gradient, "grid_response"):
            # Without it the forces of DFT are not the derivative of the energy on a grid of finite density.
            gradient.grid_response = True
        slope = gradient.kernel()
        self.provenance = _named(solver.mol)
        self.results = {
            "energy": float(energy) * units.Hartree,
            "forces": -slope * units.Hartree / units.Bohr,
        }

    def _solver(self) -> Any:
        from pyscf import dft, gto, scf
        from pyscf.lib.exceptions import BasisNotFoundError

        structure: Any = self.atoms
        symbols = structure.get_chemical_symbols()
        geometry = list(zip(symbols, structure.positions.tolist(), strict=True))
        potentials = {symbol: found for symbol in sorted(set(symbols)) if (found := self._potential(symbol))}
        try:
            molecule = gto.M(
                atom=geometry, unit="Angstrom", basis=self.basis, ecp=potentials, charge=self.charge,
                spin=self.multiplicity - 1, verbose=0,
            )  # fmt: skip
        except BasisNotFoundError as error:
            raise InputError(
                f"pyscf has no basis {self.basis!r} for an element of {structure.get_chemical_formula()} "
                f"({' '.join(str(error).split())}); see the names that it knows"
            ) from None
        except RuntimeError as error:
            raise InputError(
                f"charge {self.charge} and multiplicity {self.multiplicity} do not fit the electrons "
                f"({' '.join(str(error).split())})"
            ) from None
        self._check_core(molecule)
        open_shell = self.multiplicity > 1
        if self.functional.lower() == HARTREE_FOCK:
            return scf.UHF(molecule) if open_shell else scf.RHF(molecule)
        solver = dft.UKS(molecule) if open_shell else dft.RKS(molecule)
        solver.xc = self.functional
        return solver

    def _potential(self, symbol: str) -> Any:
        """The effective core potential that the basis is made for; empty where it has all electrons.

        pyscf itself gives none unless asked, and then computes 54 electrons in a basis for 26 of them.
        """
        from pyscf import gto

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return gto.basis.load_ecp(self.basis, symbol)
            except Exception:  # whatever its readers raise for families that have no such file
                return []

    def _check_core(self, molecule: Any) -> None:
        """Refuse a basis of the valence alone on an element that no potential was found for."""
        from pyscf.data import elements

        for symbol, shells in sorted(molecule._basis.items()):
            if symbol in molecule._ecp:
                continue
            number = elements.charge(symbol)
            contracted, steepest = _functions(shells)
            occupied = [
                math.ceil(count / (4 * momentum + 2))
                for momentum, count in enumerate(elements.CONFIGURATION[number])
            ]
            enough = all(contracted.get(momentum, 0) >= count for momentum, count in enumerate(occupied))
            # The 1s orbital falls as exp(−Zr): even three Gaussians for it reach 2 Z².
            if not (enough and steepest >= number**2):
                raise InputError(
                    f"the basis {self.basis!r} has no functions for the core of {symbol}, and pyscf knows no "
                    "core potential of that name; choose a basis for all electrons or one with its "
                    "potential, such as def2-SVP"
                )


def _functions(shells: Sequence[Any]) -> tuple[dict[int, int], float]:
    """Contracted functions by angular momentum, and the largest exponent (1/bohr²) of s functions."""
    contracted: dict[int, int] = {}
    steepest = 0.0
    for shell in shells:
        rows = [row for row in shell[1:] if not isinstance(row, int)]
        contracted[shell[0]] = contracted.get(shell[0], 0) + len(rows[0]) - 1
        if shell[0] == 0:
            steepest = max(steepest, *(row[0] for row in rows))
    return contracted, steepest


def _named(molecule: Any) -> dict[str, str]:
    """The note of the core potentials: elements and how many electrons each stands for."""
    if not molecule._ecp:
        return {}
    found = sorted((symbol, potential[0]) for symbol, potential in molecule._ecp.items())
    return {"core_potential": ", ".join(f"{symbol} {count} electrons" for symbol, count in found)}
