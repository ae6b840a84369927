"""Where the PLUMED kernel is that ``fix symmd/plumed`` and ``PlumedForce`` load (docs/plumed.md)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

LIBRARY = "libplumedKernel.so"


def plumed_kernel() -> str | None:
    """What ``PLUMED_KERNEL`` names, else a kernel in the environment's folder lib, else None."""
    named = os.environ.get("PLUMED_KERNEL")
    if named:
        # Engines run in folders of their own; a bare name is one that the loader looks for.
        return os.path.abspath(named) if os.sep in named else named
    prefixes = (sys.prefix, os.environ.get("CONDA_PREFIX"), os.environ.get("VIRTUAL_ENV"))
    for prefix in prefixes:
        if prefix and (Path(prefix) / "lib" / LIBRARY).exists():
            return str(Path(prefix) / "lib" / LIBRARY)
    return None
