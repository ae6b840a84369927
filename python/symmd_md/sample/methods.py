"""Reference methods by name: tight binding (tblite), Hartree-Fock and DFT (pyscf), or any ASE calculator."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from typing import Any

from symmd_md.errors import ConfigurationError

XTB_METHODS = {name.lower(): name for name in ("GFN2-xTB", "GFN1-xTB", "IPEA1-xTB")}
XTB_ACCURACY = 0.1
"""Tightness of the self-consistency; 1 is tblite's default, whose forces carry noise of 0.3 meV/Å."""
INSTALL = "pip install 'symmd-md[label]'"


@dataclass(frozen=True)
class Method:
    """How energies and forces are computed; plain data, so that it can be sent to another process."""

    name: str
    """``GFN2-xTB`` and its like, ``FUNCTIONAL/BASIS`` (``HF/BASIS`` too), or ``module:callable``."""
    charge: int = 0
    """Total charge (e)."""
    multiplicity: int = 1
    """2S + 1."""

    def __post_init__(self) -> None:
        if self.multiplicity < 1:
            raise ConfigurationError(f"the multiplicity 2S + 1 must be at least 1; found {self.multiplicity}")
        name = XTB_METHODS.get(self.name.lower(), self.name)
        object.__setattr__(self, "name", name)
        if self.package == "" and self._parts(":") is None:
            known = ", ".join(XTB_METHODS.values())
            raise ConfigurationError(
                f"the method must be {known}, FUNCTIONAL/BASIS such as PBE/def2-SVP, or module:callable for "
                f"any ASE calculator; found {self.name!r}"
            )

    @property
    def package(self) -> str:
        """The package that does the work; empty for an ASE calculator of the user's own."""
        if self.name in XTB_METHODS.values():
            return "tblite"
        return "pyscf" if self._parts("/") is not None else ""

    def _parts(self, separator: str) -> tuple[str, str] | None:
        left, found, right = self.name.partition(separator)
        return (left, right) if found and left.strip() and right.strip() else None

    def require(self) -> None:
        """Refuse with the command to install where the method's package is absent."""
        if self.package and importlib.util.find_spec(self.package) is None:
            raise ConfigurationError(
                f"the method {self.name} needs the package {self.package}, which is not installed; install "
                f"it with: {INSTALL}"
            )
        if not self.package:
            self._callable()
            if (self.charge, self.multiplicity) != (0, 1):
                raise ConfigurationError(
                    f"charge and multiplicity are unknown to a calculator of your own ({self.name}); set "
                    "them inside the callable and leave them at 0 and 1 here"
                )

    def _callable(self) -> Any:
        parts = self._parts(":")
        assert parts is not None
        module, name = parts
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ConfigurationError(
                f"the calculator {self.name} cannot be imported ({error}); give module:callable, where the "
                "module is on PYTHONPATH"
            ) from None

    def calculator(self) -> Any:
        """A new ASE calculator (eV, Å) of this method."""
        if self.package == "tblite":
            from tblite.ase import TBLite

            return TBLite(
                method=self.name, charge=self.charge, multiplicity=self.multiplicity, accuracy=XTB_ACCURACY,
                verbosity=0,
            )  # fmt: skip
        if self.package == "pyscf":
            from symmd_md.sample.pyscf_calculator import PyscfCalculator

            functional, basis = self.name.split("/", 1)
            return PyscfCalculator(functional, basis, self.charge, self.multiplicity)
        return self._callable()()

    def provenance(self) -> dict[str, str | int]:
        """What every frame keeps: method, program and version, charge and multiplicity if set here."""
        package = self.package or self.name.partition(":")[0].partition(".")[0]
        try:
            program = f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            program = package
        found: dict[str, str | int] = {"method": self.name, "program": program}
        if self.package == "tblite":
            found["accuracy"] = str(XTB_ACCURACY)
        if self.package:
            # A calculator of the user's own has its own, which nobody here knows.
            found |= {"charge": self.charge, "multiplicity": self.multiplicity}
        return found
