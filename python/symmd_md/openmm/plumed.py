"""PlumedForce: a bias of PLUMED as a force of OpenMM. Names of methods and units are in OpenMM's way."""

from __future__ import annotations

import atexit
import os
from pathlib import Path

from symmd_md.openmm.library import require_library

require_library()

import openmm  # noqa: E402
from openmm import unit  # noqa: E402

import symmd_md.openmm._forces as _forces  # noqa: E402
from symmd_md.errors import DataError  # noqa: E402

EMPTY = '<Force type="PlumedForce" version="1"/>'

# Files of simulations that live until Python ends, before the libraries of kernel and OpenMM are taken down.
atexit.register(_forces.plumed_close_all)


class PlumedForce(openmm.Force):
    """A bias of PLUMED for all particles of the System, on every platform of OpenMM.

    ``script``: lines of PLUMED's input, or the path of a file with them. ``kernel``: path of
    libplumedKernel.so; None takes what ``PLUMED_KERNEL`` names or the environment has. ``temperature``: for
    actions that need kT, K unless it has a unit. ``log``: file for PLUMED's log. ``restart``: go on with the
    files of an earlier process, as RESTART in the script does.

    The calculation begins with the first Context and belongs to this object: a Context that is made again,
    and any later one of the same System, goes on with its hills. ``copy.deepcopy(system)`` has one of its
    own.
    """

    def __init__(
        self,
        script: str | os.PathLike[str],
        kernel: str | os.PathLike[str] | None = None,
        temperature: float | unit.Quantity | None = None,
        *,
        log: str | os.PathLike[str] = "plumed.log",
        restart: bool = False,
        forceGroup: int = 0,
    ) -> None:
        self.this = openmm.XmlSerializer.deserialize(EMPTY).this
        _forces.plumed_set_script(self._address, _text(script))
        _forces.plumed_set_kernel(self._address, "" if kernel is None else os.fspath(kernel))
        if temperature is not None:
            kelvin = temperature
            if isinstance(temperature, unit.Quantity):
                kelvin = temperature.value_in_unit(unit.kelvin)
            _forces.plumed_set_temperature(self._address, float(kelvin))
        _forces.plumed_set_log_file(self._address, os.fspath(log))
        _forces.plumed_set_restart(self._address, restart)
        self.setForceGroup(forceGroup)

    @staticmethod
    def wrap(force: openmm.Force) -> PlumedForce:
        """The same object with these methods: ``system.getForce(k)`` returns a plain ``openmm.Force``."""
        if not isinstance(force, openmm.Force):
            raise DataError(f"expected a PlumedForce, found {type(force).__name__}; give system.getForce(k)")
        if not _forces.is_plumed(int(force.this)):
            raise DataError(f"expected a PlumedForce, found the force named {force.getName()!r}")
        force.__class__ = PlumedForce
        wrapped: PlumedForce = force
        return wrapped

    def getScript(self) -> str:
        """Lines of PLUMED's input."""
        script: str = _forces.plumed_get_script(self._address)
        return script

    def getKernel(self) -> str:
        """Path of the kernel that was given; empty for the one that is found."""
        path: str = _forces.plumed_get_kernel(self._address)
        return path

    def getTemperature(self) -> unit.Quantity | None:
        """Temperature that PLUMED is told; None if it is told none."""
        kelvin: float = _forces.plumed_get_temperature(self._address)
        return kelvin * unit.kelvin if kelvin > 0 else None

    def getLogFile(self) -> str:
        """File for PLUMED's log."""
        path: str = _forces.plumed_get_log_file(self._address)
        return path

    def getRestart(self) -> bool:
        """Whether the calculation goes on with files of an earlier process."""
        restart: bool = _forces.plumed_get_restart(self._address)
        return restart

    def close(self) -> None:
        """End the calculation, so that PLUMED's files are complete. A Context cannot use the force after it.

        Happens by itself when the System and its Contexts are destroyed, and when Python ends.
        """
        _forces.plumed_close(self._address)

    @property
    def _address(self) -> int:
        return int(self.this)


def _text(script: str | os.PathLike[str]) -> str:
    # One word is no line of PLUMED's language, and names of files may have blanks.
    if isinstance(script, str) and len(script.split()) != 1 and not os.path.isfile(script):
        return script
    try:
        return Path(script).read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"expected lines of PLUMED's input or a file with them, found {os.fspath(script)!r}, which "
            f"cannot be read: {error.strerror}"
        ) from None
