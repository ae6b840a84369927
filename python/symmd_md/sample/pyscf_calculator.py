"""Hartree-Fock and density functional theory of molecules through pyscf, as an ASE calculator."""

from __future__ import annotations

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
        self.results = {
            "energy": float(energy) * units.Hartree,
            "forces": -slope * units.Hartree / units.Bohr,
        }

    def _solver(self) -> Any:
        from pyscf import dft, gto, scf

        structure: Any = self.atoms
        geometry = list(zip(structure.get_chemical_symbols(), structure.positions.tolist(), strict=True))
        try:
            molecule = gto.M(
                atom=geometry, unit="Angstrom", basis=self.basis, charge=self.charge,
                spin=self.multiplicity - 1, verbose=0,
            )  # fmt: skip
        except RuntimeError as error:
            raise InputError(
                f"charge {self.charge} and multiplicity {self.multiplicity} do not fit the electrons, or the "
                f"basis {self.basis!r} lacks an element ({' '.join(str(error).split())})"
            ) from None
        open_shell = self.multiplicity > 1
        if self.functional.lower() == HARTREE_FOCK:
            return scf.UHF(molecule) if open_shell else scf.RHF(molecule)
        solver = dft.UKS(molecule) if open_shell else dft.RKS(molecule)
        solver.xc = self.functional
        return solver
