"""The names under which files keep their labels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LabelKeys:
    """Names of the labels in extended XYZ and in ASE's ``info``, ``arrays`` and calculator results."""

    energy: str = "energy"
    forces: str = "forces"
    stress: str = "stress"
