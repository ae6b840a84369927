"""OpenMM: SymMD's forces and what makes a simulation of them (docs/openmm.md).

Importing this package loads the library that OpenMM needs to read a ``SymmdForce`` from XML, pickle or a
copy. Where it cannot be loaded, whatever needs it says why.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from symmd_md.openmm.library import load_library, openmm_is_there

if TYPE_CHECKING:
    from symmd_md.openmm.force import SymmdForce
    from symmd_md.openmm.plumed import PlumedForce
    from symmd_md.openmm.structure import Simulated, system_from
    from symmd_md.openmm.torchforce import torch_force

if not openmm_is_there():
    raise ModuleNotFoundError(
        "symmd_md.openmm needs the Python package 'openmm', which is not installed; "
        "install it with: pip install 'symmd-md[openmm]'",
        name="openmm",
    )

_MODULES = {
    "PlumedForce": "plumed",
    "Simulated": "structure",
    "SymmdForce": "force",
    "system_from": "structure",
    "torch_force": "torchforce",
}
"""In which module of this package each name lies."""

__all__ = ["PlumedForce", "Simulated", "SymmdForce", "system_from", "torch_force"]

# Not raised here: TorchForce and the entry point of openmmml do without the library.
load_library()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
