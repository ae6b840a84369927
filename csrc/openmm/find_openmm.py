"""Print what the build needs of the OpenMM that pip installed: its headers, its library, its version."""

import importlib.metadata
import importlib.util
import sys
from pathlib import Path


def main() -> None:
    """Three lines on stdout, or the reason why there are none on stderr."""
    spec = importlib.util.find_spec("openmm")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the package openmm is not installed")
    # Beside the package, not in it, since version 8.2 of the wheel.
    folder = Path(next(iter(spec.submodule_search_locations))).parent / "OpenMM.libs"
    headers, library = folder / "include", folder / "lib" / "libOpenMM.so"
    if not (headers / "openmm" / "internal" / "CustomCPPForceImpl.h").is_file():
        sys.exit(f"the package openmm has no headers in {headers}")
    if not library.is_file():
        sys.exit(f"the package openmm has no library {library}")
    print(headers, library, importlib.metadata.version("openmm"), sep="\n")


if __name__ == "__main__":
    main()
