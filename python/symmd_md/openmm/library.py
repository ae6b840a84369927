"""Loading the library with SymMD's forces, which fits one version of OpenMM."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from functools import cache
from pathlib import Path

import symmd_md

LIBRARY = "libsymmd_openmm.so"


def openmm_is_there() -> bool:
    """Whether ``import openmm`` would find something; nothing is imported."""
    return _is_there("openmm")


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def library_folder() -> Path | None:
    """The folder with the library, of C++ programs too; None where it was not built."""
    # An editable installation has the sources in one folder and what was compiled in another.
    for folder in symmd_md.__path__:
        if (Path(folder) / "openmm" / LIBRARY).is_file():
            return Path(folder) / "openmm"
    return None


@cache
def load_library() -> str:
    """Load the library into this process; empty, or the sentence that says why that cannot be."""
    folder = library_folder()
    if folder is None:
        return (
            "SymmdForce was not compiled, since openmm was not there when SymMD was installed; "
            "install SymMD again with: pip install 'symmd-md[openmm]'"
        )
    built_for = (folder / LIBRARY).with_suffix(".version").read_text(encoding="utf-8").strip()
    try:
        found = importlib.metadata.version("openmm")
    except importlib.metadata.PackageNotFoundError:  # not installed by pip or conda
        found = importlib.import_module("openmm").__version__
    if found != built_for:
        # TorchForce crashes with the OpenMM that SymmdForce needs: its environment is to be left as it is.
        where = "in an environment without openmmtorch, " if _is_there("openmmtorch") else ""
        return (
            f"SymmdForce was compiled for OpenMM {built_for}, found OpenMM {found}; "
            f"{where}install that one with: pip install openmm=={built_for}"
        )
    importlib.import_module("openmm")  # which loads OpenMM's own library
    importlib.import_module("symmd_md.openmm._forces")
    return ""


def require_library() -> None:
    """Raise ImportError with the reason where there is no library."""
    problem = load_library()
    if problem:
        raise ImportError(problem)
