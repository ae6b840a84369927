"""What other programs leave of a free energy: COLVARS (LAMMPS, NAMD, GROMACS), OpenMM's app.Metadynamics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from symmd_md.errors import ConfigurationError, DataError
from symmd_md.free_energy.grid import Axis, Surface
from symmd_md.free_energy.hills import PLAIN, Hills
from symmd_md.free_energy.tables import FloatArray, parse_number

Period = tuple[float, float]


def read_colvars_hills(
    path: Path,
    names: Sequence[str],
    periods: Mapping[str, Period],
    bias_factor: float,
    unit: float = 1.0,
) -> Hills:
    """Read ``*.hills.traj`` (writeHillsTrajectory): rows of step, centres, widths, weight, without a header.

    ``bias_factor``: γ = (T + ΔT)/T with COLVARS' biasTemperature ΔT, infinite without wellTempered; ``unit``:
    kJ/mol in the run's unit of energy. COLVARS writes weights as deposited; here they are times γ/(γ−1).
    """
    columns = 2 * len(names) + 2
    rows = _rows(path, columns, f"step, {', '.join(names)}, their widths and a weight")
    count = len(names)
    widths = np.zeros((len(rows), count, count))
    for i in range(count):
        widths[:, i, i] = rows[:, 1 + count + i]
    if not (rows[:, 1 + count : 1 + 2 * count] > 0).all():
        raise DataError(f"{path}: expected widths above 0; are there {count} variables ({', '.join(names)})?")
    hills = Hills(
        tuple(names),
        tuple(periods.get(name) for name in names),
        rows[:, 0],
        rows[:, 1 : 1 + count],
        widths,
        rows[:, -1] * unit,
        bias_factor,
        PLAIN,
    )
    return Hills(**{**hills.__dict__, "heights": hills.heights / hills.bias_scale})


def is_colvars_grid(path: Path) -> bool:
    """Whether a file begins as COLVARS' grids do (``*.pmf``): ``# `` and the number of variables."""
    with Path(path).open(encoding="utf-8", errors="replace") as stream:
        words = stream.readline().split()
    return len(words) == 2 and words[0] == "#" and words[1].isdigit()


def read_colvars_grid(path: Path, names: Sequence[str] | None, unit: float = 1.0) -> Surface:
    """Read a free energy of COLVARS (``*.pmf``, writeFreeEnergyFile), whose points are centres of bins.

    The file does not name its variables; absent, they are xi1, xi2, … ``unit``: kJ/mol in the run's unit.
    """
    with Path(path).open(encoding="utf-8", errors="replace") as stream:
        header = [stream.readline().split() for _ in range(int(stream.readline().split()[1]))]
    names = names or [f"xi{i}" for i in range(1, len(header) + 1)]
    if len(names) != len(header):
        raise ConfigurationError(
            f"{path} has {len(header)} variables; name as many with --cv, found {len(names)}"
        )
    axes = []
    for line, (name, words) in enumerate(zip(names, header, strict=True), 2):
        if len(words) != 5 or words[0] != "#":
            raise DataError(f"{path}, line {line}: expected '# lower width points periodic', found {words}")
        where = f"{path}, line {line}"
        low, width = parse_number(words[1], where), parse_number(words[2], where)
        count, periodic = int(parse_number(words[3], where)), words[4] == "1"
        first = low + 0.5 * width
        axes.append(Axis(name, first, first + width * (count if periodic else count - 1), count, periodic))
    rows = _rows(path, len(axes) + 1, "the variables and a free energy")
    points = math.prod(axis.count for axis in axes)
    if len(rows) != points:
        raise DataError(f"{path}: expected {points} rows as its header says, found {len(rows)}; was it cut?")
    return Surface(tuple(axes), rows[:, -1].reshape(tuple(axis.count for axis in axes)) * unit)


def read_openmm_bias(path: Path, axes: Sequence[Axis], bias_factor: float) -> Surface:
    """The free energy −γ/(γ−1) V (kJ/mol) of the files that app.Metadynamics leaves in its ``biasDir``.

    ``path``: one ``bias_ID_INDEX.npy`` or the folder, of which the newest file of every process counts.
    ``axes``: minimum, maximum and periodicity of its BiasVariables, in their order; the file has the points.
    """
    newest: dict[str, tuple[int, Path]] = {}
    for file in [path] if path.is_file() else sorted(path.glob("bias_*.npy")):
        parts = file.stem.split("_")
        index = int(parts[-1]) if parts[-1].isdigit() else 0
        process = "_".join(parts[:-1])
        if process not in newest or index > newest[process][0]:
            newest[process] = (index, file)
    if not newest:
        raise DataError(f"{path}: expected files bias_ID_INDEX.npy of OpenMM's app.Metadynamics, found none")
    bias: FloatArray | None = None
    for _, file in newest.values():
        part = _array(file)
        if part.ndim != len(axes) or (bias is not None and part.shape != bias.shape):
            raise DataError(
                f"{file}: expected an array with {len(axes)} axes"
                f"{'' if bias is None else f' of shape {bias.shape}'}, found shape {part.shape}"
            )
        bias = part if bias is None else bias + part
    assert bias is not None
    scale = 1.0 if math.isinf(bias_factor) else bias_factor / (bias_factor - 1.0)
    return openmm_surface(-scale * bias, axes)


def read_openmm_free_energy(path: Path, axes: Sequence[Axis]) -> Surface:
    """An array of ``Metadynamics.getFreeEnergy()``, saved in kJ/mol by ``numpy.save``."""
    return openmm_surface(_array(path), axes)


def openmm_surface(values: FloatArray, axes: Sequence[Axis]) -> Surface:
    """An array of OpenMM (last variable first, both ends of a period present) as a surface; kJ/mol."""
    if values.ndim != len(axes):
        raise DataError(f"expected an array with {len(axes)} axes, found shape {values.shape}")
    values = values.transpose()
    result = []
    for position, axis in enumerate(axes):
        count = values.shape[position]
        if axis.periodic:
            count -= 1  # the last point is the first
            values = np.take(values, np.arange(count), axis=position)
        result.append(Axis(axis.name, axis.minimum, axis.maximum, count, axis.periodic))
    return Surface(tuple(result), values)


def _array(path: Path) -> FloatArray:
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path}: expected an array that numpy.save wrote, found none: {error}") from None
    if not np.issubdtype(values.dtype, np.number) or not np.isfinite(values).all():
        raise DataError(
            f"{path}: expected finite numbers, found {values.dtype} or values that are not finite"
        )
    return np.asarray(values, dtype=np.float64)


def _rows(path: Path, columns: int, what: str) -> FloatArray:
    """[rows, columns] of a file of numbers with comments in lines of their own."""
    if not Path(path).is_file():
        raise DataError(f"{path}: expected a file of COLVARS, found none; check the path")
    rows = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != columns:
            raise DataError(f"{path}, line {number}: expected {columns} values ({what}), found {len(words)}")
        rows.append([parse_number(word, f"{path}, line {number}") for word in words])
    if not rows:
        raise DataError(f"{path}: expected rows of {what}, found none; has the run begun?")
    return np.array(rows)
