"""The exported model in TorchForce, the force of the package openmmtorch (docs/torchforce.md).

Units nm, kJ/mol. Needs no compiled part of SymMD's but its operator library, and none for a portable model.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symmd_md import operators
from symmd_md.errors import ConfigurationError, DataError, EngineError, ModelFileError
from symmd_md.models import model_path

if TYPE_CHECKING:
    from openmm.app import Topology
    from openmmtorch import TorchForce

INSTALL_COMMAND = "pip install torch==2.9.1 openmm==8.5.2 openmmtorch==1.5"
PRECISIONS = {"single": "float32", "mixed": "float32", "double": "float64"}
"""OpenMM's names. To the engine single and mixed are one: fp32, with coordinates and energies in fp64."""
METHODS = ("set_atoms", "use_units", "compute")
APART = 100.0
"""nm between atoms that shall not meet."""


def torch_force(
    path: str | os.PathLike[str],
    topology: Topology | Sequence[int],
    *,
    periodic: bool | None = None,
    forces: bool = True,
    precision: str | None = None,
    threads: int = 0,
    scaleParameter: str | None = None,
    forceGroup: int = 0,
) -> TorchForce:
    """A force for all particles of a System: ``system.addForce(torch_force("model.pt", topology))``.

    ``path``: ``model.pt`` or ``model_portable.pt`` of ``symmd export``, or the name of a model that ships.
    ``topology``: OpenMM's, or the atomic numbers of the particles. ``periodic``: without a word on it,
    whether the topology has a box; atomic numbers alone have none. ``forces``: the model gives energy and
    forces at once; with False, TorchForce takes forces from the gradient of the energy. ``precision``:
    "single" and "mixed" (the default) or "double"; a portable model has its own. ``threads``: of the engine,
    0 for as many as torch uses. ``scaleParameter``: name of a global parameter, 1 by default, that multiplies
    energy and forces.
    """
    prepare()
    import torch
    from openmmtorch import TorchForce

    from symmd_md.openmm.torchforce_module import force_module

    if precision is not None and precision not in PRECISIONS:
        raise ConfigurationError(f"precision must be one of {', '.join(PRECISIONS)}; found {precision!r}")
    if not 0 <= threads <= 1024:
        raise ConfigurationError(f"threads must lie between 0 (torch's number) and 1024, found {threads}")
    numbers = torch.tensor(_atomic_numbers(topology), dtype=torch.int64)
    if len(numbers) == 0:
        raise DataError("expected the topology of a System with particles, found no atom in it")
    if periodic is None:
        periodic = hasattr(topology, "getPeriodicBoxVectors") and topology.getPeriodicBoxVectors() is not None
    file = model_path(path)
    potential = _loaded(file)
    if precision is not None and not hasattr(potential, "use_precision"):
        raise ConfigurationError(
            f"{file} is a portable model, which computes in the precision of its weights; found precision "
            f"{precision!r}, leave it out"
        )
    _try_elements(potential, file, numbers)
    module = force_module(
        potential,
        numbers,
        PRECISIONS[precision or "mixed"],
        threads,
        periodic,
        forces,
        scaleParameter is not None,
    )
    force = TorchForce(module)
    force.setUsesPeriodicBoundaryConditions(periodic)
    force.setOutputsForces(forces)
    force.setForceGroup(forceGroup)
    if scaleParameter is not None:
        force.addGlobalParameter(scaleParameter, 1.0)
    return force


def prepare() -> None:
    """Import torch and openmmtorch in the order they need, and load SymMD's operators where they are built.

    ``torch_force`` does it; a program that reads a System with such a force from XML does it before.
    """
    for name in ("torch", "openmm", "openmmtorch"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"torch_force needs the Python package {error.name!r}, which is not installed; install what "
                f"it needs, in an environment of its own, with: {INSTALL_COMMAND}",
                name=error.name,
            ) from None
        except ImportError as error:
            raise ImportError(
                f"the installed {name} does not load ({error}); install versions that fit each other, in an "
                f"environment of their own, with: {INSTALL_COMMAND}",
                name=name,
            ) from None
    _load_missed_plugins()
    operators.reason_not_loaded()


@functools.cache
def _load_missed_plugins() -> None:
    """Load TorchForce's parts for OpenMM's platforms that failed when openmm was imported before torch."""
    import openmm

    count = openmm.Platform.getNumPlatforms()
    # For a platform that this machine does not have, loading would fail once more.
    parts = [f"OpenMMTorch{openmm.Platform.getPlatform(index).getName()}." for index in range(count)]
    for failure in openmm.Platform.getPluginLoadFailures():
        for part in parts:
            found = re.search(rf"\S*{re.escape(part)}[^\s:]+", failure)
            if found is not None:
                openmm.Platform.loadPluginLibrary(found.group())


def _atomic_numbers(topology: Any) -> list[int]:
    if not hasattr(topology, "atoms"):
        return [int(number) for number in topology]
    numbers = []
    for atom in topology.atoms():
        if atom.element is None:
            raise DataError(
                f"expected an element for every atom of the topology, found none for atom {atom.index + 1} "
                f"({atom.name}); TorchForce acts on all particles, so the System can have no virtual sites"
            )
        numbers.append(int(atom.element.atomic_number))
    return numbers


def _loaded(path: Path) -> Any:
    import torch

    if not path.is_file():
        raise ModelFileError(f"{path}: expected a model file, found nothing; check the path")
    try:
        module = torch.jit.load(path, map_location="cpu")
    except (RuntimeError, ValueError) as error:
        reason = operators.reason_not_loaded()
        if reason is not None and "symmd::" in str(error):
            raise ConfigurationError(reason) from None
        raise ModelFileError(
            f"{path}: expected the TorchScript archive model.pt of symmd export, in which torch "
            f"{torch.__version__} found {_sentence(error)!r}; export the model again with: symmd export "
            "CHECKPOINT -o model.pt"
        ) from None
    if not all(hasattr(module, method) for method in METHODS):
        raise ModelFileError(
            f"{path}: expected an archive that symmd export wrote, found TorchScript without the method "
            f"{next(method for method in METHODS if not hasattr(module, method))}; name model.pt, or "
            "model_portable.pt"
        )
    return module


def _try_elements(potential: Any, path: Path, numbers: Any) -> None:
    """What the model cannot compute at all is refused here, and not by the first step of a simulation."""
    import torch

    elements = torch.unique(numbers)
    positions = torch.zeros(len(elements), 3, dtype=torch.float64)
    positions[:, 0] = APART * torch.arange(len(elements))
    try:
        potential.compute(elements, positions)
    except (RuntimeError, torch.jit.Error) as error:
        raise EngineError(f"{path}: {_sentence(error)}") from None


def _sentence(error: Exception) -> str:
    """The message of an error that went through TorchScript, which puts its own lines around it."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if line.startswith(("RuntimeError: ", "builtins.RuntimeError: "))]
    text = said[-1].partition(": ")[2] if said else (lines[0] if lines else type(error).__name__)
    return text.strip()
