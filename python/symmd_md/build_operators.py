"""Build the torch operators for the torch that this Python has: ``python -m symmd_md.build_operators``.

For an installation that was made without torch, or for another torch. Only the operators are compiled; the
engine and its kernels lie compiled in the package. Needs a C++20 compiler, and CMake (``pip install cmake``).
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import symmd_md
from symmd_md.errors import ConfigurationError, SymmdError
from symmd_md.files import replaced_on_success
from symmd_md.operators import BUILD_COMMAND, LIBRARY
from symmd_md.programs import program

ENGINE = Path("csrc") / "libsymmd_engine.a"
JOBS = 2
"""Sources compiled at once: each takes about a gigabyte of memory."""


def build(package: Path | None = None) -> Path:
    """Build the library and put it into the folder ``package`` of an installed SymMD; its path."""
    if importlib.util.find_spec("torch") is None:
        raise ConfigurationError(
            f"the operators need the Python package 'torch', which {sys.executable} does not have; install "
            "it, then build them again"
        )
    package = package or _installed_package()
    cmake = program("cmake")
    if cmake is None:
        raise ConfigurationError("building the operators needs cmake, which was not found; pip install cmake")
    with tempfile.TemporaryDirectory(prefix="symmd_operators_") as folder:
        configure = [
            cmake, "-S", str(package / "csrc" / "torch"), "-B", folder,
            f"-DPython_EXECUTABLE={sys.executable}", f"-DSYMMD_ENGINE={package / ENGINE}",
        ]  # fmt: skip
        ninja = program("ninja")
        if ninja is not None:
            configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        _run(configure)
        _run([cmake, "--build", folder, "--parallel", str(JOBS)])
        target = package / LIBRARY
        # A program that has the old library open keeps it.
        with replaced_on_success(target) as new:
            shutil.copyfile(Path(folder) / LIBRARY, new)
    _run([sys.executable, "-c", "from symmd_md import operators; operators.require()"])
    return target


def _installed_package() -> Path:
    for folder in symmd_md.__path__:
        if (Path(folder) / ENGINE).is_file():
            return Path(folder)
    raise ConfigurationError(
        f"expected {ENGINE} in the installed package symmd_md, found it in none of "
        f"{', '.join(symmd_md.__path__)}; install SymMD again from its sources with: pip install ."
    )


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        print(done.stdout, file=sys.stderr)
        raise ConfigurationError(
            f"the operators could not be built: {Path(command[0]).name} ended with status {done.returncode}; "
            f"its messages are above, correct their cause and repeat {BUILD_COMMAND}"
        )


if __name__ == "__main__":
    try:
        print(f"built {build()}")
    except SymmdError as error:
        sys.exit(str(error))
