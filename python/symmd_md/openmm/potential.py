"""The potential "symmd" of openmmml, whose entry-point group ``openmmml.potentials`` leads here."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import openmm
import openmm.app
from openmmml.mlpotential import MLPotentialImpl, MLPotentialImplFactory


class SymmdPotential(MLPotentialImpl):
    """``MLPotential("symmd", modelPath="model.pt")``: each System that is made of it gets a ``SymmdForce``.

    ``precision``, ``device``, ``threads`` and ``deterministic`` of SymmdForce can be given to
    ``createSystem`` and ``createMixedSystem``.
    """

    def __init__(self, model_path: str | os.PathLike[str]) -> None:
        self.model_path = os.fspath(model_path)

    def addForces(
        self,
        topology: openmm.app.Topology,
        system: openmm.System,
        atoms: Iterable[int] | None,
        forceGroup: int,
        precision: str = "mixed",
        device: str = "cpu",
        threads: int = 0,
        deterministic: bool = False,
        **unknown: Any,
    ) -> None:
        """Called by openmmml with what the user gave it, of which the embedding has taken its own."""
        if unknown:
            raise TypeError(
                'the potential "symmd" knows precision, device, threads and deterministic, found '
                f"{', '.join(unknown)}; check the spelling"
            )
        # Only here: openmmml is imported also where SymmdForce cannot be loaded.
        from symmd_md.openmm.force import SymmdForce

        force = SymmdForce(
            self.model_path,
            topology,
            atoms,
            precision=precision,
            device=device,
            threads=threads,
            deterministic=deterministic,
            forceGroup=forceGroup,
        )
        system.addForce(force)

    def getMLLongRange(self) -> bool:
        """No interaction reaches farther than the network's cutoffs."""
        return False


class SymmdPotentialFactory(MLPotentialImplFactory):
    """What openmmml asks for the potential."""

    def createImpl(
        self, name: str, modelPath: str | os.PathLike[str] | None = None, **unknown: Any
    ) -> SymmdPotential:
        """``modelPath``: what ``symmd export`` wrote."""
        if modelPath is None:
            raise TypeError(f'MLPotential("{name}") needs modelPath="model.pt", what symmd export wrote')
        if unknown:
            raise TypeError(f'MLPotential("{name}") knows modelPath, found {", ".join(unknown)}')
        return SymmdPotential(modelPath)
