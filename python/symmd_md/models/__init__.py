"""The models that ship with SymMD: a name such as ``ala2`` stands wherever the path of a model file does."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import symmd_md
from symmd_md.errors import ModelFileError

SUFFIX = ".pt"
CARDS = "docs/models"
"""Folder of the project that has a page for each model."""


@dataclass(frozen=True)
class ShippedModel:
    """What the header of a shipped model says; errors on structures that no training saw."""

    name: str
    path: Path
    size: int
    """Bytes."""
    elements: tuple[str, ...]
    cutoff: float
    """Å."""
    title: str
    method: str
    """Of the labels."""
    errors: dict[str, dict[str, float]]
    """Set of held-out structures → quantity with its unit → value."""
    limits: str
    card: str
    """Page of the project about it."""


def shipped_names() -> list[str]:
    """Names of the models that ship, in alphabetical order."""
    return sorted(_files())


def model_path(name_or_path: str | os.PathLike[str]) -> Path:
    """The file behind a path or the name of a shipped model.

    An existing file wins over a name. Anything else that looks like a path comes back as it is, for the
    reader to say what is wrong with it; a bare word that nothing answers to is an error with the names.
    """
    path = Path(name_or_path)
    name = os.fspath(name_or_path)
    if path.is_file():
        return path
    files = _files()
    if name in files:
        return files[name]
    if path.exists() or path.suffix or len(path.parts) != 1:
        return path
    raise ModelFileError(
        f"{name}: expected a model file or the name of a model that ships, found neither; {names_sentence()}"
    )


def names_sentence() -> str:
    """Which names there are, for messages."""
    names = shipped_names()
    return "what ships: " + ", ".join(names) if names else "no model ships with this installation"


def shipped_model(name: str) -> ShippedModel:
    """What is known about a shipped model."""
    files = _files()
    if name not in files:
        raise ModelFileError(
            f"{name}: expected the name of a model that ships, found none; {names_sentence()}"
        )
    from symmd_md._engine import model_file_summary

    path = files[name]
    header: dict[str, Any] = model_file_summary(path)["header"]
    card: dict[str, Any] = header["provenance"]["card"]
    return ShippedModel(
        name=name,
        path=path,
        size=path.stat().st_size,
        elements=tuple(header["species"]),
        cutoff=header["cutoff"],
        title=card["title"],
        method=card["method"],
        errors=card["errors"],
        limits=card["limits"],
        card=f"{CARDS}/{name}.md",
    )


def _files() -> dict[str, Path]:
    # An editable installation has the sources in one folder and what was compiled in another.
    folders = [Path(folder) / "models" for folder in symmd_md.__path__]
    return {file.stem: file for folder in reversed(folders) for file in folder.glob(f"*{SUFFIX}")}
